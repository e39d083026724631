//go:build guest

package kerneltests

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/latpush/latpush/internal/kernel"
	"github.com/latpush/latpush/internal/vm/guest"
	"github.com/latpush/latpush/internal/vm/guest/guesttest"
)

// pinnedVariable makes the test binary the process that is killed; its value is a list of ways to attach in JSON.
const pinnedVariable = "LATPUSH_TEST_PINS"

const pinPath = "/sys/fs/bpf/latpush-test"

func pinned(ways []string) kernel.Options { return kernel.Options{PinPath: pinPath, Ways: ways} }

func nfsAndSoftirq() []kernel.SourceConfig {
	return []kernel.SourceConfig{{Name: "nfs"}, {Name: "softirq"}}
}

// livePinned runs the sources until it is killed, and says since when they are loaded.
func livePinned(text string) error {
	var ways []string
	if err := json.Unmarshal([]byte(text), &ways); err != nil {
		return err
	}
	k, err := kernel.Open(context.Background(), nfsAndSoftirq(), pinned(ways))
	if err != nil {
		return err
	}
	if _, _, err := k.Read(); err != nil {
		return err
	}
	if missing := notAttached(k); len(missing) > 0 {
		return fmt.Errorf("not attached: %v", missing)
	}
	fmt.Println(int64(k.Sources()[0].Loaded))
	select {}
}

// startPinned starts such a process and returns since when its source of NFS is loaded, and what kills it.
func startPinned(t *testing.T, ways []string) (loaded time.Duration, kill func()) {
	t.Helper()
	text, err := json.Marshal(ways)
	if err != nil {
		t.Fatal(err)
	}
	child := exec.Command("/proc/self/exe")
	child.Env = append(os.Environ(), pinnedVariable+"="+string(text))
	child.Stderr = os.Stderr
	output, err := child.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	kill = func() {
		_ = child.Process.Kill()
		_ = child.Wait()
	}
	t.Cleanup(kill)
	line, err := bufio.NewReader(output).ReadString('\n')
	if _, scanErr := fmt.Sscan(line, (*int64)(&loaded)); err != nil || scanErr != nil {
		t.Fatalf("the process said %q: %v", line, err)
	}
	return loaded, kill
}

// After kill -9 the counts go on, with those of the time without an agent where the kernel can pin how the programs are attached, and with that time
// where it cannot: links of perf events, which are kprobes, can be pinned from 5.15 on.
func TestKilledAgentIsTakenOver(t *testing.T) {
	guesttest.ServeNFS(t)
	dir := guesttest.MountNFS(t, "4.2", "plain")
	for _, how := range []string{kernel.Fentry, kernel.Kprobe} {
		t.Run(how, func(t *testing.T) {
			if how == kernel.Fentry {
				needModuleBTF(t, "nfs")
			}
			testTakenOver(t, dir, []string{how, kernel.TpBTF}, how == kernel.Fentry || !strings.HasPrefix(guest.Kernel(), "5.10"))
		})
	}
}

func testTakenOver(t *testing.T, dir string, ways []string, pinnable bool) {
	runner := guesttest.Prepare(t, guest.Workload{Reads: 7, Writes: 5, Opens: 3, Getattrs: 11, Fsyncs: 2, Direct: true}, dir)
	loaded, kill := startPinned(t, ways)
	run := func() guest.Counts {
		t.Helper()
		did, err := runner.Run()
		if err != nil {
			t.Fatal(err)
		}
		return did
	}
	alive := run()
	kill()
	killed := time.Now()
	dead := run()
	time.Sleep(100 * time.Millisecond)
	gap := time.Since(killed)
	probes := definedProbes(t)

	k, err := kernel.Open(t.Context(), nfsAndSoftirq(), pinned(ways))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = k.Close() })
	if missing := notAttached(k); len(missing) > 0 {
		t.Fatal(strings.Join(missing, "\n"))
	}
	if pinned := linksPinned(t, "nfs"); pinned != pinnable || !linksPinned(t, "softirq") {
		t.Errorf("links of nfs are pinned: %t, want %t; those of softirq: %t", pinned, pinnable, linksPinned(t, "softirq"))
	}
	if now := definedProbes(t); len(now) != len(probes) {
		t.Errorf("probes are %v, were %v", now, probes)
	}
	again := run()
	got := read(t, k)
	for operation, of := range map[string]func(guest.Counts) uint64{
		"read":    func(c guest.Counts) uint64 { return c.Reads },
		"write":   func(c guest.Counts) uint64 { return c.Writes },
		"open":    func(c guest.Counts) uint64 { return c.Opens },
		"getattr": func(c guest.Counts) uint64 { return c.Getattrs },
		"fsync":   func(c guest.Counts) uint64 { return c.Fsyncs },
	} {
		want := of(alive) + of(again)
		if pinnable {
			want += of(dead)
		}
		if n := events(got.samples["nfs_latency_seconds "+operation]); n > want || n+got.lost < want || of(dead) == 0 {
			t.Errorf("%s: counted %d, did %d, of which %d without an agent, and the kernel says that %d were lost", operation, n, want, of(dead), got.lost)
		}
	}
	nfs := k.Sources()[0]
	detached := nfs.Detached[kernel.ReasonRestart]
	if nfs.Loaded != loaded || !nfs.Pinned || (detached == 0) != pinnable || (!pinnable && detached < gap) {
		t.Errorf("loaded since %v, want %v; detached for %v, without an agent for %v", nfs.Loaded, loaded, detached, gap)
	}
	guesttest.Succeed(t, k.Close)
	if left, err := os.ReadDir(pinPath); len(left) > 0 || err != nil {
		t.Errorf("pins are left: %v, %v", left, err)
	}
	if left := definedProbes(t); len(left) > 0 {
		t.Errorf("probes are left: %v", left)
	}
}

func linksPinned(t *testing.T, source string) bool {
	t.Helper()
	links, err := filepath.Glob(filepath.Join(pinPath, source, "*", "hooks", "*", "*", "link-*"))
	if err != nil {
		t.Fatal(err)
	}
	return len(links) > 0
}

// definedProbes returns the probes in tracefs, which agents have defined.
func definedProbes(t *testing.T) []string {
	t.Helper()
	text, err := os.ReadFile("/sys/kernel/tracing/kprobe_events")
	if err != nil {
		t.Fatal(err)
	}
	return slices.Collect(strings.Lines(string(text)))
}
