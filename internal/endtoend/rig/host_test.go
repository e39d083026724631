package rig

import (
	"reflect"
	"slices"
	"testing"
	"time"

	"github.com/latpush/latpush/internal/latency"
)

// What all lives together have counted is the sum of the last states of each.
func TestTotalsAreThoseOfAllLives(t *testing.T) {
	t.Parallel()
	began := time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC)
	h := NewHost(HostOptions{Seed: 7, Sets: 3, Began: began})
	want := make([]uint64, 28)
	var sum uint64
	var last *latency.Snapshot
	end := func() {
		s := Histograms(last).Series[1]
		for i, count := range s.Counts {
			want[i] += count
		}
		sum += s.Sum
	}
	for tick := range 300 {
		switch tick {
		case 100:
			end()
			h.Reset(1)
		case 200:
			end()
			h.Reboot(time.Hour)
		}
		last = h.Tick()
	}
	end()
	if got := h.Total(1); !slices.Equal(got.Counts, want) || got.Sum != sum || got.Count() == 0 {
		t.Errorf("total %v, want %v and %d ns", got, want, sum)
	}
	if h.Resets(0) != 1 || h.Resets(1) != 2 || h.Ticked() != 300 {
		t.Errorf("%d and %d resets in %d ticks", h.Resets(0), h.Resets(1), h.Ticked())
	}
	if want := began.Add(299*15*time.Second + time.Hour); !h.Last().Wall.Equal(want) || !last.Taken.Wall.Equal(want) {
		t.Errorf("the last tick was at %v, want %v", h.Last(), want)
	}
}

func TestSameSeedSameSnapshots(t *testing.T) {
	t.Parallel()
	o := HostOptions{Seed: 3, Sets: 5, Busy: 2, Began: time.Unix(1_800_000_000, 0)}
	a, b := NewHost(o), NewHost(o)
	o.Seed = 4
	other := NewHost(o)
	for range 10 {
		first, second, third := a.Tick(), b.Tick(), other.Tick()
		if !reflect.DeepEqual(first, second) {
			t.Fatalf("%+v is not %+v", first, second)
		}
		if reflect.DeepEqual(first.Families, third.Families) {
			t.Fatal("another seed counts the same")
		}
	}
}
