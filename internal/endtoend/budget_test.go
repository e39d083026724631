package endtoend

import (
	"os/exec"
	"strconv"
	"testing"
	"time"
)

// During a storm of system calls the source that times them is detached, which its log and the receiver say, and everything else goes on. What it
// had counted stays, and goes on when another bound lets it.
func TestStormIsDetached(t *testing.T) {
	const calls = `syscall_latency_seconds_count{syscall="read",job="latpush",instance="edge-1"}`
	s := embedded(t)
	folder := t.TempDir()
	source := "  - name: softirq\n  - name: syscalls\n    allow: [read]\n    max_cpu: "
	a := startAgent(t, configFile(t, folder, s.writeURL(), source+"0.5%\n"))
	a.waitLog("source is running")
	s.expect(`latpush_source_up{source="syscalls"}`, 1)
	s.expect(`latpush_source_cpu_measured{source="syscalls"}`, 1)
	began, end := time.Now(), readStorm(t)
	a.waitLog("source is detached, it takes too much CPU time")
	t.Logf("detached after %v", time.Since(began))
	s.expect(`latpush_hook_attached{source="syscalls",how="detached"}`, 0)
	s.expect(`latpush_source_up{source="syscalls"}`, 0)
	s.expect(`latpush_source_up{source="softirq"}`, 1)
	s.expect(`latpush_source_cpu_seconds_total{source="syscalls"} > bool 0.01`, 1)
	s.expect(`latpush_source_event_seconds{source="syscalls"} > bool 5e-9`, 1)
	s.expect(`latpush_source_detached_seconds_total{source="syscalls",reason="budget"} > bool 2`, 1)
	before, err := s.value(calls)
	if err != nil || before < 1000 {
		t.Fatalf("%v calls are counted (%v)", before, err)
	}
	end()
	s.expect(calls, before)
	configFile(t, folder, s.writeURL(), source+"0\n")
	a.hangup()
	a.waitLog("source is attached again")
	s.expect(`latpush_source_up{source="syscalls"}`, 1)
	s.expect(calls+` > bool `+strconv.FormatFloat(before, 'f', -1, 64), 1)
	if resets, err := s.value(`resets(` + calls + `[5m])`); err != nil || resets != 0 {
		t.Errorf("%v resets by being detached (%v)", resets, err)
	}
	a.stop()
}

// readStorm makes system calls as fast as two processes can, until the returned function is called.
func readStorm(t *testing.T) (end func()) {
	t.Helper()
	var all []*exec.Cmd
	for range 2 {
		command := exec.Command("dd", "if=/dev/zero", "of=/dev/null", "bs=1", "status=none")
		if err := command.Start(); err != nil {
			t.Fatal(err)
		}
		all = append(all, command)
	}
	end = func() {
		for _, command := range all {
			_ = command.Process.Kill()
			_ = command.Wait()
		}
		all = nil
	}
	t.Cleanup(end)
	return end
}
