package receiver

import (
	"cmp"
	"context"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/histogram"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/promql"
	"github.com/prometheus/prometheus/promql/parser/posrange"
)

const (
	maxExponentialRows = 256      // more native buckets than this are merged by halving the resolution
	leastZeroThreshold = 0x1p-128 // Prometheus's default zero threshold; gives a zero bucket of no width one
	negligible         = 1e-9     // share of all events below which a bucket is rounding noise of the rates it was computed from
)

// quantiles returns those that are drawn and listed.
func quantiles() [3]float64 { return [3]float64{0.5, 0.9, 0.99} }

// bucket holds the values in (lower, upper].
type bucket struct {
	lower, upper float64
	rate         float64 // events per second
}

// distribution is what a histogram counted around one moment, over all chosen series.
type distribution struct {
	at        time.Time
	buckets   []bucket // ascending; empty ones included
	rate      float64  // events per second
	mean      float64  // NaN without events
	quantiles [3]float64
}

// selection is a histogram and the series of it that are asked for.
type selection struct {
	family   family
	matchers []*labels.Matcher
}

// selector is the PromQL selector for the chosen series of one line of the histogram: "_bucket", "_sum", or "" for a native one.
func (s selection) selector(suffix string) string {
	matchers := []string{labels.MustNewMatcher(labels.MatchEqual, model.MetricNameLabel, s.family.name+suffix).String()}
	for _, m := range s.matchers {
		matchers = append(matchers, m.String())
	}
	return "{" + strings.Join(matchers, ",") + "}"
}

// span is a series of moments and the time that each of them looks back over.
type span struct {
	start, end   time.Time
	step, window time.Duration
}

// rateQuery is the rate of a selector over the window, summed by the given labels. Counter resets are PromQL's business.
func (s span) rateQuery(by, selector string) string {
	return fmt.Sprintf("sum by (%s) (rate(%s[%dms]))", by, selector, s.window.Milliseconds())
}

// moments is how many evaluations the span has.
func (s span) moments() int { return int(s.end.Sub(s.start)/s.step) + 1 }

// index is the place of a timestamp among the moments.
func (s span) index(ms int64) int { return int((ms - s.start.UnixMilli()) / s.step.Milliseconds()) }

// distributions evaluates the selection at each moment of the span. Moments without data are nil.
func (r *Receiver) distributions(ctx context.Context, sel selection, sp span) ([]*distribution, error) {
	if sel.family.form == formBucket {
		return r.classicDistributions(ctx, sel, sp)
	}
	return r.nativeDistributions(ctx, sel, sp)
}

func (r *Receiver) classicDistributions(ctx context.Context, sel selection, sp span) ([]*distribution, error) {
	lines, err := r.queryRange(ctx, sp.rateQuery(model.BucketLabel, sel.selector(bucketSuffix)), sp.start, sp.end, sp.step)
	if err != nil {
		return nil, err
	}
	sums, err := r.queryRange(ctx, sp.rateQuery("", sel.selector("_sum")), sp.start, sp.end, sp.step)
	if err != nil {
		return nil, err
	}
	cumulative := make([]promql.Buckets, sp.moments())
	for _, line := range lines {
		upper, err := strconv.ParseFloat(line.Metric.Get(model.BucketLabel), 64)
		if err != nil { // not a bucket: PromQL's histogram_quantile leaves it out too
			continue
		}
		for _, p := range line.Floats {
			i := sp.index(p.T)
			cumulative[i] = append(cumulative[i], promql.Bucket{UpperBound: upper, Count: p.F})
		}
	}
	all := make([]*distribution, sp.moments())
	for i, buckets := range cumulative {
		if len(buckets) > 0 {
			all[i] = newClassic(sp.start.Add(time.Duration(i)*sp.step), buckets)
		}
	}
	for _, line := range sums {
		for _, p := range line.Floats {
			if d := all[sp.index(p.T)]; d != nil && d.rate > 0 {
				d.mean = p.F / d.rate
			}
		}
	}
	return all, nil
}

// newClassic turns cumulative le buckets into a distribution; the mean is left for the caller.
func newClassic(at time.Time, cumulative promql.Buckets) *distribution {
	slices.SortFunc(cumulative, func(a, b promql.Bucket) int { return cmp.Compare(a.UpperBound, b.UpperBound) })
	last := cumulative[len(cumulative)-1]
	d := &distribution{at: at, rate: last.Count, mean: math.NaN()}
	lower, below := 0.0, 0.0
	if cumulative[0].UpperBound <= 0 {
		lower = math.Inf(-1)
	}
	for _, b := range cumulative {
		rate := b.Count - below
		if rate <= last.Count*negligible {
			rate = 0
		}
		d.buckets = append(d.buckets, bucket{lower: lower, upper: b.UpperBound, rate: rate})
		lower, below = b.UpperBound, max(below, b.Count)
	}
	for i, q := range quantiles() {
		d.quantiles[i], _, _, _, _, _ = promql.BucketQuantile(q, slices.Clone(cumulative))
	}
	return d
}

func (r *Receiver) nativeDistributions(ctx context.Context, sel selection, sp span) ([]*distribution, error) {
	lines, err := r.queryRange(ctx, sp.rateQuery("", sel.selector("")), sp.start, sp.end, sp.step)
	if err != nil {
		return nil, err
	}
	all := make([]*distribution, sp.moments())
	for _, line := range lines {
		layout, err := layoutOf(line.Histograms)
		if err != nil {
			return nil, fmt.Errorf("align buckets of %s: %w", sel.family.name, err)
		}
		for _, p := range line.Histograms {
			if all[sp.index(p.T)], err = newNative(time.UnixMilli(p.T), p.H, layout); err != nil {
				return nil, fmt.Errorf("align buckets of %s: %w", sel.family.name, err)
			}
		}
	}
	return all, nil
}

// layout is the common grid of several native histograms with exponential buckets: one schema, and the lowest and highest bucket.
type layout struct {
	schema          int32
	lowest, highest int32
}

// layoutOf finds the finest schema that all histograms have, coarser if there would be too many buckets.
func layoutOf(points []promql.HPoint) (layout, error) {
	l := layout{schema: histogram.ExponentialSchemaMax, lowest: math.MaxInt32, highest: math.MinInt32}
	for _, p := range points {
		if !p.H.UsesCustomBuckets() {
			l.schema = min(l.schema, p.H.Schema)
		}
	}
	for _, p := range points {
		if p.H.UsesCustomBuckets() {
			continue
		}
		h, err := p.H.CopyToSchema(l.schema)
		if err != nil {
			return layout{}, err
		}
		for it := h.PositiveBucketIterator(); it.Next(); {
			l.lowest, l.highest = min(l.lowest, it.At().Index), max(l.highest, it.At().Index)
		}
	}
	for l.highest > l.lowest && l.highest-l.lowest >= maxExponentialRows && l.schema > histogram.ExponentialSchemaMin {
		l.schema, l.lowest, l.highest = l.schema-1, halve(l.lowest), halve(l.highest)
	}
	return l, nil
}

// halve is the index of the bucket that takes in bucket index when a schema is lowered by one.
func halve(index int32) int32 { return (index-1)>>1 + 1 }

// bound is the upper bound of an exponential bucket.
func (l layout) bound(index int32) float64 {
	return math.Exp2(float64(index) * math.Exp2(-float64(l.schema)))
}

func newNative(at time.Time, h *histogram.FloatHistogram, l layout) (*distribution, error) {
	d := &distribution{at: at, rate: h.Count, mean: math.NaN()}
	if h.Count > 0 {
		d.mean = h.Sum / h.Count
	}
	for i, q := range quantiles() {
		d.quantiles[i], _ = promql.HistogramQuantile(q, h, "", posrange.PositionRange{})
	}
	if h.UsesCustomBuckets() {
		d.buckets = customBuckets(h)
		return d, nil
	}
	h, err := h.CopyToSchema(l.schema)
	if err != nil {
		return nil, err
	}
	d.buckets = exponentialBuckets(h, l)
	return d, nil
}

// customBuckets lists all buckets of a histogram with custom bounds, the empty ones too.
func customBuckets(h *histogram.FloatHistogram) []bucket {
	buckets := make([]bucket, 0, len(h.CustomValues)+1)
	lower := 0.0
	if len(h.CustomValues) > 0 && h.CustomValues[0] <= 0 {
		lower = math.Inf(-1)
	}
	for _, upper := range h.CustomValues {
		buckets = append(buckets, bucket{lower: lower, upper: upper})
		lower = upper
	}
	buckets = append(buckets, bucket{lower: lower, upper: math.Inf(1)})
	for it := h.PositiveBucketIterator(); it.Next(); {
		if b := it.At(); int(b.Index) < len(buckets) {
			buckets[b.Index].rate = b.Count
		}
	}
	return buckets
}

// exponentialBuckets lists the buckets from the lowest to the highest of the layout, the empty ones too, below them the zero bucket and
// whatever is negative.
func exponentialBuckets(h *histogram.FloatHistogram, l layout) []bucket {
	var buckets []bucket
	zero := bucket{upper: max(h.ZeroThreshold, leastZeroThreshold), rate: h.ZeroCount}
	for it := h.NegativeBucketIterator(); it.Next(); {
		b := it.At()
		buckets = append(buckets, bucket{lower: b.Lower, upper: b.Upper, rate: b.Count})
		zero.lower = -h.ZeroThreshold
	}
	slices.SortFunc(buckets, func(a, b bucket) int { return cmp.Compare(a.lower, b.lower) })
	if l.lowest > l.highest {
		return append(buckets, zero)
	}
	first := len(buckets) + 1
	zero.upper = l.bound(l.lowest - 1)
	buckets = append(buckets, zero)
	for i := l.lowest; i <= l.highest; i++ {
		buckets = append(buckets, bucket{lower: l.bound(i - 1), upper: l.bound(i)})
	}
	for it := h.PositiveBucketIterator(); it.Next(); {
		buckets[first+int(it.At().Index-l.lowest)].rate = it.At().Count
	}
	return buckets
}
