package kernel

import (
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// turns is what the scheduler says of threads.
type turns struct {
	turns                  uint64 // how often they got a CPU
	ran, waited            time.Duration
	voluntary, involuntary uint64 // switches away from them
}

// ofThread returns what the scheduler says of the calling thread.
func ofThread(t *testing.T) turns {
	t.Helper()
	fields := procFields(t, "/proc/thread-self/schedstat")[0]
	now := turns{turns: parse(t, fields[2]), ran: time.Duration(parse(t, fields[0])), waited: time.Duration(parse(t, fields[1]))}
	for _, fields := range procFields(t, "/proc/thread-self/status") {
		switch fields[0] {
		case "voluntary_ctxt_switches:":
			now.voluntary = parse(t, fields[1])
		case "nonvoluntary_ctxt_switches:":
			now.involuntary = parse(t, fields[1])
		}
	}
	return now
}

// loadScheduler runs for a second more busy threads than there are CPUs, which are preempted, and threads that sleep and wake, and returns
// what the scheduler says of all of them.
func loadScheduler(t *testing.T) turns {
	t.Helper()
	stop := time.Now().Add(time.Second)
	var threads sync.WaitGroup
	var mu sync.Mutex
	var all turns
	run := func(step func()) {
		threads.Go(func() {
			onThread(func() {
				before := ofThread(t)
				for time.Now().Before(stop) {
					step()
				}
				after := ofThread(t)
				mu.Lock()
				defer mu.Unlock()
				all.turns += after.turns - before.turns
				all.ran += after.ran - before.ran
				all.waited += after.waited - before.waited
				all.voluntary += after.voluntary - before.voluntary
				all.involuntary += after.involuntary - before.involuntary
			})
		})
	}
	for range 2 * runtime.NumCPU() {
		run(func() {})
		run(func() { nap(time.Millisecond) })
	}
	threads.Wait()
	return all
}

// nap makes the calling thread sleep in the kernel, past Go's scheduler.
func nap(d time.Duration) {
	request := unix.NsecToTimespec(d.Nanoseconds())
	_ = unix.ClockNanosleep(unix.CLOCK_MONOTONIC, 0, &request, nil)
}

// switches returns how often the kernel has switched between tasks since boot.
func switches(t *testing.T) uint64 {
	t.Helper()
	for _, fields := range procFields(t, "/proc/stat") {
		if fields[0] == "ctxt" {
			return parse(t, fields[1])
		}
	}
	t.Fatal("no ctxt in /proc/stat")
	return 0
}

// A turn that has not ended is not counted yet, of which there is one for each CPU at most.
func TestOnCPUAgreesWithScheduler(t *testing.T) {
	for _, how := range []string{TpBTF, RawTracepoint, Tracepoint} {
		t.Run(how, func(t *testing.T) {
			k := open(t, how, SourceConfig{Name: "oncpu"})
			switchesBefore := switches(t)
			before, began := sample(t, k, "task_on_cpu_seconds"), time.Now()
			own := loadScheduler(t)
			after, took := sample(t, k, "task_on_cpu_seconds"), time.Since(began)
			most := switches(t) - switchesBefore
			got, sum := events(after)-events(before), time.Duration(after.SumNanoseconds-before.SumNanoseconds)
			t.Logf("counted %d turns of %v; the threads had %d of %v, and there were %d switches", got, sum, own.turns, own.ran, most)
			if own.turns < 200 || got+uint64(runtime.NumCPU()) < own.turns || got > most {
				t.Errorf("counted %d turns, want between %d and %d", got, own.turns, most)
			}
			if longest := took * time.Duration(runtime.NumCPU()) * 11 / 10; sum < own.ran*9/10 || sum > longest {
				t.Errorf("counted %v of running, want between %v and %v", sum, own.ran, longest)
			}
		})
	}
}

func TestOffCPUAgreesWithScheduler(t *testing.T) {
	for _, how := range []string{TpBTF, RawTracepoint, Tracepoint} {
		t.Run(how, func(t *testing.T) {
			k := open(t, how, SourceConfig{Name: "offcpu"})
			switchesBefore := switches(t)
			read := func() (voluntary, involuntary uint64) {
				return events(sample(t, k, "task_off_cpu_seconds", "voluntary")), events(sample(t, k, "task_off_cpu_seconds", "involuntary"))
			}
			voluntaryBefore, involuntaryBefore := read()
			own := loadScheduler(t)
			voluntary, involuntary := read()
			voluntary, involuntary = voluntary-voluntaryBefore, involuntary-involuntaryBefore
			most := switches(t) - switchesBefore
			t.Logf("counted %d and %d absences; the threads had %d and %d, and there were %d switches", voluntary, involuntary, own.voluntary, own.involuntary, most)
			if own.voluntary < 100 || own.involuntary < 20 { // emulated machines are slow
				t.Errorf("the threads were switched away from %d and %d times", own.voluntary, own.involuntary)
			}
			if voluntary < own.voluntary || involuntary < own.involuntary || voluntary+involuntary > most {
				t.Errorf("counted %d voluntary and %d involuntary absences, want at least %d and %d, and at most %d together",
					voluntary, involuntary, own.voluntary, own.involuntary, most)
			}
		})
	}
}

// A sleep of a known length is in its bucket, and dead tasks leave nothing behind in the map that the classic tracepoint uses.
func TestOffCPUSleepIsMeasured(t *testing.T) {
	const rounds, sleep, dead = 5, 100 * time.Millisecond, 2000
	for _, how := range []string{TpBTF, Tracepoint} {
		t.Run(how, func(t *testing.T) {
			k := open(t, how, SourceConfig{Name: "offcpu"})
			before := sample(t, k, "task_off_cpu_seconds", "voluntary")
			onThread(func() {
				for range rounds {
					nap(sleep)
				}
			})
			after := sample(t, k, "task_off_cpu_seconds", "voluntary")
			if n := after.Counts[17] - before.Counts[17]; n < rounds { // above 65.5 ms, up to 131 ms
				t.Errorf("%d sleeps of 100 ms were counted, want %d", n, rounds)
			}
			for range dead {
				onThread(func() {})
			}
			if held := heldIn(t, k, "hash_absences"); held > dead/2 {
				t.Errorf("%d absences are held after %d threads have ended", held, dead)
			}
		})
	}
}

// heldIn counts the entries of a map of the only source.
func heldIn(t *testing.T, k *Kernel, name string) int {
	t.Helper()
	return keysOf(k.sources[0].loaded.maps[name])
}

// keysOf counts the entries of a map.
func keysOf(m *ebpf.Map) (n int) {
	key := make([]byte, m.KeySize())
	for err := m.NextKey(nil, &key); err == nil; err = m.NextKey(key, &key) {
		n++
	}
	return n
}
