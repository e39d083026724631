package receiver

import (
	"math"
	"slices"
	"testing"
	"time"

	"github.com/prometheus/prometheus/model/histogram"
	"github.com/prometheus/prometheus/promql"
)

func TestNewClassic(t *testing.T) {
	t.Parallel()
	inf := math.Inf(1)
	for name, c := range map[string]struct {
		cumulative promql.Buckets
		want       []bucket
		rate       float64
	}{
		"differences of neighbours": {
			promql.Buckets{{UpperBound: 1, Count: 2}, {UpperBound: 2, Count: 5}, {UpperBound: inf, Count: 6}},
			[]bucket{{0, 1, 2}, {1, 2, 3}, {2, inf, 1}},
			6,
		},
		"in any order": {
			promql.Buckets{{UpperBound: inf, Count: 6}, {UpperBound: 1, Count: 2}},
			[]bucket{{0, 1, 2}, {1, inf, 4}},
			6,
		},
		"bounds below zero start at -Inf": {
			promql.Buckets{{UpperBound: -1, Count: 1}, {UpperBound: inf, Count: 1}},
			[]bucket{{math.Inf(-1), -1, 1}, {-1, inf, 0}},
			1,
		},
		"rounding noise of extrapolated rates is not an event": {
			promql.Buckets{{UpperBound: 1, Count: 1}, {UpperBound: 2, Count: 1 + 1e-15}, {UpperBound: 3, Count: 1 - 1e-15}, {UpperBound: inf, Count: 2}},
			[]bucket{{0, 1, 1}, {1, 2, 0}, {2, 3, 0}, {3, inf, 1 - 1e-15}},
			2,
		},
	} {
		d := newClassic(time.Unix(0, 0), c.cumulative)
		if d.rate != c.rate || !slices.EqualFunc(d.buckets, c.want, func(a, b bucket) bool {
			return a.lower == b.lower && a.upper == b.upper && math.Abs(a.rate-b.rate) < 1e-12
		}) {
			t.Errorf("%s: %v at %v events/s, want %v at %v", name, d.buckets, d.rate, c.want, c.rate)
		}
	}
}

// exponential is a native histogram with n events in each bucket from index first on.
func exponential(schema, first int32, counts ...float64) promql.HPoint {
	h := &histogram.FloatHistogram{
		Schema: schema, ZeroThreshold: 1e-12, PositiveSpans: []histogram.Span{{Offset: first, Length: uint32(len(counts))}},
		PositiveBuckets: counts,
	}
	for _, n := range counts {
		h.Count += n
	}
	return promql.HPoint{H: h}
}

func TestLayoutOf(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		points []promql.HPoint
		want   layout
	}{
		"from the lowest to the highest":            {[]promql.HPoint{exponential(3, -5, 1, 1), exponential(3, 7, 1)}, layout{3, -5, 7}},
		"the coarsest schema of all":                {[]promql.HPoint{exponential(3, -5, 1), exponential(2, 4, 1)}, layout{2, -2, 4}},
		"coarser when there would be too many rows": {[]promql.HPoint{exponential(3, -300, 1), exponential(3, 300, 1)}, layout{1, -75, 75}},
		"nothing observed":                          {[]promql.HPoint{exponential(3, 0)}, layout{3, math.MaxInt32, math.MinInt32}},
	} {
		got, err := layoutOf(c.points)
		if err != nil || got != c.want {
			t.Errorf("%s: %+v, %v, want %+v", name, got, err, c.want)
		}
	}
}

// TestExponentialBucketsAreComplete compares the rows with the bounds that Prometheus's own iterator gives.
func TestExponentialBucketsAreComplete(t *testing.T) {
	t.Parallel()
	for schema := int32(-2); schema <= 5; schema++ {
		point := exponential(schema, -9, 1, 2, 0, 0, 3)
		point.H.ZeroCount = 4
		point.H.Count += 4
		l, err := layoutOf([]promql.HPoint{point})
		if err != nil {
			t.Fatal(err)
		}
		d, err := newNative(time.Unix(0, 0), point.H, l)
		if err != nil {
			t.Fatal(err)
		}
		if len(d.buckets) != 6 || d.buckets[0].rate != 4 || d.buckets[0].lower != 0 {
			t.Fatalf("schema %d: %v, want the zero bucket and five others", schema, d.buckets)
		}
		for i := 1; i < len(d.buckets); i++ {
			if d.buckets[i].lower != d.buckets[i-1].upper {
				t.Errorf("schema %d: a gap before %v", schema, d.buckets[i])
			}
		}
		i := 1
		for it := point.H.PositiveBucketIterator(); it.Next(); i++ {
			b, want := d.buckets[i], it.At()
			if math.Abs(b.upper/want.Upper-1) > 1e-12 || b.rate != want.Count {
				t.Errorf("schema %d: %v, want up to %v with %v events", schema, b, want.Upper, want.Count)
			}
		}
	}
}

func TestNegativeBucketsKeepTheirOrder(t *testing.T) {
	t.Parallel()
	h := &histogram.FloatHistogram{
		ZeroThreshold: 0.5, ZeroCount: 1, Count: 4, NegativeSpans: []histogram.Span{{Offset: 1, Length: 2}}, NegativeBuckets: []float64{1, 2},
	}
	l, err := layoutOf([]promql.HPoint{{H: h}})
	if err != nil {
		t.Fatal(err)
	}
	d, err := newNative(time.Unix(0, 0), h, l)
	if err != nil {
		t.Fatal(err)
	}
	want := []bucket{{-4, -2, 2}, {-2, -1, 1}, {-0.5, 0.5, 1}}
	if !slices.Equal(d.buckets, want) {
		t.Errorf("%v, want %v", d.buckets, want)
	}
}

func TestGrid(t *testing.T) {
	t.Parallel()
	inf := math.Inf(1)
	fine := &distribution{buckets: []bucket{{0, 1, 1}, {1, 2, 0}, {2, 4, 3}, {4, inf, 0}}}
	coarse := &distribution{buckets: []bucket{{0, 2, 5}, {2, inf, 1}}}
	g := newGrid([]*distribution{fine, nil, coarse}, unitNone, false)
	if want := []float64{0, 1, 2, 4, inf}; !slices.Equal(g.edges, want) {
		t.Fatalf("edges %v, want %v", g.edges, want)
	}
	if got, want := g.column(time.Unix(0, 0), fine).Cells, []cell{{0, 1, 1}, {2, 3, 3}}; !slices.Equal(got, want) {
		t.Errorf("cells %v, want %v", got, want)
	}
	if got, want := g.column(time.Unix(0, 0), coarse).Cells, []cell{{0, 2, 5}, {2, 4, 1}}; !slices.Equal(got, want) {
		t.Errorf("cells of a coarser histogram %v, want %v over several rows", got, want)
	}
	if got := g.column(time.Unix(0, 0), nil).Cells; got != nil {
		t.Errorf("cells without data %v, want nil", got)
	}
	for v, want := range map[float64]float64{0: 0, 0.5: 0.5, 1: 1, 3: 2.5, 4: 3, 9: 3.5, inf: 4, -1: -1} {
		if got := g.row(v); got != want {
			t.Errorf("row of %v = %v, want %v", v, got, want)
		}
	}
	if got := g.row(math.NaN()); got != -1 {
		t.Errorf("row of NaN = %v, want -1", got)
	}
	g.exponential = true
	if got := g.row(math.Sqrt(8)); math.Abs(got-2.5) > 1e-12 {
		t.Errorf("row of the geometric middle = %v, want 2.5", got)
	}
}

func TestColumnsOf(t *testing.T) {
	t.Parallel()
	end := time.Unix(1_700_000_123, 0)
	for _, c := range []struct {
		sampleStep, length, step, window time.Duration
	}{
		{15 * time.Second, 5 * time.Minute, 15 * time.Second, 45 * time.Second},
		{15 * time.Second, time.Hour, 15 * time.Second, 45 * time.Second},
		{15 * time.Second, 6 * time.Hour, 2 * time.Minute, 150 * time.Second},
		{time.Second, 5 * time.Minute, 2 * time.Second, 4 * time.Second},
		{0, 5 * time.Minute, 15 * time.Second, 45 * time.Second},
		{7 * time.Second, 5 * time.Minute, 10 * time.Second, 24 * time.Second},
		{2 * time.Hour, 6 * time.Hour, 2 * time.Hour, 6 * time.Hour},
	} {
		sp := columnsOf(c.sampleStep, c.length, end)
		if sp.step != c.step || sp.window != c.window {
			t.Errorf("%v every %v: a column of %v over %v, want %v over %v", c.length, c.sampleStep, sp.step, sp.window, c.step, c.window)
		}
		if sp.end.After(end) || end.Sub(sp.end) >= sp.step || !sp.end.Equal(sp.end.Truncate(sp.step)) {
			t.Errorf("%v every %v: ends at %v, want a multiple of the step just before %v", c.length, c.sampleStep, sp.end, end)
		}
		if n := sp.moments(); n > maxColumns+1 {
			t.Errorf("%v every %v: %d columns", c.length, c.sampleStep, n)
		}
	}
}
