//go:build guest

package kerneltests

import (
	"os"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/latpush/latpush/internal/kernel"
)

// schedstat returns how often tasks got a CPU after waiting and how long they waited, as the scheduler itself counts it.
func schedstat(t *testing.T) (arrivals uint64, waited time.Duration) {
	t.Helper()
	text, err := os.ReadFile("/proc/schedstat")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		fields := strings.Fields(line)
		if len(fields) < 10 || !strings.HasPrefix(fields[0], "cpu") {
			continue
		}
		for i, target := range map[int]func(uint64){8: func(v uint64) { waited += time.Duration(v) }, 9: func(v uint64) { arrivals += v }} {
			value, err := strconv.ParseUint(fields[i], 10, 64)
			if err != nil {
				t.Fatal(err)
			}
			target(value)
		}
	}
	return arrivals, waited
}

// Waits are as many and as long as the scheduler's own statistics say, with preempted tasks among them.
func TestRunqueueAgreesWithSchedstat(t *testing.T) {
	for _, how := range []string{kernel.TpBTF, kernel.RawTracepoint, kernel.Tracepoint} {
		t.Run(how, func(t *testing.T) {
			k := open(t, how, kernel.SourceConfig{Name: "runqueue"})
			before := read(t, k)
			arrivals, waited := schedstat(t)
			load(2 * time.Second)
			arrivalsAfter, waitedAfter := schedstat(t)
			after := read(t, k)
			got := after.since(before, "run_queue_latency_seconds ")
			want, wantSum := arrivalsAfter-arrivals, waitedAfter-waited
			sum := time.Duration(got.SumNanoseconds)
			t.Logf("counted %d waits of %v, the scheduler %d of %v", events(got), sum, want, wantSum)
			if want < 500 || differ(events(got), want) > want/50+30 {
				t.Errorf("counted %d waits, the scheduler %d; the kernel says that %d events were lost", events(got), want, after.lost-before.lost)
			}
			// Its clock stands still between a wake-up and the switch that it causes, and a task whose dequeue is put off (6.12) counts as waiting
			// all that time: the sum is only bounded here, and compared with known waits in package kernel.
			if sum > wantSum*5/4+100*time.Millisecond {
				t.Errorf("counted %v of waiting, the scheduler %v", sum, wantSum)
			}
		})
	}
}

func differ(a, b uint64) uint64 { return max(a, b) - min(a, b) }

// load keeps more threads busy than there are CPUs, and lets others sleep and wake.
func load(length time.Duration) {
	stop := time.Now().Add(length)
	var threads sync.WaitGroup
	run := func(step func()) {
		threads.Go(func() {
			runtime.LockOSThread()
			for time.Now().Before(stop) {
				step()
			}
		})
	}
	for range 2 * runtime.NumCPU() {
		run(func() {})
		run(func() {
			request := unix.NsecToTimespec(int64(time.Millisecond))
			_ = unix.ClockNanosleep(unix.CLOCK_MONOTONIC, 0, &request, nil)
		})
	}
	threads.Wait()
}
