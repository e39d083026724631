//go:build guest

package systemdtests

import (
	"cmp"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
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

func TestMain(m *testing.M) { guesttest.Main(m) }

const (
	pins  = "/sys/fs/bpf/latpush"
	calls = `syscall_latency_seconds_count{syscall="sync_file_range"}` // which nobody else makes
)

// unit is latpush.service, and the receiver that it pushes to.
type unit struct {
	receiver *receiver.Receiver
	password string  // its file; none if it is empty
	done     float64 // calls of sync_file_range that were made while programs were there
}

// The committed unit, with a drop-in of an operator's, in the life that it has on a host: it is enabled, waits for a module, is killed, reloaded and
// stopped.
func TestUnit(t *testing.T) {
	r, err := receiver.Start(t.Context(), receiver.Options{Listen: "127.0.0.1:0"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { guesttest.Succeed(t, r.Close) })
	u := &unit{receiver: r}
	u.dropIn(t)
	u.configure(t, "first")
	run(t, "systemctl", "enable", "--now", "--quiet", "latpush")
	t.Cleanup(func() { t.Log(run(t, "journalctl", "--unit=latpush", "--output=short-monotonic", "--no-pager")) })
	for _, step := range []struct {
		name string
		test func(t *testing.T)
	}{
		{"starts", u.starts},
		{"is confined", u.isConfined},
		{"attaches", u.attaches},
		{"attaches to modules that are loaded later", u.attachesLate},
		{"is taken over after kill -9", u.isTakenOver},
		{"is taken over by another user", u.isTakenOverByAnotherUser},
		{"reloads", u.reloads},
		{"stops", u.stops},
		{"runs as a user that is there for good", u.runsAsLastingUser},
	} {
		t.Run(step.name, step.test)
	}
}

// debian11 says that this is its kernel and its systemd, 247.
func debian11() bool { return strings.HasPrefix(guest.Kernel(), "5.10/") }

// dropIn makes restarts quick, and gives the agent a password that it may not read itself. With credentials, 247 runs no ExecStartPre.
func (u *unit) dropIn(t *testing.T) {
	t.Helper()
	settings := "[Service]\nRestartSec=1s\n"
	if !debian11() {
		u.password = "/run/credentials/latpush.service/password"
		write(t, "/etc/latpush/password", "secret\n", 0o600)
		settings += "LoadCredential=password:/etc/latpush/password\n"
	}
	write(t, "/etc/systemd/system/latpush.service.d/operator.conf", settings, 0o644)
}

// configure writes the configuration. The emulated processor may not decide what a source may cost.
func (u *unit) configure(t *testing.T, site string) {
	t.Helper()
	text := fmt.Sprintf("interval: 1s\nmax_cpu: 0\nexternal_labels: {site: %s}\nremote_write:\n  - url: %s/api/v1/write\n", site, u.receiver.URL())
	if u.password != "" {
		text += "    basic_auth: {username: edge, password_file: " + u.password + "}\n"
	}
	write(t, "/etc/latpush/latpush.yml", text, 0o644)
}

// call makes some calls, which are counted.
func (u *unit) call(t *testing.T, times int) {
	t.Helper()
	file, err := os.Open("/dev/null")
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	for range times {
		_ = unix.SyncFileRange(int(file.Fd()), 0, 0, 0) // no file on a disk
		u.done++
	}
}

// counted waits until exactly the calls that were made have arrived.
func (u *unit) counted(t *testing.T) {
	t.Helper()
	querytest.Expect(t, u.receiver, calls, u.done)
}

func (u *unit) starts(t *testing.T) {
	begin := time.Now()
	querytest.Expect(t, u.receiver, "min(latpush_source_up)", 1)
	t.Logf("what it has taken first arrived after %v", time.Since(begin))
	if got := show(t, "ActiveState") + " " + show(t, "SubState"); got != "active running" {
		t.Errorf("the unit is %s", got)
	}
}

// isConfined demands a user of its own without any way to more, and what attaching to modules will take.
func (u *unit) isConfined(t *testing.T) {
	if user := owner(t, fmt.Sprintf("/proc/%d", mainPID(t))); user < 61184 || user > 65519 { // where systemd makes such users
		t.Errorf("it runs as user %d", user)
	}
	u.holds(t, capability.BPF|capability.PerfMon|capability.SysAdmin|capability.SysLog)
	status := run(t, "latpush", "status")
	wanted := []string{`no_new_privs +yes`, `seccomp +yes`, `landlock +yes`, `CAP_BPF +modules`, `CAP_SYSLOG +symbols`}
	if debian11() {
		wanted = []string{`no_new_privs +yes`, `seccomp +yes`, `landlock +no`, `CAP_BPF +read,modules`, `CAP_SYSLOG +symbols`}
	}
	for _, line := range wanted {
		if !regexp.MustCompile(`(?m)^` + line + `$`).MatchString(status) {
			t.Errorf("latpush status does not say %q", line)
		}
	}
	t.Log(status)
}

func (u *unit) holds(t *testing.T, held capability.Set) {
	t.Helper()
	seen, err := confine.Inspect(fmt.Sprintf("/proc/%d/status", mainPID(t)))
	if err != nil {
		t.Fatal(err)
	}
	if seen.Permitted != held || seen.Effective != held || seen.Ambient != capability.None || !seen.NoNewPrivileges || !seen.Seccomp {
		t.Errorf("its state is %+v, want %v", seen, held)
	}
}

// attaches demands that every hook is attached, but for those of modules that are not there.
func (u *unit) attaches(t *testing.T) {
	states := u.hooks(t)
	for hook, how := range states {
		switch {
		case strings.HasPrefix(hook, "nfs"):
			if how != kernel.Waiting && how != kernel.NotNeeded {
				t.Errorf("hook %s: %s", hook, how)
			}
		case !slices.Contains([]string{kernel.TpBTF, kernel.Fentry, kernel.NotNeeded}, how):
			t.Errorf("hook %s: %s", hook, how)
		}
	}
	u.call(t, 100)
	u.counted(t)
}

// hooks returns how each hook is attached.
func (u *unit) hooks(t *testing.T) map[string]string {
	t.Helper()
	states := map[string]string{}
	for _, sample := range querytest.Vector(t, u.receiver, "latpush_hook_attached") {
		states[sample.Metric.Get("source")+" "+sample.Metric.Get("hook")] = sample.Metric.Get("how")
	}
	t.Logf("hooks: %v", states)
	return states
}

func (u *unit) attachesLate(t *testing.T) {
	for _, module := range []string{"nfsv3", "nfsv4"} {
		if err := guest.LoadModule(module); err != nil {
			t.Fatal(err)
		}
	}
	querytest.Expect(t, u.receiver, `count(latpush_hook_attached{how="waiting"}) or vector(0)`, 0)
	u.hooks(t)
	held, said := capability.SysLog, `kept=CAP_SYSLOG for=symbols` // names of functions are looked up as they appear
	if debian11() {
		held, said = capability.SysLog|capability.BPF, `kept="CAP_SYSLOG, CAP_BPF" for="read, symbols"`
	}
	u.holds(t, held)
	u.says(t, `msg="capabilities given up" `+said)
}

// kill kills the agent, makes calls while it is dead, and waits for the next one.
func (u *unit) kill(t *testing.T) {
	t.Helper()
	before := mainPID(t)
	restarts := show(t, "NRestarts")
	if err := unix.Kill(before, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	u.call(t, 10)
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		u.call(t, 1)
		if pid, err := strconv.Atoi(show(t, "MainPID")); err == nil && pid != 0 && pid != before && show(t, "SubState") == "running" {
			t.Logf("process %d follows %d, restarts %s -> %s", pid, before, restarts, show(t, "NRestarts"))
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("it is %s %s", show(t, "ActiveState"), show(t, "SubState"))
		}
	}
}

func (u *unit) isTakenOver(t *testing.T) {
	user := owner(t, pins)
	u.kill(t)
	u.call(t, 10)
	u.counted(t)
	u.takenOver(t)
	t.Logf("user %d, was %d", owner(t, pins), user)
}

// says waits until the process has logged a line, which the journal has a little later, and returns all that it has logged.
func (u *unit) says(t *testing.T, line string) (log string) {
	t.Helper()
	process := fmt.Sprintf("_PID=%d", mainPID(t))
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); time.Sleep(200 * time.Millisecond) {
		if log = run(t, "journalctl", process, "--output=cat", "--no-pager"); strings.Contains(log, line) {
			return log
		}
	}
	t.Fatalf("it has not logged %s, but:\n%s", line, log)
	return ""
}

// takenOver demands that no source began anew.
func (u *unit) takenOver(t *testing.T) {
	t.Helper()
	log := u.says(t, `msg="agent started"`)
	for _, sample := range querytest.Vector(t, u.receiver, "latpush_source_up") {
		source := sample.Metric.Get("source")
		if !strings.Contains(log, `msg="counts of an earlier agent are taken over" name=`+source+"\n") {
			t.Errorf("source %s is not taken over", source)
		}
	}
}

// The user that owned the pins is given to somebody else while the agent is dead.
func (u *unit) isTakenOverByAnotherUser(t *testing.T) {
	user := owner(t, pins)
	addUser(t, "somebody", user)
	u.kill(t)
	if now := owner(t, pins); now == user {
		t.Fatalf("it still runs as user %d", user)
	}
	u.call(t, 10)
	u.counted(t)
	u.takenOver(t)
}

func (u *unit) reloads(t *testing.T) {
	u.configure(t, "second")
	run(t, "systemctl", "reload", "latpush")
	querytest.Expect(t, u.receiver, `count(latpush_source_up{site="second"}) > bool 0`, 1)
}

func (u *unit) stops(t *testing.T) {
	u.call(t, 10)
	run(t, "systemctl", "stop", "latpush")
	if got := strings.Join([]string{show(t, "ActiveState"), show(t, "Result"), show(t, "ExecMainStatus")}, " "); got != "inactive success 0" {
		t.Errorf("it is %s", got)
	}
	if got := querytest.Value(t, u.receiver, `last_over_time(syscall_latency_seconds_count{syscall="sync_file_range",site="second"}[1m])`); got != u.done {
		t.Errorf("counted %v calls, made %v", got, u.done)
	}
	err := filepath.WalkDir(pins, func(path string, _ fs.DirEntry, err error) error {
		if path != pins {
			t.Errorf("%s is left", path)
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
}

// runsAsLastingUser demands that the unit takes such a user, who then owns what others had made.
func (u *unit) runsAsLastingUser(t *testing.T) {
	const user = 990
	addUser(t, "latpush", user)
	u.configure(t, "third")
	run(t, "systemctl", "start", "latpush")
	querytest.Expect(t, u.receiver, `latpush_source_up{source="syscalls",site="third"}`, 1)
	for _, path := range []string{fmt.Sprintf("/proc/%d", mainPID(t)), pins, filepath.Join(pins, "syscalls"), "/var/lib/latpush/"} {
		if got := owner(t, path); got != user {
			t.Errorf("%s belongs to user %d, want %d", path, got, user)
		}
	}
	run(t, "systemctl", "stop", "latpush")
}

// addUser makes a user, and a group of that name.
func addUser(t *testing.T, name string, id int) {
	t.Helper()
	for file, line := range map[string]string{"/etc/passwd": "%s:x:%d:%[2]d::/:/bin/false\n", "/etc/group": "%s:x:%d:\n"} {
		text, err := os.ReadFile(file)
		if err == nil {
			err = os.WriteFile(file, fmt.Appendf(text, line, name, id), 0o644)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

func write(t *testing.T, file, text string, mode os.FileMode) {
	t.Helper()
	err := os.MkdirAll(filepath.Dir(file), 0o755)
	if err == nil {
		err = os.WriteFile(file, []byte(text), mode)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// run returns what a command prints.
func run(t *testing.T, name string, arguments ...string) string {
	t.Helper()
	command := exec.Command(name, arguments...)
	var complaint strings.Builder
	command.Stderr = &complaint
	out, err := command.Output()
	if err != nil {
		t.Fatalf("%s %v: %v: %s%s", name, arguments, err, out, complaint.String())
	}
	return string(out)
}

func show(t *testing.T, property string) string {
	t.Helper()
	return strings.TrimSpace(run(t, "systemctl", "show", "--property="+property, "--value", "latpush"))
}

func mainPID(t *testing.T) int {
	t.Helper()
	pid, err := strconv.Atoi(show(t, "MainPID"))
	if err = cmp.Or(err, unix.Kill(pid, 0)); err != nil || pid == 0 {
		t.Fatalf("its process is %d: %v", pid, err)
	}
	return pid
}

func owner(t *testing.T, path string) int {
	t.Helper()
	var stat unix.Stat_t
	if err := unix.Stat(path, &stat); err != nil {
		t.Fatalf("%s: %v", path, err)
	}
	return int(stat.Uid)
}
