package latency

import (
	"math"
	"slices"
	"testing"
	"time"
)

// state is a snapshot of one boot with a histogram of two series, a counter and a gauge, all of which have counted n.
func state(n uint64) *Snapshot {
	histogram := func(label string) Series {
		return Series{LabelValues: []string{label}, Start: time.Second, Sum: 100 * n, Counts: []uint64{n, 0, 2 * n}}
	}
	return &Snapshot{
		Taken: Instant{BootID: [16]byte{1}, Boottime: time.Duration(n) * time.Second},
		Families: []Family{
			{Name: "a", Kind: Histogram, Bounds: []uint64{10, 20}, LabelNames: []string{"operation"}, Series: []Series{histogram("read"), histogram("write")}},
			{Name: "b", Kind: Counter, Series: []Series{{Start: time.Second, Value: float64(n)}}},
			{Name: "c", Kind: Gauge, Series: []Series{{Value: float64(n)}}},
		},
	}
}

func TestOmittable(t *testing.T) {
	t.Parallel()
	type three [3]*Snapshot
	drop := func(s *Snapshot, label int) {
		s.Families[0].Series = slices.Delete(s.Families[0].Series, label, label+1)
	}
	tests := map[string]struct {
		change func(s three)
		want   bool
	}{
		"all go on":                 {func(three) {}, true},
		"nothing counted":           {func(s three) { *s[1], *s[2] = *state(1), *state(1) }, true},
		"boot before":               {func(s three) { s[0].Taken.BootID[3]++ }, false},
		"boot after":                {func(s three) { s[2].Taken.BootID[3]++ }, false},
		"first state of a series":   {func(s three) { drop(s[0], 1) }, false},
		"last state of a series":    {func(s three) { drop(s[2], 0) }, false},
		"missing in between":        {func(s three) { drop(s[1], 0) }, true},
		"only before":               {func(s three) { drop(s[1], 0); drop(s[2], 0) }, true},
		"only after":                {func(s three) { drop(s[0], 0); drop(s[1], 0) }, true},
		"start changes at it":       {func(s three) { s[0].Families[0].Series[1].Start++ }, false},
		"start changes behind it":   {func(s three) { s[2].Families[1].Series[0].Start++ }, false},
		"bucket goes down at it":    {func(s three) { s[1].Families[0].Series[1].Counts[2] = 1 }, false},
		"bucket goes down behind":   {func(s three) { s[2].Families[0].Series[0].Counts[0] = 1 }, false},
		"sum goes down at it":       {func(s three) { s[1].Families[0].Series[0].Sum = 99 }, false},
		"sum goes down behind":      {func(s three) { s[2].Families[0].Series[0].Sum = 199 }, false},
		"counter goes down at it":   {func(s three) { s[1].Families[1].Series[0].Value = 0.5 }, false},
		"counter goes down behind":  {func(s three) { s[2].Families[1].Series[0].Value = 1.5 }, false},
		"counter is no number":      {func(s three) { s[1].Families[1].Series[0].Value = math.NaN() }, false},
		"gauge goes down":           {func(s three) { s[1].Families[2].Series[0].Value = -7 }, true},
		"gauge goes":                {func(s three) { s[2].Families = s[2].Families[:2] }, true},
		"gauge appears":             {func(s three) { s[0].Families = s[0].Families[:2] }, true},
		"family appears":            {func(s three) { s[0].Families = s[0].Families[1:] }, false},
		"family goes":               {func(s three) { s[2].Families = s[2].Families[1:] }, false},
		"empty family appears":      {func(s three) { s[0].Families = s[0].Families[1:]; s[1].Families[0].Series = nil }, true},
		"family is missing between": {func(s three) { s[1].Families = s[1].Families[1:] }, true},
		"kind changes":              {func(s three) { s[2].Families[1].Kind = Gauge }, false},
		"gauge becomes counter":     {func(s three) { s[2].Families[2].Kind = Counter }, false},
		"bounds change":             {func(s three) { s[2].Families[0].Bounds = []uint64{10, 30} }, false},
		"bounds changed":            {func(s three) { s[0].Families[0].Bounds = []uint64{10, 30} }, false},
		"label names change":        {func(s three) { s[2].Families[0].LabelNames = []string{"call"} }, false},
		"other families around": {func(s three) {
			s[0].Families = slices.Insert(s[0].Families, 1, Family{Name: "aa", Kind: Counter, Series: []Series{{Value: 1}}})
			s[2].Families = slices.Insert(s[2].Families, 0, Family{Name: "Z", Kind: Counter, Series: []Series{{Value: 1}}})
		}, true},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := three{state(1), state(2), state(3)}
			test.change(s)
			if got := Omittable(s[0], s[1], s[2]); got != test.want {
				t.Errorf("got %v, want %v", got, test.want)
			}
		})
	}
}

func TestOmittableAllocatesNothing(t *testing.T) {
	before, it, after := state(1), state(2), state(3)
	if n := testing.AllocsPerRun(10, func() { Omittable(before, it, after) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}
