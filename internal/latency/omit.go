package latency

import (
	"slices"
	"strings"
)

// Omittable reports whether the middle one of three consecutive snapshots can be left out without losing a count at a receiver that keeps the
// other two. It can when all three are of one boot and each series of it, gauges aside, goes on from before and goes on to after: the same
// family with the same kind, bounds and label names, the same start, and no number that goes down. So the first and the last state of a series
// and the states around a reset stay. Families and series must be sorted, as they are in every Snapshot; the cost is linear and nothing is
// allocated.
func Omittable(before, it, after *Snapshot) bool {
	boot := it.Taken.BootID
	return before.Taken.BootID == boot && after.Taken.BootID == boot && isPart(it, before, false) && isPart(it, after, true)
}

// isPart reports whether the counters and histograms of a snapshot are all in another one, which is the one after it or the one before it, as
// states of the same growth.
func isPart(it, other *Snapshot, after bool) bool {
	rest := other.Families
	for i := range it.Families {
		family := &it.Families[i]
		n, found := seek(rest, func(f *Family) int { return strings.Compare(f.Name, family.Name) })
		rest = rest[n:]
		switch {
		case !found && family.Kind != Gauge && len(family.Series) != 0:
			return false
		case !found:
		case !sameShape(family, &rest[0]) || family.Kind != Gauge && !seriesArePart(family.Series, rest[0].Series, after):
			return false
		}
	}
	return true
}

// seriesArePart is isPart for the series of a family.
func seriesArePart(series, rest []Series, after bool) bool {
	for i := range series {
		one := &series[i]
		n, found := seek(rest, func(s *Series) int { return slices.Compare(s.LabelValues, one.LabelValues) })
		if !found {
			return false
		}
		from, to := &rest[n], one
		if after {
			from, to = to, from
		}
		if !goesOn(from, to) {
			return false
		}
		rest = rest[n+1:]
	}
	return true
}

// seek returns how many of the first elements are below what compare looks for, and whether the one behind them is equal to it.
func seek[T any](sorted []T, compare func(*T) int) (n int, found bool) {
	for ; n < len(sorted); n++ {
		if order := compare(&sorted[n]); order >= 0 {
			return n, order == 0
		}
	}
	return n, false
}

// sameShape reports whether two states of a family can hold the same series.
func sameShape(a, b *Family) bool {
	return a.Kind == b.Kind && slices.Equal(a.Bounds, b.Bounds) && slices.Equal(a.LabelNames, b.LabelNames)
}

// goesOn reports whether a later state of a series is one that an earlier state can have grown to. A value that is no number never is.
func goesOn(from, to *Series) bool {
	if from.Start != to.Start || to.Sum < from.Sum || !(to.Value >= from.Value) || len(from.Counts) != len(to.Counts) {
		return false
	}
	for i, count := range from.Counts {
		if to.Counts[i] < count {
			return false
		}
	}
	return true
}
