package promwire_test

import (
	"fmt"
	"runtime"
	"slices"
	"testing"
	"time"

	"github.com/latpush/latpush/internal/latency"
	"github.com/latpush/latpush/internal/promwire"
)

// The cache holds what the last call had and nothing else.
func TestCacheIsBounded(t *testing.T) {
	t.Parallel()
	e := newEncoder(t, promwire.Options{})
	nothing := func(int, *latency.Series) {}
	for i, step := range []struct {
		snaps          []*latency.Snapshot
		families, sets int
	}{
		{[]*latency.Snapshot{snapshot(t0, histogram(exp2(3), nothing, "a", "b", "c"))}, 1, 3},
		{[]*latency.Snapshot{snapshot(t0+1, histogram(exp2(3), nothing, "b"))}, 1, 1},
		{[]*latency.Snapshot{snapshot(t0+2, histogram(exp2(3), nothing, "b", "c"), gauge("z", nil, nil))}, 2, 3},
		{[]*latency.Snapshot{snapshot(t0+3, histogram(exp2(3), nothing, "b")), snapshot(t0+4, histogram(exp2(2), nothing, "b", "c"))}, 2, 3},
		{[]*latency.Snapshot{snapshot(t0+5, histogram(exp2(2), nothing, "d"))}, 1, 1},
		{[]*latency.Snapshot{snapshot(t0 + 6)}, 0, 0},
	} {
		requests, err := e.Encode(promwire.V1, step.snaps...)
		if err != nil {
			t.Fatal(err)
		}
		receive(t, requests)
		if families, sets := e.CachedFamilies(), e.CachedLabelSets(); families != step.families || sets != step.sets {
			t.Errorf("step %d: %d families and %d label sets are kept, want %d and %d", i, families, sets, step.families, step.sets)
		}
	}
}

// What comes out with a warm cache and used buffers is what a fresh encoder makes.
func TestCacheChangesNothing(t *testing.T) {
	t.Parallel()
	warm := newEncoder(t, promwire.Options{MaxSamples: 100})
	for i, operations := range [][]string{{"a", "b"}, {"a", "b", "c", "d", "e", "f", "g"}, {"b"}, {"c", "a"}} {
		s := snapshot(t0+int64(i), histogram(exp2(20+i), func(j int, s *latency.Series) { s.Counts[j], s.Sum = 5, 1<<j }, operations...))
		want, err := newEncoder(t, promwire.Options{MaxSamples: 100}).Encode(promwire.V1, s)
		if err != nil {
			t.Fatal(err)
		}
		got, err := warm.Encode(promwire.V1, s)
		if err != nil {
			t.Fatal(err)
		}
		if !slices.EqualFunc(got, want, func(a, b promwire.Request) bool { return slices.Equal(a.Body, b.Body) && a.Samples == b.Samples }) {
			t.Errorf("step %d: a warm encoder makes other requests than a fresh one", i)
		}
	}
}

// An encoder keeps no snapshot alive: its cache is made of copies.
func TestEncoderReleasesSnapshots(t *testing.T) {
	t.Parallel()
	e := newEncoder(t, promwire.Options{})
	gone := make(chan bool, 1)
	func() {
		s := snapshot(t0, histogram(exp2(3), func(int, *latency.Series) {}, "a", "b"))
		runtime.AddCleanup(&s.Families[0], func(struct{}) { gone <- true }, struct{}{})
		if _, err := e.Encode(promwire.V1, s); err != nil {
			t.Fatal(err)
		}
	}()
	for range 100 {
		runtime.GC()
		select {
		case <-gone:
			runtime.KeepAlive(e)
			return
		default:
			runtime.Gosched()
		}
	}
	t.Error("the snapshot is still reachable")
	runtime.KeepAlive(e)
}

// The memory that a backlog's requests took is not kept once there is no backlog.
func TestEncoderReleasesBodies(t *testing.T) {
	t.Parallel()
	e := newEncoder(t, promwire.Options{MaxSamples: 30})
	for _, sets := range []int{100, 3, 0, 5} {
		requests, err := e.Encode(promwire.V1, manySets(t0, sets))
		if err != nil || len(requests) != sets || e.Bodies() != sets {
			t.Errorf("%d requests for %d label sets, %d bodies are kept, %v", len(requests), sets, e.Bodies(), err)
		}
	}
}

// Once warm, the number of allocations of a tick does not depend on the label sets; nor does it with several ticks in a call.
func TestEncodeAllocations(t *testing.T) {
	for _, w := range sendings {
		for _, c := range []struct{ sets, ticks int }{{10, 1}, {1_000, 1}, {200, 8}} {
			t.Run(fmt.Sprintf("%s, %d sets, %d ticks", w.name, c.sets, c.ticks), func(t *testing.T) {
				o := benchOptions(w.histogram)
				o.IdleInterval = time.Nanosecond
				e, snaps := newEncoder(t, o), work(w.histogram, c.sets, c.ticks)
				encode := func() {
					if _, err := e.Encode(w.protocol, snaps...); err != nil {
						t.Fatal(err)
					}
					e.Accept()
				}
				encode()
				if n := testing.AllocsPerRun(20, encode); n > 2 {
					t.Errorf("%v allocations", n)
				}
			})
		}
	}
}

// manySets is a snapshot of one histogram family with 27 buckets and that many label sets, filled like a host at work.
func manySets(ms int64, sets int) *latency.Snapshot {
	f := latency.Family{Name: "syscall_latency_seconds", Kind: latency.Histogram, Bounds: exp2(27), LabelNames: []string{"cgroup", "syscall"}}
	for i := range sets {
		s := latency.Series{LabelValues: []string{fmt.Sprintf("system.slice/unit-%03d.service", i/10), fmt.Sprintf("call_%d", i%10)}, Counts: make([]uint64, 28)}
		for j := range 16 {
			s.Counts[2+j] = uint64(i*j*j+int(ms-t0)*j) % 100_003
			s.Sum += s.Counts[2+j] << (10 + 2 + j)
		}
		f.Series = append(f.Series, s)
	}
	return snapshot(ms, f)
}
