package kernel

import (
	"errors"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/cilium/ebpf"
)

// Tests of what probes miss. They need a kernel with kprobes, which the guests have.

// needKprobes skips where there are none.
func needKprobes(t *testing.T) {
	t.Helper()
	if _, err := os.Stat("/sys/bus/event_source/devices/kprobe"); err != nil {
		t.Skip("this kernel has no kprobes; those of the guests have")
	}
}

// probing loads the source nfs with hooks of which each is moved to another function of the kernel, by the name of its own.
func probing(t *testing.T, o Options, functions map[string]string) *loadedSource {
	t.Helper()
	description, _ := findSource("nfs")
	description.hooks = nil
	for name := range functions {
		description.hooks = append(description.hooks, function("", name, ""))
	}
	tamper := o.tamper
	o.Ways = []string{Kprobe}
	o.tamper = func(spec *ebpf.CollectionSpec) {
		tamper(spec)
		for name, other := range functions {
			spec.Programs[name+"_kprobe"].AttachTo, spec.Programs[name+"_kretprobe"].AttachTo = other, other
		}
	}
	s := &loadedSource{source: description, config: SourceConfig{Name: "nfs"}, options: &o, environment: newEnvironment(&o)}
	t.Cleanup(func() {
		if err := s.close(); err != nil {
			t.Error(err)
		}
	})
	if err := errors.Join(s.prepare(), s.makeMaps(nil)); err != nil {
		t.Fatal(err)
	}
	for _, h := range description.hooks {
		s.hooks = append(s.hooks, loadedHook{hook: h})
	}
	s.attachMissing()
	for _, h := range s.hooks {
		if h.err != nil {
			t.Fatal(h.err)
		}
	}
	return s
}

// counted returns the events of one operation.
func counted(t *testing.T, s *loadedSource, operation string) uint64 {
	t.Helper()
	samples, err := s.tables[0].appendTo(nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, sample := range samples {
		if sample.Values[0] == operation {
			return events(sample)
		}
	}
	return 0
}

// Of calls at the same time, a return probe with room for one follows one. The others are counted as missed, on every kernel, and still are when
// the programs are detached.
func TestReturnsThatProbesMiss(t *testing.T) {
	needKprobes(t)
	const threads, rounds = 4, 3
	for _, inStorage := range []bool{true, false} {
		s := probing(t, Options{returns: 1, tamper: storage(t, inStorage)}, map[string]string{"nfs_getattr": "sys_rt_sigtimedwait"})
		do := func() {
			for range rounds {
				var all sync.WaitGroup
				for range threads {
					all.Go(func() { onThread(func() { wait(300 * time.Millisecond) }) })
				}
				all.Wait()
			}
		}
		check := func(done uint64) {
			t.Helper()
			n, losses := counted(t, s, "getattr"), lost(t, s)
			t.Logf("in task storage %t: counted %d, lost %v", inStorage, n, losses)
			if n < rounds || losses[reasonMissed] < rounds || n+losses[reasonMissed] != done {
				t.Errorf("counted %d calls and missed %d, of %d", n, losses[reasonMissed], done)
			}
			for reason, events := range losses {
				if reason != reasonMissed && events != 0 {
					t.Errorf("lost %d events: %s", events, reason)
				}
			}
		}
		do()
		check(threads * rounds)
		if err := s.detach(errors.New("test")); err != nil {
			t.Fatal(err)
		}
		check(threads * rounds)
		if hooks, err := s.attachAgain(); err != nil || !s.attached() {
			t.Fatal(hooks, err)
		}
		do()
		check(2 * threads * rounds)
	}
}

// With room for all, none is missed.
func TestReturnsThatProbesFollow(t *testing.T) {
	needKprobes(t)
	const threads = 50
	s := probing(t, Options{tamper: storage(t, true)}, map[string]string{"nfs_getattr": "sys_rt_sigtimedwait"})
	var all sync.WaitGroup
	for range threads {
		all.Go(func() { onThread(func() { wait(300 * time.Millisecond) }) })
	}
	all.Wait()
	if n, losses := counted(t, s, "getattr"), lost(t, s); n != threads || losses[reasonMissed] != 0 {
		t.Errorf("counted %d calls of %d, lost %v", n, threads, losses)
	}
}

// A probe within the program of another one is not run: here on what the first program calls.
func TestCallsThatProbesMiss(t *testing.T) {
	needKprobes(t)
	const calls = 10
	s := probing(t, Options{tamper: storage(t, false)}, map[string]string{
		"nfs_getattr": "sys_rt_sigtimedwait", "nfs_file_read": "htab_map_update_elem",
	})
	for range calls {
		wait(time.Millisecond)
	}
	losses := lost(t, s)
	t.Logf("counted %d, lost %v", counted(t, s, "getattr"), losses)
	if n := counted(t, s, "getattr"); n != calls {
		t.Errorf("counted %d calls, want %d", n, calls)
	}
	if n := losses[reasonMissed]; n < calls {
		t.Errorf("%d calls are missed, want at least %d", n, calls)
	}
}

// An end without a start is counted as lost where the task has begun such calls before: here the program of the start is taken away.
func TestProbesWithoutStart(t *testing.T) {
	needKprobes(t)
	const attempts = 5 // the kernel may have no memory at once for what it keeps with a new task
	for range attempts {
		if !skippedWithoutStart(t) {
			return
		}
	}
	t.Errorf("%d times there was no memory for the start of a call", attempts)
}

// skippedWithoutStart calls a function with a probe on its entry and without, and returns whether the kernel had no memory for the start.
func skippedWithoutStart(t *testing.T) bool {
	t.Helper()
	s := probing(t, Options{tamper: storage(t, true)}, map[string]string{"nfs_getattr": "sys_rt_sigtimedwait"})
	if !s.environment.taskStorage() {
		t.Skip("this kernel keeps no data with tasks: a call that has no start there may have begun before the programs were attached")
	}
	onThread(func() {
		wait(time.Millisecond)
		for _, a := range s.hooks[0].attached {
			if a.probe == "" { // it is on the entry
				if err := a.link.Close(); err != nil {
					t.Error(err)
				}
			}
		}
		wait(time.Millisecond)
		wait(time.Millisecond)
	})
	n, losses := counted(t, s, "getattr"), lost(t, s)
	if losses["in_flight_full"] > 0 && canSkip(t, "in_flight_full") {
		return true
	}
	if n != 1 || losses["no_start"] != 2 {
		t.Errorf("counted %d calls, want 1, and lost %v, want 2 without a start", n, losses)
	}
	return false
}
