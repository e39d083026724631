package promwire_test

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/latpush/latpush/internal/latency"
	"github.com/latpush/latpush/internal/promwire"
)

// TestEncodeAgainstReference encodes random snapshots, valid ones with labels of any bytes, and compares what arrives with a simple reading of the rules.
func TestEncodeAgainstReference(t *testing.T) {
	t.Parallel()
	for seed := range uint64(300) {
		random := rand.New(rand.NewPCG(seed, 1))
		base := []promwire.Label{{"job", "latpush"}, {"b", "base"}, {"Zone", "\xffz"}}[:random.IntN(4)]
		limit := 1 + random.IntN(200)
		e := newEncoder(t, promwire.Options{Labels: base, MaxSamples: limit})
		for range 3 {
			var snaps []*latency.Snapshot
			for range random.IntN(6) {
				snaps = append(snaps, randomSnapshot(random))
			}
			requests, err := e.Encode(snaps...)
			if err != nil {
				t.Fatalf("seed %d: %v", seed, err)
			}
			wantReceived(t, receive(t, requests), reference(base, snaps))
			if t.Failed() {
				t.Fatalf("seed %d", seed)
			}
		}
	}
}

// randomSnapshot has families of all kinds; the label sets of a family are distinct.
func randomSnapshot(random *rand.Rand) *latency.Snapshot {
	s := snapshot(t0 + int64(random.IntN(5)))
	for i, name := range []string{"a_seconds", "b_total", "c", "d_seconds"} {
		if random.IntN(4) == 0 {
			continue
		}
		f := latency.Family{Name: name, Kind: latency.Kind(1 + i%3), LabelNames: []string{"x", "A", "b"}}
		if f.Kind == latency.Histogram {
			f.Bounds = exp2(random.IntN(3) + 2)
		}
		for j := range random.IntN(4) {
			series := latency.Series{
				LabelValues: []string{fmt.Sprint(j), []string{"", "\xc3", "é", strings.Repeat("v", 300)}[random.IntN(4)], []string{"", "own"}[random.IntN(2)]},
				Sum:         random.Uint64N(1 << 40), Counts: make([]uint64, len(f.Bounds)+1), Value: random.NormFloat64(),
			}
			for k := range series.Counts {
				series.Counts[k] = random.Uint64N(3)
			}
			f.Series = append(f.Series, series)
		}
		s.Families = append(s.Families, f)
	}
	return s
}

// reference applies the rules one by one, without any regard to speed. Where a family changes its bounds within a millisecond, the newer state is the family's.
func reference(base []promwire.Label, snaps []*latency.Snapshot) received {
	type state struct {
		family *latency.Family
		values map[string]float64
	}
	families := map[string]map[int64]state{}
	for _, s := range snaps {
		ms := s.Taken.Wall.UnixMilli()
		for i := range s.Families {
			f := &s.Families[i]
			if families[f.Name] == nil {
				families[f.Name] = map[int64]state{}
			}
			old := families[f.Name][ms]
			if old.family == nil || !slices.Equal(old.family.Bounds, f.Bounds) {
				old = state{values: map[string]float64{}}
			}
			old.family = f
			maps.Copy(old.values, exposition(base, f))
			families[f.Name][ms] = old
		}
	}
	want := received{}
	for _, times := range families {
		for _, ms := range slices.Sorted(maps.Keys(times)) {
			for series, value := range times[ms].values {
				want[series] = append(want[series], sample{ms, value})
			}
		}
	}
	return want
}

func exposition(base []promwire.Label, f *latency.Family) map[string]float64 {
	lines := map[string]float64{}
	for i := range f.Series {
		s := &f.Series[i]
		set := map[string]string{}
		for _, l := range base {
			set[l.Name] = l.Value
		}
		for j, n := range f.LabelNames {
			if s.LabelValues[j] != "" {
				set[n] = s.LabelValues[j]
			}
		}
		add := func(name, le string, value float64) {
			all := maps.Clone(set)
			if le != "" {
				all["le"] = le
			}
			var parts []string
			for _, n := range slices.Sorted(maps.Keys(all)) {
				parts = append(parts, fmt.Sprintf("%s=%q", n, strings.ToValidUTF8(all[n], "\uFFFD")))
			}
			lines[name+"{"+strings.Join(parts, ",")+"}"] = value
		}
		if f.Kind != latency.Histogram {
			add(f.Name, "", s.Value)
			continue
		}
		count := uint64(0)
		for j, n := range s.Counts {
			count += n
			le := "+Inf"
			if j < len(f.Bounds) {
				le = latency.LE(f.Bounds[j])
			}
			add(f.Name+"_bucket", le, float64(count))
		}
		add(f.Name+"_sum", "", float64(s.Sum)/1e9)
		add(f.Name+"_count", "", float64(count))
	}
	return lines
}
