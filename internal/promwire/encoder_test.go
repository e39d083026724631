package promwire_test

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"

	"github.com/latpush/latpush/internal/latency"
	"github.com/latpush/latpush/internal/promwire"
)

func TestEncodeKinds(t *testing.T) {
	t.Parallel()
	e := newEncoder(t, promwire.Options{Labels: []promwire.Label{{"job", "latpush"}, {"instance", "edge-7"}}})
	requests, err := e.Encode(promwire.V1, snapshot(t0,
		latency.Family{
			Name: "a_total", Kind: latency.Counter, LabelNames: []string{"source", "kind"},
			Series: []latency.Series{{LabelValues: []string{"nfs", "x"}, Value: 12}, {LabelValues: []string{"nfs", "y"}}},
		},
		latency.Family{Name: "b", Kind: latency.Gauge, Series: []latency.Series{{Value: -0.5}}},
		histogram([]uint64{1_000, 2_000, 1_000_000_000}, func(_ int, s *latency.Series) {
			s.Counts, s.Sum = []uint64{1, 0, 3, 2}, 4_500_000_123
		}, "read"),
	))
	if err != nil {
		t.Fatal(err)
	}
	const common = `instance="edge-7",job="latpush",`
	wantReceived(t, receive(t, requests), received{
		`a_total{instance="edge-7",job="latpush",kind="x",source="nfs"}`:              {{t0, 12}},
		`a_total{instance="edge-7",job="latpush",kind="y",source="nfs"}`:              {{t0, 0}},
		`b{instance="edge-7",job="latpush"}`:                                          {{t0, -0.5}},
		`nfs_latency_seconds_bucket{` + common + `le="1e-06",operation="read"}`:       {{t0, 1}},
		`nfs_latency_seconds_bucket{` + common + `le="2e-06",operation="read"}`:       {{t0, 1}},
		`nfs_latency_seconds_bucket{` + common + `le="1.0",operation="read"}`:         {{t0, 4}},
		`nfs_latency_seconds_bucket{` + common + `le="+Inf",operation="read"}`:        {{t0, 6}},
		`nfs_latency_seconds_sum{instance="edge-7",job="latpush",operation="read"}`:   {{t0, 4.500000123}},
		`nfs_latency_seconds_count{instance="edge-7",job="latpush",operation="read"}`: {{t0, 6}},
	})
}

func TestEncodeLabels(t *testing.T) {
	t.Parallel()
	type labels = []promwire.Label
	for _, c := range []struct {
		name   string
		base   labels
		names  []string
		values []string
		want   string
	}{
		{"none", nil, nil, nil, `m{}`},
		{"sorted", labels{{"z", "1"}, {"b", "2"}}, []string{"y", "a"}, []string{"3", "4"}, `m{a="4",b="2",y="3",z="1"}`},
		{"capitals before the name", labels{{"Site", "s"}}, []string{"_A", "Zone"}, []string{"1", "2"}, `m{Site="s",Zone="2",_A="1"}`},
		{"names around le", labels{{"ld", "1"}, {"lf", "2"}}, []string{"le"}, []string{"3"}, `m{ld="1",le="3",lf="2"}`},
		{"the series' own label wins", labels{{"job", "base"}}, []string{"job"}, []string{"own"}, `m{job="own"}`},
		{"an empty label is absent, so the base label fills in", labels{{"job", "base"}}, []string{"job"}, []string{""}, `m{job="base"}`},
		{"an empty label is left out", nil, []string{"job", "a"}, []string{"", "x"}, `m{a="x"}`},
		{"an empty base label is left out", labels{{"job", ""}}, []string{"a"}, []string{"x"}, `m{a="x"}`},
		{"invalid UTF-8 in a value", nil, []string{"a"}, []string{"\xffx\xc3"}, `m{a="�x�"}`},
		{"invalid UTF-8 in a base value", labels{{"a", "\xff"}}, nil, nil, `m{a="�"}`},
		{"invalid UTF-8 in a name", nil, []string{"a\xff"}, []string{"x"}, `m{a�="x"}`},
		{
			"long values",
			labels{{"a", strings.Repeat("x", 127)}},
			[]string{"b"},
			[]string{strings.Repeat("y", 20_000)},
			`m{a="` + strings.Repeat("x", 127) + `",b="` + strings.Repeat("y", 20_000) + `"}`,
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			requests, err := newEncoder(t, promwire.Options{Labels: c.base}).Encode(promwire.V1, snapshot(t0, gauge("m", c.names, c.values)))
			if err != nil {
				t.Fatal(err)
			}
			wantReceived(t, receive(t, requests), received{c.want: {{t0, 1}}})
		})
	}
}

func TestEncodeLabelOrderOfHistogram(t *testing.T) {
	t.Parallel()
	f := histogram(exp2(1), func(_ int, s *latency.Series) { s.LabelValues = []string{"1", "2", "3"} }, "")
	f.LabelNames = []string{"Capital", "ld", "lf"}
	requests, err := newEncoder(t, promwire.Options{}).Encode(promwire.V1, snapshot(t0, f))
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, ts := range decode(t, requests[0]).Timeseries {
		for _, l := range ts.Labels {
			got = append(got, l.Name)
		}
		got = append(got, ";")
	}
	if s := strings.Join(got, " "); s != "Capital __name__ ld le lf ; Capital __name__ ld le lf ; Capital __name__ ld lf ; Capital __name__ ld lf ;" {
		t.Error(s)
	}
}

func TestEncodeValues(t *testing.T) {
	t.Parallel()
	for _, ms := range []int64{t0, 0, -1, 1, 127, 128, 4_102_444_800_000} {
		for _, v := range []float64{0, 1, -1, 0.1, math.MaxFloat64, math.SmallestNonzeroFloat64, math.Inf(1), math.Inf(-1), math.NaN()} {
			f := gauge("g", nil, nil)
			f.Series[0].Value = v
			requests, err := newEncoder(t, promwire.Options{}).Encode(promwire.V1, snapshot(ms, f))
			if err != nil {
				t.Fatal(err)
			}
			wantReceived(t, receive(t, requests), received{"g{}": {{ms, v}}})
		}
	}
}

// The NaN that marks a series as stale must never come out of a value.
func TestEncodeNormalisesNaN(t *testing.T) {
	t.Parallel()
	f := gauge("g", nil, nil)
	f.Series[0].Value = math.Float64frombits(0x7ff0000000000002)
	requests, err := newEncoder(t, promwire.Options{}).Encode(promwire.V1, snapshot(t0, f))
	if err != nil {
		t.Fatal(err)
	}
	if bits := math.Float64bits(decode(t, requests[0]).Timeseries[0].Samples[0].Value); bits != 0x7ff8000000000001 {
		t.Errorf("got a NaN of %#x", bits)
	}
}

func TestEncodeNothing(t *testing.T) {
	t.Parallel()
	e := newEncoder(t, promwire.Options{})
	for _, snaps := range [][]*latency.Snapshot{nil, {snapshot(t0)}, {snapshot(t0, gauge("g", nil))}} {
		if requests, err := e.Encode(promwire.V1, snaps...); err != nil || len(requests) != 0 {
			t.Errorf("%d requests, %v", len(requests), err)
		}
	}
}

func TestEncodeGroupsTicks(t *testing.T) {
	t.Parallel()
	at := func(ms int64, value float64, rows ...[]string) *latency.Snapshot {
		f := gauge("g", []string{"l"}, rows...)
		for i := range f.Series {
			f.Series[i].Value = value
		}
		return snapshot(ms, f)
	}
	a, b := []string{"a"}, []string{"b"}
	for _, c := range []struct {
		name  string
		snaps []*latency.Snapshot
		want  received
	}{
		{"ascending", []*latency.Snapshot{at(t0, 1, a, b), at(t0+1, 2, a, b), at(t0+2, 3, a, b)}, received{
			`g{l="a"}`: {{t0, 1}, {t0 + 1, 2}, {t0 + 2, 3}}, `g{l="b"}`: {{t0, 1}, {t0 + 1, 2}, {t0 + 2, 3}},
		}},
		{"out of order", []*latency.Snapshot{at(t0+2, 3, a), at(t0, 1, a), at(t0+1, 2, a)}, received{`g{l="a"}`: {{t0, 1}, {t0 + 1, 2}, {t0 + 2, 3}}}},
		{"same millisecond, newer kept", []*latency.Snapshot{at(t0, 1, a), at(t0, 2, a), at(t0, 3, a), at(t0+1, 4, a)}, received{`g{l="a"}`: {{t0, 3}, {t0 + 1, 4}}}},
		{"same millisecond, a series only in the older", []*latency.Snapshot{at(t0, 1, a, b), at(t0, 2, a)}, received{`g{l="a"}`: {{t0, 2}}, `g{l="b"}`: {{t0, 1}}}},
		{"series come and go", []*latency.Snapshot{at(t0, 1, a), at(t0+1, 2, b), at(t0+2, 3, a)}, received{
			`g{l="a"}`: {{t0, 1}, {t0 + 2, 3}}, `g{l="b"}`: {{t0 + 1, 2}},
		}},
		{
			"families come and go",
			[]*latency.Snapshot{snapshot(t0, gauge("a", nil, nil)), snapshot(t0+1, gauge("b", nil, nil)), snapshot(t0+2, gauge("a", nil, nil), gauge("b", nil, nil))},
			received{`a{}`: {{t0, 1}, {t0 + 2, 1}}, `b{}`: {{t0 + 1, 1}, {t0 + 2, 1}}},
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			for _, limit := range []int{0, 1, 2} {
				requests, err := newEncoder(t, promwire.Options{MaxSamples: limit}).Encode(promwire.V1, c.snaps...)
				if err != nil {
					t.Fatal(err)
				}
				wantReceived(t, receive(t, requests), c.want)
				for i, r := range requests {
					if limit > 0 && r.Samples > limit || limit == 0 && len(requests) > 1 {
						t.Errorf("limit %d: request %d of %d has %d samples", limit, i, len(requests), r.Samples)
					}
				}
			}
		})
	}
}

// However small the limit, all lines of one histogram at one timestamp are in one request, and a request is as full as that allows.
func TestEncodeBoundsRequests(t *testing.T) {
	t.Parallel()
	const lines = 4 + 3 // of one label set
	operations := []string{"a", "b", "c", "d", "e"}
	var snaps []*latency.Snapshot
	for i := range int64(3) {
		snaps = append(snaps, snapshot(t0+i, histogram(exp2(4), func(j int, s *latency.Series) { s.Counts[j] = uint64(i + 1) }, operations...)))
	}
	for _, limit := range []int{1, lines - 1, lines, lines + 1, 2*lines - 1, 2 * lines, 5 * lines, 1_000} {
		requests, err := newEncoder(t, promwire.Options{MaxSamples: limit}).Encode(promwire.V1, snaps...)
		if err != nil {
			t.Fatal(err)
		}
		got := receive(t, requests)
		if len(got) != lines*len(operations) || len(got[`nfs_latency_seconds_count{operation="e"}`]) != len(snaps) {
			t.Errorf("limit %d: %d series arrived", limit, len(got))
		}
		fits := max(1, limit/lines)
		total := len(snaps) * len(operations)
		if want := (total + fits - 1) / fits; len(requests) != want {
			t.Errorf("limit %d: %d requests, want %d", limit, len(requests), want)
		}
		for i, r := range requests {
			if r.Samples > max(limit, lines) {
				t.Errorf("limit %d: request %d has %d samples", limit, i, r.Samples)
			}
			for key, n := range linesOfHistograms(t, r) {
				if n != lines {
					t.Errorf("limit %d: request %d has %d lines of %s", limit, i, n, key)
				}
			}
		}
	}
}

// linesOfHistograms counts a request's lines by label set and timestamp.
func linesOfHistograms(t *testing.T, r promwire.Request) map[string]int {
	t.Helper()
	n := map[string]int{}
	for _, ts := range decode(t, r).Timeseries {
		operation := ts.Labels[len(ts.Labels)-1].Value
		for _, s := range ts.Samples {
			n[fmt.Sprintf("%s at %d", operation, s.Timestamp)]++
		}
	}
	return n
}

// When a family's bounds change within a call, _sum and _count are the same series before and after: they must ascend in time, and no request may have them twice.
func TestEncodeChangeOfBounds(t *testing.T) {
	t.Parallel()
	at := func(ms int64, bounds []uint64, n uint64) *latency.Snapshot {
		return snapshot(ms, histogram(bounds, func(_ int, s *latency.Series) { s.Counts[0] = n }, "read"), gauge("z", nil, nil))
	}
	wide, narrow := []uint64{1_000, 2_000}, []uint64{1_000}
	requests, err := newEncoder(t, promwire.Options{}).Encode(promwire.V1,
		at(t0, wide, 1), at(t0+1, wide, 2), at(t0+2, narrow, 3), at(t0+3, narrow, 4), at(t0+3, wide, 5), at(t0+4, wide, 6))
	if err != nil {
		t.Fatal(err)
	}
	if len(requests) != 3 {
		t.Errorf("%d requests, want one for each stretch of equal bounds", len(requests))
	}
	all := []sample{{t0, 1}, {t0 + 1, 2}, {t0 + 2, 3}, {t0 + 3, 5}, {t0 + 4, 6}}
	wantReceived(t, receive(t, requests), received{
		`nfs_latency_seconds_bucket{le="1e-06",operation="read"}`: all,
		`nfs_latency_seconds_bucket{le="2e-06",operation="read"}`: {{t0, 1}, {t0 + 1, 2}, {t0 + 3, 5}, {t0 + 4, 6}},
		`nfs_latency_seconds_bucket{le="+Inf",operation="read"}`:  all,
		`nfs_latency_seconds_count{operation="read"}`:             all,
		`nfs_latency_seconds_sum{operation="read"}`:               {{t0, 0}, {t0 + 1, 0}, {t0 + 2, 0}, {t0 + 3, 0}, {t0 + 4, 0}},
		`z{}`: {{t0, 1}, {t0 + 1, 1}, {t0 + 2, 1}, {t0 + 3, 1}, {t0 + 4, 1}},
	})
}

// What is malformed is left out and named; everything else is encoded.
func TestEncodeMalformed(t *testing.T) {
	t.Parallel()
	nothing := func(int, *latency.Series) {}
	named := func(f latency.Family, names ...string) latency.Family {
		f.LabelNames = names
		return f
	}
	x, y := []string{"x"}, []string{"y"}
	for _, c := range []struct {
		name   string
		base   []promwire.Label
		bad    []latency.Family
		reason string
		kept   received // beside the good family
	}{
		{name: "too few label values", bad: []latency.Family{gauge("g", []string{"a", "b"}, x)}, reason: `"g": malformed snapshot: 1 label values for 2 label names`},
		{name: "one bad series of two", bad: []latency.Family{gauge("g", []string{"a"}, nil, x)}, reason: "0 label values", kept: received{`g{a="x"}`: {{t0, 2}}}},
		{name: "too few counts", bad: []latency.Family{histogram(exp2(2), func(_ int, s *latency.Series) { s.Counts = s.Counts[:2] }, "a")}, reason: "2 counts for 2 bounds"},
		{name: "equal bounds", bad: []latency.Family{histogram([]uint64{5, 5}, nothing, "a")}, reason: "bounds do not ascend (5 ns after 5 ns)"},
		{name: "descending bounds", bad: []latency.Family{histogram([]uint64{5, 6, 4}, nothing, "a")}, reason: "bounds do not ascend (4 ns after 6 ns)"},
		{name: "bounds that are one float64", bad: []latency.Family{histogram([]uint64{1 << 60, 1<<60 + 1}, nothing, "a")}, reason: "bounds do not ascend"},
		{name: "unknown kind", bad: []latency.Family{{Name: "g", Kind: 9, Series: []latency.Series{{}}}}, reason: "kind 9 is not known"},
		{name: "no name", bad: []latency.Family{gauge("", nil, nil)}, reason: "the family has no name"},
		{name: "le of a histogram", bad: []latency.Family{named(histogram(exp2(1), nothing, "a"), "le")}, reason: `the label name "le" is reserved`},
		{name: "__name__", bad: []latency.Family{gauge("g", []string{"__name__"}, x)}, reason: `the label name "__name__" is reserved`},
		{name: "empty label name", bad: []latency.Family{gauge("g", []string{""}, x)}, reason: "a label name is empty"},
		{name: "label name twice", bad: []latency.Family{gauge("g", []string{"a", "a"}, []string{"1", "2"})}, reason: `the label name "a" is there twice`},
		{name: "label names equal once valid", bad: []latency.Family{gauge("g", []string{"\xff", "\xfe"}, []string{"1", "2"})}, reason: "is there twice"},
		{
			name: "the same series twice", bad: []latency.Family{gauge("g", []string{"a"}, x, x, y)}, reason: `more than one series would be sent with the labels of ["x"]`,
			kept: received{`g{a="x"}`: {{t0, 1}}, `g{a="y"}`: {{t0, 3}}},
		},
		{
			name: "series equal once valid", bad: []latency.Family{gauge("g", []string{"a"}, []string{"\xfe"}, []string{"\xff"})}, reason: "more than one series",
			kept: received{`g{a="�"}`: {{t0, 1}}},
		},
		{
			name: "series equal through a base label", base: []promwire.Label{{"a", "x"}}, bad: []latency.Family{gauge("g", []string{"a"}, []string{""}, x)}, reason: "more than one series",
			kept: received{`g{a="x"}`: {{t0, 1}}},
		},
		{name: "family twice", bad: []latency.Family{gauge("g", nil, nil), gauge("g", []string{"a"}, x)}, reason: "not sorted by name, or one is there twice", kept: received{`g{}`: {{t0, 1}}}},
		{name: "families not sorted", bad: []latency.Family{gauge("h", nil, nil), gauge("g", nil, nil)}, reason: `"g": malformed snapshot: families are not sorted`, kept: received{`h{}`: {{t0, 1}}}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			e := newEncoder(t, promwire.Options{Labels: c.base})
			good := latency.Family{Name: "z", Kind: latency.Gauge, LabelNames: []string{"a"}, Series: []latency.Series{{LabelValues: []string{"good"}, Value: 1}}}
			want := received{`z{a="good"}`: {{t0, 1}}}
			for series, samples := range c.kept {
				want[series] = samples
			}
			for range 2 { // the second call has the cache
				requests, err := e.Encode(promwire.V1, snapshot(t0, append(slices.Clone(c.bad), good)...))
				if !errors.Is(err, promwire.ErrMalformed) || !strings.Contains(err.Error(), c.reason) || strings.Count(err.Error(), "\n") > 0 {
					t.Errorf("got the error %v, want %q in it", err, c.reason)
				}
				wantReceived(t, receive(t, requests), want)
			}
		})
	}
}
