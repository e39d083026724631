package kernel

import (
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cilium/ebpf"
)

// Tens of thousands of tasks that live for a moment are all seen, with and without control groups, and nothing stays of them.
func TestShortLivedTasks(t *testing.T) {
	const most, workers, limit = 40_000, 4, 3 * time.Second // an emulated machine does not get so far
	for _, labels := range [][]string{nil, {labelCgroup}} {
		for _, how := range []string{TpBTF, RawTracepoint} {
			t.Run(how+" "+map[bool]string{true: "by cgroup"}[len(labels) > 0], func(t *testing.T) {
				k := open(t, how, SourceConfig{Name: "runqueue", Labels: labels}, SourceConfig{Name: "offcpu", Labels: labels},
					SourceConfig{Name: "syscalls", Allow: []string{"getsid"}, Labels: labels})
				before, lostBefore := stormed(t, k)
				began := time.Now()
				var threads sync.WaitGroup
				var tasks atomic.Uint64
				for range workers {
					threads.Go(func() {
						for range most / workers {
							if time.Since(began) > limit {
								return
							}
							onThread(func() {})
							tasks.Add(1)
						}
					})
				}
				threads.Wait()
				took := time.Since(began)
				after, lost := stormed(t, k)
				lost -= lostBefore
				t.Logf("%.0f tasks per second, %d events lost to programs that were preempted", float64(tasks.Load())/took.Seconds(), lost)
				// Each thread waits for a CPU once at least, and switches several times.
				if n := after - before; n+lost < tasks.Load() || lost > 20+tasks.Load()/10 {
					t.Errorf("counted %d waits for a CPU and lost %d events, want %d waits at least", n, lost, tasks.Load())
				}
				for _, s := range k.sources {
					for name, m := range s.loaded.maps {
						if held := keysOf(m); m.Type() == ebpf.Hash && held > 2000 {
							t.Errorf("%d entries are held in %s after %d tasks have ended", held, name, tasks.Load())
						}
					}
				}
			})
		}
	}
	var memory runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&memory)
	if memory.HeapAlloc > 64<<20 {
		t.Errorf("the heap is %d bytes", memory.HeapAlloc)
	}
}

// stormed returns how many waits for a CPU were counted, and how many events of all sources the kernel skipped. No event may be lost for another reason.
func stormed(t *testing.T, k *Kernel) (waits, lost uint64) {
	t.Helper()
	samples, losses, err := k.Read()
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range losses {
		if canSkip(t, l.Reason) {
			lost += l.Events
		} else if l.Events > 0 {
			t.Errorf("source %s lost %d events: %s", l.Source, l.Events, l.Reason)
		}
	}
	for _, s := range samples {
		if s.Metric.Name == "run_queue_latency_seconds" {
			waits += events(s)
		}
	}
	return waits, lost
}
