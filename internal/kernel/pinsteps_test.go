package kernel

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// manySteps is more changes of the pins than one source ever needs at once.
const manySteps = 100

// The agent is killed before each change that it makes to the pins, one after the other. The next start has every program once, goes on with
// what was counted where the maps were whole, and leaves nothing behind.
func TestKilledAtEveryStep(t *testing.T) {
	for _, tt := range []struct {
		name    string
		call    timedCall
		prepare func(t *testing.T, path string, config SourceConfig) // what there was before
		closes  bool                                                 // it is killed while it stops
		kept    uint64                                               // calls that are counted before and must never be lost
		least   int                                                  // steps that there are at least
	}{
		{
			name: "first start", call: getsid(), least: 13,
			prepare: func(*testing.T, string, SourceConfig) {},
		},
		{
			name: "stop", call: timedCall{"sched_rr_get_interval", unix.SYS_SCHED_RR_GET_INTERVAL}, closes: true, least: 4,
			prepare: func(*testing.T, string, SourceConfig) {},
		},
		{
			name: "start after lost links", call: timedCall{"ioprio_get", unix.SYS_IOPRIO_GET}, kept: 3, least: 14,
			prepare: func(t *testing.T, path string, config SourceConfig) {
				child := pinnedLife{Path: path, Configs: []SourceConfig{config}}.start(t)
				timedCall{"ioprio_get", unix.SYS_IOPRIO_GET}.do(3)
				child.kill()
				loseLinks(t, path)
			},
		},
		{
			name: "start with another layout", call: timedCall{"sched_getparam", unix.SYS_SCHED_GETPARAM}, least: 16,
			prepare: func(t *testing.T, path string, _ SourceConfig) {
				runAndKill(t, path, SourceConfig{Name: "syscalls", Allow: []string{"capget"}})
			},
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			steps := 1
			for killAtStep(t, tt.call, steps, tt.closes, tt.prepare, tt.kept) {
				if steps++; steps > manySteps {
					t.Fatal("there is no end")
				}
			}
			if steps <= tt.least {
				t.Errorf("it was killed at %d steps, there are at least %d", steps-1, tt.least)
			}
			t.Logf("killed at %d steps", steps-1)
		})
	}
}

// killAtStep returns false when there is no such step.
func killAtStep(t *testing.T, call timedCall, step int, closes bool, prepare func(*testing.T, string, SourceConfig), kept uint64) (killed bool) {
	t.Helper()
	path := bpffs(t)
	prepare(t, path, call.config())
	child := pinnedLife{Path: path, Configs: []SourceConfig{call.config()}, KillAt: step, Close: closes}.start(t)
	if len(child.sources) > 0 { // it lives
		child.kill()
	} else {
		killed = child.kill()
	}
	call.do(2) // which a program may see that is left
	k := openPinned(t, path, call.config())
	before := events(sample(t, k, "syscall_latency_seconds", call.name))
	if before != kept && before != kept+2 {
		t.Errorf("step %d: counted %d calls, want %d, or 2 more", step, before, kept)
	}
	call.do(5)
	call.counted(t, k, before+5)
	wantOnce(t, k.sources[0].loaded)
	closeUnpinned(t, k, path)
	return killed
}

// A change of the pins fails, each one after the other. The source counts all the same, and leaves nothing behind.
func TestChangeOfPinsFails(t *testing.T) {
	for step := 1; ; step++ {
		path, failed, changes := bpffs(t), false, 0
		k, err := Open(t.Context(), []SourceConfig{getsid().config()}, Options{PinPath: path, pinFault: func() error {
			if changes++; changes == step {
				failed = true
				return errors.New("no space left on device")
			}
			return nil
		}})
		if err != nil {
			t.Fatal(err)
		}
		s := k.Sources()[0]
		if s.Pinned == failed || (s.PinErr != nil) != failed || !s.Attached() {
			t.Errorf("step %d failed: %t: %+v", step, failed, s)
		}
		getsid().do(4)
		getsid().counted(t, k, 4)
		wantOnce(t, k.sources[0].loaded)
		if left := pinnedBelow(t, path); failed && len(left) > 0 {
			t.Errorf("step %d failed: %v is left", step, left)
		}
		changes = manySteps
		closeUnpinned(t, k, path)
		if !failed {
			if step <= 13 {
				t.Errorf("there were %d steps, there are at least 13", step-1)
			}
			return
		}
	}
}

// Pins that are damaged are not used, whatever is missing.
func TestDamagedPins(t *testing.T) {
	for _, missing := range []string{
		"state", "maps/syscall_latency", "maps/losses", "maps/task_calls", "hooks/syscalls/*/link-00-*", "hooks/syscalls/*/program-01-*", "hooks/syscalls/*", "hooks",
	} {
		t.Run(missing, func(t *testing.T) {
			path := bpffs(t)
			runAndKill(t, path, getsid().config())
			found, err := filepath.Glob(filepath.Join(path, "syscalls", "*", missing))
			if err != nil || len(found) != 1 {
				t.Fatalf("%v, %v", found, err)
			}
			if err := os.RemoveAll(found[0]); err != nil {
				t.Fatal(err)
			}
			k := openPinned(t, path, getsid().config())
			getsid().do(4)
			getsid().counted(t, k, 4)
			wantOnce(t, k.sources[0].loaded)
			closeUnpinned(t, k, path)
		})
	}
}
