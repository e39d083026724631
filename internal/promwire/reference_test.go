package promwire_test

import (
	"fmt"
	"maps"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	model "github.com/prometheus/prometheus/model/histogram"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/relabel"
	"github.com/prometheus/prometheus/model/value"

	"github.com/latpush/latpush/internal/latency"
	"github.com/latpush/latpush/internal/promwire"
)

// TestEncodeAgainstReference encodes random snapshots, valid ones with labels of any bytes, with random options, and compares what arrives with a simple reading
// of the rules.
func TestEncodeAgainstReference(t *testing.T) {
	t.Parallel()
	seeds := uint64(600)
	if testing.Short() {
		seeds = 150
	}
	for seed := range seeds {
		againstReference(t, rand.New(rand.NewPCG(seed, 1)))
		if t.Failed() {
			t.Fatalf("seed %d", seed)
		}
	}
}

// FuzzEncodeAgainstReference does the same with the choices that the fuzzer makes.
func FuzzEncodeAgainstReference(f *testing.F) {
	f.Add(uint64(1), uint64(2))
	f.Fuzz(func(t *testing.T, a, b uint64) { againstReference(t, rand.New(rand.NewPCG(a, b))) })
}

func againstReference(t *testing.T, random *rand.Rand) {
	t.Helper()
	o := randomOptions(random)
	e, m := newEncoder(t, o), &reference{o: o, states: map[string]*referenceState{}}
	for call := range int64(5) {
		var snaps []*latency.Snapshot
		for range random.IntN(6) {
			snaps = append(snaps, randomSnapshot(random, call))
		}
		p := []promwire.Protocol{promwire.V1, promwire.V2}[random.IntN(2)]
		if random.IntN(3) == 0 { // what was not accepted is of no consequence
			if _, err := e.Encode(p, snaps...); err != nil {
				t.Fatal(err)
			}
			p = promwire.V1
		}
		requests, err := e.Encode(p, snaps...)
		if err != nil {
			t.Fatal(err)
		}
		next := m.clone()
		m.wantStored(t, p, receiveAll(t, requests), next.encode(p, snaps))
		checkSizes(t, o, requests)
		halveAll(t, e, requests)
		if random.IntN(4) > 0 {
			e.Accept()
			m = next
		}
	}
}

func randomOptions(random *rand.Rand) promwire.Options {
	forms := []promwire.Histogram{"", promwire.Classic, promwire.Custom, promwire.Exponential}
	a, d := forms[random.IntN(4)], forms[random.IntN(4)]
	return promwire.Options{
		Labels:     []promwire.Label{{"job", "latpush"}, {"b", "base"}, {"Zone", "\xffz"}}[:random.IntN(4)],
		MaxSamples: 1 + random.IntN(200),
		MaxBytes:   []int{0, 300, 5_000, 20_000}[random.IntN(4)],
		Relabel:    randomRules(random),
		Histograms: func(family string) promwire.Histogram {
			if family == "a_seconds" {
				return a
			}
			return d
		},
		NativeInV1:   random.IntN(2) == 0,
		NoNative:     random.IntN(4) == 0,
		Metadata:     random.IntN(2) == 0,
		IdleInterval: []time.Duration{0, 2 * time.Millisecond, time.Minute}[random.IntN(3)],
		StaleMarkers: random.IntN(2) == 0,
	}
}

// randomRules never make two series equal; TestRelabel has those that do.
func randomRules(random *rand.Rand) []*relabel.Config {
	all := []string{
		"- {source_labels: [le], regex: '2e-06|1.*', action: drop}",
		"- {source_labels: [__name__], regex: 'c|a_seconds', action: drop}",
		"- {source_labels: [b], target_label: Added, replacement: 'x$1'}",
		"- {regex: 'x(.*)', replacement: 'y$1', action: labelmap}",
		"- {source_labels: [__name__], regex: 'd_(.*)', target_label: __name__, replacement: 'e_$1'}",
		"- {source_labels: [__name__, x], regex: 'b_total;1', target_label: __name__, replacement: ''}",
	}
	if random.IntN(2) == 0 {
		return nil
	}
	return rules(strings.Join(all[:1+random.IntN(len(all))], "\n"))
}

// randomSnapshot has families of all kinds; the label sets of a family are distinct. Snapshots of a later call are later.
func randomSnapshot(random *rand.Rand, call int64) *latency.Snapshot {
	after := 10*call + int64(random.IntN(5))
	s := snapshot(t0 + after)
	s.Taken.BootID[0], s.Taken.Boottime = byte(random.IntN(2)), time.Hour+time.Duration(after)*time.Millisecond+time.Duration(random.IntN(3))*700*time.Millisecond
	for i, name := range []string{"a_seconds", "b_total", "c", "d_seconds"} {
		if random.IntN(4) == 0 {
			continue
		}
		f := latency.Family{Name: name, Kind: latency.Kind(1 + i%3), Help: []string{"", "Help \xff."}[random.IntN(2)], LabelNames: []string{"x", "A", "b"}}
		if f.Kind == latency.Histogram {
			f.Unit, f.Bounds = "seconds", exp2(random.IntN(2)+2)
			if random.IntN(3) == 0 {
				f.Bounds = exponential(int32(random.IntN(4)), -20, 8)
			}
		}
		for j := range random.IntN(4) {
			series := latency.Series{
				LabelValues: []string{fmt.Sprint(j), []string{"", "\xc3", "é", strings.Repeat("v", 300)}[j], []string{"", "own"}[j%2]},
				Start:       []time.Duration{0, time.Minute, 2 * time.Hour}[random.IntN(3)],
				Sum:         random.Uint64N(2) << 30, Counts: make([]uint64, len(f.Bounds)+1), Value: float64(random.IntN(2)),
			}
			for k := range series.Counts {
				series.Counts[k] = random.Uint64N(2) * random.Uint64N(2) << (random.IntN(2) * 40)
			}
			f.Series = append(f.Series, series)
		}
		s.Families = append(s.Families, f)
	}
	return s
}

// reference applies the rules one by one, without any regard to speed.
type reference struct {
	o      promwire.Options
	states map[string]*referenceState // by family, shape and label set
}

type referenceState struct {
	family *latency.Family
	series *latency.Series
	native bool // as it was sent
	boot   byte
	began  time.Duration
	start  int64
	sent   int64
}

// referenceSet is one label set at one moment.
type referenceSet struct {
	snapshot *latency.Snapshot
	family   *latency.Family
	series   *latency.Series
}

func (m *reference) clone() *reference {
	states := map[string]*referenceState{}
	for k, s := range m.states {
		c := *s
		states[k] = &c
	}
	return &reference{o: m.o, states: states}
}

// encode gives what a receiver has to have of one call.
func (m *reference) encode(p promwire.Protocol, snaps []*latency.Snapshot) stored {
	got := stored{samples: received{}, histograms: map[string][]native{}, starts: map[string][]int64{}}
	moments := map[int64][]*latency.Snapshot{}
	for _, s := range snaps {
		ms := s.Taken.Wall.UnixMilli()
		moments[ms] = append(moments[ms], s)
	}
	for _, ms := range slices.Sorted(maps.Keys(moments)) {
		m.moment(p, ms, setsAt(moments[ms]), got)
	}
	return got
}

// setsAt gives all label sets of one moment. Where a family changes its bounds within it, the newer state is the family's.
func setsAt(snaps []*latency.Snapshot) map[string]referenceSet {
	sets := map[string]referenceSet{}
	for _, s := range snaps {
		for i := range s.Families {
			f := &s.Families[i]
			maps.DeleteFunc(sets, func(_ string, old referenceSet) bool {
				return old.family.Name == f.Name && !slices.Equal(old.family.Bounds, f.Bounds)
			})
			for j := range f.Series {
				sets[fmt.Sprint(f.Name, f.Bounds, f.Series[j].LabelValues)] = referenceSet{s, f, &f.Series[j]}
			}
		}
	}
	return sets
}

func (m *reference) moment(p promwire.Protocol, ms int64, sets map[string]referenceSet, got stored) {
	present := map[string]bool{}
	for key, set := range sets {
		isNative := m.native(p, set.family)
		lines := m.exposition(set.family, set.series, isNative)
		for name := range lines {
			present[name] = true
		}
		start, idle := m.advance(key, set, isNative, ms)
		if idle {
			continue
		}
		for name, v := range lines {
			if p == promwire.V1 || set.family.Kind == latency.Gauge {
				start = 0
			}
			got.add(name, ms, start, v)
		}
	}
	for key, state := range m.states {
		if _, ok := sets[key]; ok {
			continue
		}
		delete(m.states, key)
		for name, v := range m.exposition(state.family, state.series, state.native) {
			if !m.o.StaleMarkers || present[name] {
				continue
			}
			if v.Histogram != nil {
				got.add(name, ms, 0, line{Histogram: &model.Histogram{Sum: math.Float64frombits(value.StaleNaN)}})
			} else {
				got.add(name, ms, 0, line{value: math.Float64frombits(value.StaleNaN)})
			}
		}
	}
}

// advance moves a label set's state on, and tells when it began and whether it is idle.
func (m *reference) advance(key string, set referenceSet, isNative bool, ms int64) (start int64, idle bool) {
	old := m.states[key]
	taken := set.snapshot.Taken
	now := referenceState{
		family: set.family, series: set.series, native: isNative, boot: taken.BootID[0], began: set.series.Start,
		start: ms - (taken.Boottime - set.series.Start).Milliseconds(), sent: ms,
	}
	if set.family.Kind == latency.Gauge {
		now.start = 0
	}
	if old != nil && old.boot == now.boot && old.began == now.began && now.start-old.start < 1000 && old.start-now.start < 1000 {
		now.start = old.start
	}
	m.states[key] = &now
	if now.start < ms {
		start = now.start
	}
	oldStart := int64(0)
	if old != nil {
		if old.start < old.sent {
			oldStart = old.start
		}
		s, o := set.series, old.series
		unchanged := s.Sum == o.Sum && s.Value == o.Value && slices.Equal(s.Counts, o.Counts) && start == oldStart && isNative == old.native
		if unchanged && ms-old.sent < m.o.IdleInterval.Milliseconds() {
			now.sent, idle = old.sent, true
		}
	}
	return start, idle
}

// native tells whether a family is sent as native histograms.
func (m *reference) native(p promwire.Protocol, f *latency.Family) bool {
	if f.Kind != latency.Histogram || m.o.NoNative {
		return false
	}
	_, _, ok := latency.Schema(f.Bounds)
	switch m.o.Histograms(f.Name) {
	case promwire.Custom:
		return p == promwire.V2
	case promwire.Exponential:
		return p == promwire.V2 || ok && m.o.NativeInV1
	default:
		return false
	}
}

// line is the value of one series.
type line struct {
	value float64
	*model.Histogram
}

func (s stored) add(name string, ms, start int64, l line) {
	if l.Histogram != nil {
		s.histograms[name] = append(s.histograms[name], native{ms, start, l.Histogram})
		return
	}
	s.samples[name] = append(s.samples[name], sample{ms, l.value})
	s.starts[name] = append(s.starts[name], start)
}

// exposition gives the lines of one label set by name, after relabelling.
func (m *reference) exposition(f *latency.Family, s *latency.Series, isNative bool) map[string]line {
	lines := map[string]line{}
	add := func(name, le string, v line) {
		set := map[string]string{"__name__": name}
		for _, l := range m.o.Labels {
			set[l.Name] = l.Value
		}
		for j, n := range f.LabelNames {
			if s.LabelValues[j] != "" {
				set[n] = s.LabelValues[j]
			}
		}
		if le != "" {
			set["le"] = le
		}
		for n := range set {
			set[n] = strings.ToValidUTF8(set[n], "\uFFFD")
		}
		builder := labels.NewBuilder(labels.FromMap(set))
		if relabel.ProcessBuilder(builder, m.o.Relabel...) && builder.Get("__name__") != "" {
			lines[exposedName(builder.Labels())] = v
		}
	}
	switch {
	case f.Kind != latency.Histogram:
		add(f.Name, "", line{value: s.Value})
	case isNative:
		add(f.Name, "", line{Histogram: nativeOf(f, s, m.o.Histograms(f.Name) == promwire.Exponential)})
	default:
		count := uint64(0)
		for j, n := range s.Counts {
			count += n
			le := "+Inf"
			if j < len(f.Bounds) {
				le = latency.LE(f.Bounds[j])
			}
			add(f.Name+"_bucket", le, line{value: float64(count)})
		}
		add(f.Name+"_sum", "", line{value: float64(s.Sum) / 1e9})
		add(f.Name+"_count", "", line{value: float64(count)})
	}
	return lines
}

// nativeOf makes a native histogram with one span for each bucket that is not empty.
func nativeOf(f *latency.Family, s *latency.Series, exponential bool) *model.Histogram {
	h := &model.Histogram{Schema: -53, Sum: float64(s.Sum) / 1e9}
	counts, index, overflow := s.Counts, int32(0), int32(len(f.Bounds))
	if schema, first, ok := latency.Schema(f.Bounds); ok && exponential {
		h.Schema, h.ZeroThreshold, h.ZeroCount = schema, math.Exp2(float64(first)/float64(int32(1)<<schema)), s.Counts[0]
		h.Count = h.ZeroCount
		counts, index, overflow = counts[1:], first+1, 1024<<schema+1
	} else {
		for _, b := range f.Bounds {
			h.CustomValues = append(h.CustomValues, float64(b)/1e9)
		}
	}
	next, before := int32(0), int64(0)
	for i, c := range counts {
		at := index + int32(i)
		if i == len(counts)-1 {
			at = overflow
		}
		if c > 0 {
			h.PositiveSpans = append(h.PositiveSpans, model.Span{Offset: at - next, Length: 1})
			h.PositiveBuckets = append(h.PositiveBuckets, int64(c)-before)
			next, before = at+1, int64(c)
		}
		h.Count += c
	}
	return h
}
