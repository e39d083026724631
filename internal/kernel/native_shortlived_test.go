package kernel

import (
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/cilium/ebpf"
)

// Tens of thousands of tasks that live for a moment are all seen, with and without control groups, and nothing stays of them.
func TestShortLivedTasks(t *testing.T) {
	const tasks, workers = 40_000, 4
	for _, labels := range [][]string{nil, {labelCgroup}} {
		for _, how := range []string{TpBTF, RawTracepoint} {
			t.Run(how+" "+map[bool]string{true: "by cgroup"}[len(labels) > 0], func(t *testing.T) {
				k := open(t, how, SourceConfig{Name: "runqueue", Labels: labels}, SourceConfig{Name: "offcpu", Labels: labels},
					SourceConfig{Name: "syscalls", Allow: []string{"getsid"}, Labels: labels})
				before, began := stormed(t, k), time.Now()
				var threads sync.WaitGroup
				for range workers {
					threads.Go(func() {
						for range tasks / workers {
							onThread(func() {})
						}
					})
				}
				threads.Wait()
				took, after := time.Since(began), stormed(t, k)
				t.Logf("%.0f tasks per second", tasks/took.Seconds())
				// Each thread waits for a CPU once at least.
				if n := after - before; n < tasks {
					t.Errorf("counted %d waits for a CPU, want %d at least", n, tasks)
				}
				for _, s := range k.sources {
					for name, m := range s.loaded.maps {
						if held := keysOf(m); m.Type() == ebpf.Hash && held > 2000 {
							t.Errorf("%d entries are held in %s after %d tasks have ended", held, name, tasks)
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

// stormed returns how many waits for a CPU were counted. No event may be lost.
func stormed(t *testing.T, k *Kernel) (waits uint64) {
	t.Helper()
	samples, losses, err := k.Read()
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range losses {
		if l.Events > 20 || l.Events > 0 && l.Reason != reasonRecursion {
			t.Errorf("source %s lost %d events: %s", l.Source, l.Events, l.Reason)
		}
	}
	for _, s := range samples {
		if s.Metric.Name == "run_queue_latency_seconds" {
			waits += events(s)
		}
	}
	return waits
}
