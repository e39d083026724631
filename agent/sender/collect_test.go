package sender

import (
	"reflect"
	"testing"
	"testing/synctest"
	"time"

	"github.com/latpush/latpush/internal/latency"
	"github.com/latpush/latpush/internal/upload"
)

func TestBatchesAreBounded(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name     string
		limits   Limits
		age      time.Duration // of tick 0
		counters []int
		batches  [][]int
	}{
		{name: "by snapshots", limits: Limits{MaxSnapshots: 2}, counters: []int{1, 1, 1, 1, 1}, batches: [][]int{{1, 2}, {3, 4}, {5}}},
		{name: "by samples", limits: Limits{MaxSamples: 10}, counters: []int{4, 4, 4, 4}, batches: [][]int{{1, 2, 3}, {4}}},
		{name: "a large snapshot goes alone", limits: Limits{MaxSamples: 10}, counters: []int{50, 1, 1}, batches: [][]int{{1}, {2, 3}}},
		{name: "defaults", counters: []int{1, 1, 1}, batches: [][]int{{1, 2, 3}}},
		{name: "old ones apart", age: 30*time.Minute + 3*tick, counters: []int{1, 1, 1, 1, 1}, batches: [][]int{{1, 2, 3}, {4, 5}}},
		{name: "just not old", age: 30*time.Minute + 3*tick - time.Millisecond, counters: []int{1, 1, 1, 1}, batches: [][]int{{1, 2}, {3, 4}}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				b := newBench(t)
				b.limits = tt.limits
				b.clock.began = b.clock.began.Add(-tt.age)
				for i, counters := range tt.counters {
					b.queue.append(numbered(i+1, counters))
				}
				b.run()
				if got := b.encoder.calls(); !reflect.DeepEqual(got, tt.batches) {
					t.Errorf("batches of %v, want %v", got, tt.batches)
				}
				if !reflect.DeepEqual(b.encoder.done(), b.sequence(len(tt.counters))) {
					t.Errorf("the encoder was told that %v are accepted", b.encoder.done())
				}
				b.wantCommitted(b.queue.position)
				b.stop()
			})
		})
	}
}

func (b *bench) sequence(n int) []int {
	var all []int
	for i := range n {
		all = append(all, i+1)
	}
	return all
}

// Ten minutes of old snapshots go in a batch: 41 at 15 s.
func TestOldBatchesAreShort(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, upTo(100)...)
		b.clock.began = b.clock.began.Add(-24 * time.Hour)
		b.run()
		var sizes []int
		for _, numbers := range b.encoder.calls() {
			sizes = append(sizes, len(numbers))
		}
		if !reflect.DeepEqual(sizes, []int{41, 41, 18}) {
			t.Errorf("batches of %v snapshots, want 41, 41, 18", sizes)
		}
		b.stop()
	})
}

// One old snapshot may be further from the next than a batch spans.
func TestSingleOldSnapshots(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, numbered(1, 1), numbered(100, 1), numbered(200, 1))
		b.clock.began = b.clock.began.Add(-24 * time.Hour)
		b.run()
		if got := b.encoder.calls(); !reflect.DeepEqual(got, ones(1, 100, 200)) {
			t.Errorf("batches of %v", got)
		}
		b.stop()
	})
}

func TestPushInterval(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, numbered(0, 1))
		b.settings.PushInterval = 4 * tick
		b.limits.MaxSnapshots = 3
		b.run()
		b.wantOnes(0) // what is there at the start goes at once
		for n := 1; n <= 9; n++ {
			b.after(tick)
			b.queue.append(numbered(n, 1))
			synctest.Wait()
			switch n {
			case 3:
				b.wantOnes(0)
			case 5: // tick 4 comes with the push, or just after it
				b.wantOnes(0, 1, 2, 3)
			case 9:
				b.wantOnes(0, 1, 2, 3, 4, 5, 6, 7)
			}
		}
		b.sender.Drain() // pushes at once
		b.end(true)
		b.wantOnes(0, 1, 2, 3, 4, 5, 6, 7, 8, 9)
		if got, want := b.encoder.calls(), [][]int{{0}, {1, 2, 3}, {4, 5, 6}, {7}, {8, 9}}; !reflect.DeepEqual(got, want) {
			t.Errorf("batches of %v, want %v", got, want)
		}
	})
}

// On a slow link a snapshot that was just taken waits for no more than a batch that takes an interval, as soon as the backlog fits the link.
func TestLiveDataIsNotDelayed(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		for n := range 60 {
			b.queue.append(numbered(n+1, 10))
		}
		b.receiver.took = tick / 4 // for each snapshot
		var late time.Duration
		b.receiver.answer = func(m message) upload.Answer {
			if n := m.Points[0].N; n > 100 {
				late = max(late, time.Since(b.clock.began.Add(time.Duration(n)*tick)))
			}
			return accepts()
		}
		b.clock.began = b.clock.began.Add(-60 * tick)
		b.run()
		for n := 61; n <= 160; n++ {
			b.after(tick)
			b.queue.append(numbered(n, 10))
		}
		b.after(tick)
		if late == 0 || late > tick {
			t.Errorf("live snapshots are up to %v late", late)
		}
		for _, numbers := range b.encoder.calls()[1:] {
			if len(numbers) > 5 {
				t.Errorf("batch %v takes longer than an interval", numbers)
			}
		}
		b.stop()
	})
}

// An outage that ends lets the pace recover within a few batches.
func TestPaceRecovers(t *testing.T) {
	t.Parallel()
	var p pace
	if p.carries(tick) < 1e6 {
		t.Error("an unknown link is slow")
	}
	p.observe(100, 24*time.Hour)
	if got := p.carries(tick); got != 0 {
		t.Errorf("a link that has carried 100 samples in a day carries %d in an interval", got)
	}
	for range 3 {
		p.observe(10, time.Second)
	}
	if got := p.carries(tick); got < 100 || got > 150 {
		t.Errorf("a link of 10 samples per second carries %d in an interval", got)
	}
}

func TestSampleAgeLimit(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, numbered(1, 3), numbered(2, 3), numbered(3, 3))
		b.clock.began = b.clock.began.Add(-time.Hour)
		b.settings.SampleAgeLimit = time.Hour - 3*tick
		b.run()
		b.wantOnes(3)
		b.wantCommitted(3)
		b.wantMetric(6, b.metrics.dropped.WithLabelValues("main", "too_old"))
		b.drain()
	})
}

// If all that is left is too old, that is committed too.
func TestEverythingIsTooOld(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, upTo(3)...)
		b.clock.began = b.clock.began.Add(-time.Hour)
		b.settings.SampleAgeLimit = time.Minute
		b.run()
		b.drain()
		b.wantGot()
		b.wantCommitted(3)
	})
}

func TestLines(t *testing.T) {
	t.Parallel()
	snapshot := &latency.Snapshot{Families: []latency.Family{
		{Kind: latency.Histogram, Bounds: make([]uint64, 27), Series: make([]latency.Series, 2)},
		{Kind: latency.Counter, Series: make([]latency.Series, 3)},
		{Kind: latency.Gauge},
	}}
	if got := lines(snapshot); got != 2*(27+1+2)+3 {
		t.Errorf("%d sample lines, want 63", got)
	}
}
