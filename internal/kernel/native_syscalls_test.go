package kernel

import (
	"runtime"
	"runtime/debug"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestSyscallsAreCountedExactly(t *testing.T) {
	for _, how := range []string{TpBTF, RawTracepoint, Tracepoint} {
		t.Run(how, func(t *testing.T) {
			k := open(t, how, SourceConfig{Name: "syscalls", Allow: []string{"getsid", "getpgid"}})
			onThread(func() {
				for range 1000 {
					_, _ = unix.Getsid(0)
				}
				for range 10 {
					_, _ = unix.Getpgid(0)
				}
			})
			for name, want := range map[string]uint64{"getsid": 1000, "getpgid": 10} {
				got, lost := sampleAndSkipped(t, k, "syscall_latency_seconds", name)
				if n := events(got); n > want || n+lost < want || lost > 10 {
					t.Errorf("counted %d calls of %s and lost %d, want %d", n, name, lost, want)
				}
			}
		})
	}
}

// Calls of known length by several threads of one process at once: none may take another one's start.
func TestSyscallLengths(t *testing.T) {
	defer debug.SetGCPercent(debug.SetGCPercent(-1)) // it stops threads by signals, which end the calls
	k := open(t, "", SourceConfig{Name: "syscalls", Allow: []string{"pselect6"}})
	const short, long, each = 3 * time.Millisecond, 40 * time.Millisecond, 20
	var threads sync.WaitGroup
	var mu sync.Mutex
	var took time.Duration // as the callers see it, which is a little longer
	var tookLow, tookHigh uint64
	for _, length := range []time.Duration{short, long} {
		for range 4 {
			threads.Go(func() {
				onThread(func() {
					for range each / 4 {
						request := unix.NsecToTimespec(length.Nanoseconds())
						start := time.Now()
						_, _ = unix.Pselect(0, nil, nil, nil, &request, nil)
						this := time.Since(start)
						mu.Lock()
						took += this
						if this <= 16384*time.Microsecond {
							tookLow++
						} else if this > 32768*time.Microsecond {
							tookHigh++
						}
						mu.Unlock()
					}
				})
			})
		}
	}
	threads.Wait()
	got, lost := sampleAndSkipped(t, k, "syscall_latency_seconds", "pselect6")
	if n := events(got); n > 2*each || n+lost < 2*each || lost > 10 {
		t.Fatalf("counted %d calls and lost %d, want %d", n, lost, 2*each)
	}
	var low, high uint64
	for i, count := range got.Counts {
		if i <= 14 { // up to 16.384 ms
			low += count
		} else if i >= 16 { // above 32.768 ms
			high += count
		}
	}
	if low+lost < tookLow || low > each {
		t.Errorf("%d calls of up to 16 ms, want at least %d and at most %d: %d", low, tookLow, each, got.Counts)
	}
	if high+lost < each || high > tookHigh {
		t.Errorf("%d calls of more than 32 ms, want at least %d and at most %d: %d", high, each, tookHigh, got.Counts)
	}
	if sum := time.Duration(got.SumNanoseconds); lost == 0 && sum < each*(short+long) || sum > took {
		t.Errorf("calls took %v, want between the %v that they slept and the %v that their callers waited", sum, each*(short+long), took)
	}
}

// A call that begins on one CPU and ends on another is timed right.
func TestSyscallThatMigrates(t *testing.T) {
	if runtime.NumCPU() < 2 {
		t.Skip("one CPU: nothing can migrate")
	}
	k := open(t, "", SourceConfig{Name: "syscalls", Allow: []string{"sched_setaffinity"}})
	const moves = 200
	onThread(func() {
		for i := range moves {
			var cpus unix.CPUSet
			cpus.Set(i % 2)
			if err := unix.SchedSetaffinity(0, &cpus); err != nil {
				t.Errorf("move to CPU %d: %v", i%2, err)
			}
		}
	})
	got, lost := sampleAndSkipped(t, k, "syscall_latency_seconds", "sched_setaffinity")
	if n := events(got); n > moves || n+lost < moves || lost > 10 {
		t.Errorf("counted %d calls and lost %d, want %d", n, lost, moves)
	}
	if sum := time.Duration(got.SumNanoseconds); sum > 10*time.Second {
		t.Errorf("%d calls took %v", moves, sum)
	}
}
