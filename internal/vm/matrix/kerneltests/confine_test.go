//go:build guest

package kerneltests

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/latpush/latpush/internal/capability"
	"github.com/latpush/latpush/internal/confine"
	"github.com/latpush/latpush/internal/kernel"
	"github.com/latpush/latpush/internal/receiver"
	"github.com/latpush/latpush/internal/vm/guest"
	"github.com/latpush/latpush/internal/vm/guest/guesttest"
	"github.com/latpush/latpush/internal/vm/guest/querytest"
)

// Confinement cannot be undone, so an agent that is confined runs in a process of its own: this test binary once more.
const (
	childVariable  = "LATPUSH_TEST_CHILD"  // agent or sources
	configVariable = "LATPUSH_TEST_CONFIG" // the agent's configuration file
)

// child runs what the variable says instead of tests.
func child(name string) error {
	if name == "sources" {
		return printHooks()
	}
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGTERM)
	defer stop()
	file := os.Getenv(configVariable)
	a, err := newAgent(ctx, file)
	if err != nil {
		return err
	}
	a.Confine(new(confine.Process), file)
	return a.Run(ctx, nil)
}

// printHooks prints how the hooks of the NFS sources attach.
func printHooks() error {
	k, err := kernel.Open(context.Background(), []kernel.SourceConfig{{Name: "nfs"}, {Name: "nfs_rpc"}}, kernel.Options{})
	if err != nil {
		return err
	}
	for _, s := range k.Sources() {
		for _, h := range s.Hooks {
			fmt.Println(s.Source, h.Name, strings.ReplaceAll(h.How, " ", "_"), oneLine(h.Err))
		}
		if s.Err != nil {
			fmt.Println(s.Source, "-", kernel.Missing, oneLine(s.Err))
		}
	}
	return k.Close()
}

func oneLine(err error) string { return strings.ReplaceAll(fmt.Sprint(err), "\n", "; ") }

// letUsersProbe sets kernel.perf_event_paranoid to what the kernel's own default is. Debian's kernels also know 3, with which perf events, and so
// kprobes, take CAP_SYS_ADMIN.
func letUsersProbe(t *testing.T) {
	t.Helper()
	const setting = "/proc/sys/kernel/perf_event_paranoid"
	before, err := os.ReadFile(setting)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(setting, []byte("2"), 0); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { guesttest.Succeed(t, func() error { return os.WriteFile(setting, before, 0) }) })
}

// command runs this binary as a child: as root, or as a user with some capabilities and nothing else, as a systemd service with DynamicUser.
func command(name string, asRoot bool, held capability.Set) *exec.Cmd {
	c := exec.Command("/proc/self/exe")
	c.Env = append(os.Environ(), childVariable+"="+name)
	c.Stderr = os.Stderr
	if asRoot {
		return c
	}
	c.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	for n := range uintptr(64) {
		if held.Has(capability.Set(1) << n) {
			c.SysProcAttr.AmbientCaps = append(c.SysProcAttr.AmbientCaps, n)
		}
	}
	return c
}

// confined is an agent that runs confined, and the receiver it pushes to.
type confined struct {
	name     string
	command  *exec.Cmd
	receiver *receiver.Receiver
}

func startConfined(t *testing.T, name string, asRoot bool, held capability.Set) *confined {
	t.Helper()
	r, err := receiver.Start(t.Context(), receiver.Options{Listen: "127.0.0.1:0"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { guesttest.Succeed(t, r.Close) })
	folder := t.TempDir()
	file := filepath.Join(folder, "latpush.yml")
	text := fmt.Sprintf("interval: 1s\nmax_cpu: 0\nsources: [{name: nfs, labels: [mount, server]}]\nremote_write: [{url: %s/api/v1/write}]\nspool: {directory: %s/spool}\n", r.URL(), folder)
	if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{folder, filepath.Dir(folder)} {
		if err := os.Chmod(name, 0o777); err != nil {
			t.Fatal(err)
		}
	}
	c := &confined{name: name, command: command("agent", asRoot, held), receiver: r}
	c.command.Env = append(c.command.Env, configVariable+"="+file)
	if err := c.command.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.command.Process.Kill() })
	return c
}

// checkWaiting demands that the agent is confined as this kernel allows, and holds what attaching will take.
func (c *confined) checkWaiting(t *testing.T, held capability.Set) {
	t.Helper()
	querytest.Expect(t, c.receiver, `latpush_hook_attached{source="nfs",hook="nfs_file_read",how="waiting"}`, 0)
	for kind, want := range map[string]float64{"capabilities": 1, "no_new_privs": 1, "seccomp": 1, "landlock": landlock()} {
		querytest.Expect(t, c.receiver, fmt.Sprintf("latpush_confinement{kind=%q}", kind), want)
	}
	c.checkThreads(t, held)
	for _, one := range held.Each() {
		querytest.Expect(t, c.receiver, fmt.Sprintf(`latpush_capability_held{capability=%q}`, one), 1)
	}
}

// landlock is 1 on kernels with Landlock: all but the oldest.
func landlock() float64 {
	if strings.HasPrefix(guest.Kernel(), "5.10/") {
		return 0
	}
	return 1
}

func (c *confined) checkThreads(t *testing.T, held capability.Set) {
	t.Helper()
	files, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/status", c.command.Process.Pid))
	if err != nil || len(files) < 2 {
		t.Fatalf("%s: its threads are %v, %v", c.name, files, err)
	}
	for _, file := range files {
		seen, err := confine.Inspect(file)
		if err != nil {
			t.Log(err) // a thread that has ended
			continue
		}
		if seen.Permitted != held || seen.Effective != held || seen.Ambient != 0 || !seen.NoNewPrivileges || !seen.Seccomp {
			t.Errorf("%s: %s: %+v, want %v", c.name, file, seen, held)
		}
	}
}

// checkAttached demands that the hooks were attached in one of some ways, that what was done is counted under the names of the mount and its server,
// and that what attaching takes is given up.
func (c *confined) checkAttached(t *testing.T, dir string, ways ...string) {
	t.Helper()
	querytest.Expect(t, c.receiver, `count(latpush_hook_attached{source="nfs",how="waiting"}) or vector(0)`, 0)
	for _, hook := range []string{"nfs_file_read", "nfs_file_write", "nfs_getattr", "nfs4_file_open"} {
		querytest.Expect(t, c.receiver, fmt.Sprintf(`latpush_hook_attached{source="nfs",hook=%q,how=~%q}`, hook, strings.Join(ways, "|")), 1)
	}
	synced := fmt.Sprintf(`(sum(nfs_latency_seconds_count{operation="fsync",mount=%q,server=~"[0-9.:]+"}) or vector(0))`, dir)
	before := querytest.Value(t, c.receiver, synced)
	file, err := os.Create(filepath.Join(dir, "confined-"+c.name))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	for range 5 {
		if _, err := file.WriteString("x"); err != nil {
			t.Fatal(err)
		}
		if err := file.Sync(); err != nil {
			t.Fatal(err)
		}
	}
	querytest.Expect(t, c.receiver, fmt.Sprintf(`%s >= bool %v`, synced, before+5), 1)
	held := capability.None
	if strings.HasPrefix(guest.Kernel(), "5.10/") {
		held = capability.BPF // which reading takes there
	}
	c.checkThreads(t, held)
	if err := c.command.Process.Signal(unix.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := c.command.Wait(); err != nil {
		t.Errorf("%s: %v", c.name, err)
	}
}

// The NFS sources take what the table says: two capabilities for kprobes, and one more for fentry where a kernel has the type information of modules.
func TestNFSTakesTheCapabilitiesOfTheTable(t *testing.T) {
	guesttest.ServeNFS(t)
	guesttest.MountNFS(t, "4.2", "plain")
	guesttest.MountNFS(t, "3", "plain")
	letUsersProbe(t)
	table, err := kernel.CapabilitiesOf("nfs")
	if err != nil {
		t.Fatal(err)
	}
	cheap := kernel.Fentry
	if strings.HasPrefix(guest.Kernel(), "5.10/") {
		cheap = kernel.Kprobe
	}
	for _, tt := range []struct {
		held capability.Set
		nfs  string // how its functions are attached
	}{
		{table.Needed | table.Useful, cheap},
		{table.Needed, kernel.Kprobe},
		{table.Needed &^ capability.PerfMon, kernel.Missing},
		{table.Needed &^ capability.BPF, kernel.Missing},
	} {
		out, err := command("sources", false, tt.held).Output()
		if err != nil {
			t.Errorf("with %v: %v", tt.held, err)
		}
		lines := 0
		for line := range strings.Lines(string(out)) {
			fields := append(strings.Fields(line), "", "", "")
			source, hook, how := fields[0], fields[1], fields[2]
			lines++
			switch {
			case how == strings.ReplaceAll(kernel.NotNeeded, " ", "_"):
			case tt.nfs == kernel.Missing && (how != kernel.Missing || !strings.Contains(line, "missing capability: ")),
				tt.nfs != kernel.Missing && source == "nfs" && how != tt.nfs,
				tt.nfs != kernel.Missing && source == "nfs_rpc" && !slices.Contains([]string{kernel.TpBTF, kernel.RawTracepoint}, how):
				t.Errorf("with %v hook %s of %s: %s", tt.held, hook, source, line)
			}
		}
		if lines < 2 {
			t.Errorf("with %v it prints:\n%s", tt.held, out)
		}
	}
}

// startTwoConfined starts an agent as root and one as a user with two capabilities, both before the modules are loaded. The returned function checks
// that both attach to them when they are.
func startTwoConfined(t *testing.T) (check func(dir string)) {
	t.Helper()
	letUsersProbe(t)
	all, few := capability.BPF|capability.PerfMon|capability.SysAdmin, capability.BPF|capability.PerfMon
	root, user := startConfined(t, "root", true, all), startConfined(t, "user", false, few)
	begin := time.Now()
	root.checkWaiting(t, all)
	user.checkWaiting(t, few)
	t.Logf("two confined agents wait after %v", time.Since(begin))
	return func(dir string) {
		root.checkAttached(t, dir, kernel.Fentry, kernel.Kprobe)
		user.checkAttached(t, dir, kernel.Kprobe)
	}
}
