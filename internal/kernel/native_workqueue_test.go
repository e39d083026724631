package kernel

import (
	"os"
	"runtime"
	"testing"
)

// Reading stat_refresh queues one work item for each CPU on the kernel's general workqueue, and waits for all of them.
func TestWorkqueueItemsAreCounted(t *testing.T) {
	const rounds = 100
	for _, how := range []string{TpBTF, RawTracepoint} {
		t.Run(how, func(t *testing.T) {
			k := open(t, how, SourceConfig{Name: "workqueue"})
			read := func() (waits, runs uint64) {
				return events(sample(t, k, "workqueue_latency_seconds", "events")), events(sample(t, k, "workqueue_service_seconds", "events"))
			}
			waitsBefore, runsBefore := read()
			for range rounds {
				if _, err := os.ReadFile("/proc/sys/vm/stat_refresh"); err != nil {
					t.Fatal(err)
				}
			}
			waits, runs := read()
			waits, runs = waits-waitsBefore, runs-runsBefore
			want := uint64(rounds * runtime.NumCPU())
			t.Logf("counted %d waits and %d runs of %d", waits, runs, want)
			if waits < want || waits > want+rounds || runs < want || runs > want+rounds {
				t.Errorf("counted %d waits and %d runs, want %d and a few more", waits, runs, want)
			}
		})
	}
}
