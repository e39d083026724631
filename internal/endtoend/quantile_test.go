package endtoend

import (
	"math"
	"testing"

	"github.com/latpush/latpush/internal/latency"
)

// bucket is one of a histogram, as the receiver has it.
type bucket struct {
	lower, upper float64 // seconds; lower is exclusive
	count        uint64
	exponential  bool // between its bounds, latencies are taken to be spread evenly on a logarithmic scale
}

// bucketsOf gives the buckets of what the kernel counted, empty ones too. With exponential they are those of a native histogram of a schema: there the
// first one is around zero, and the last one is beyond all numbers.
func bucketsOf(bounds, counts []uint64, exponential bool) []bucket {
	buckets := make([]bucket, len(counts))
	for i, count := range counts {
		b := bucket{lower: 0, upper: math.Inf(1), count: count, exponential: exponential && i > 0}
		if i > 0 {
			b.lower = latency.Seconds(bounds[i-1])
		}
		if i < len(bounds) {
			b.upper = latency.Seconds(bounds[i])
		}
		buckets[i] = b
	}
	return buckets
}

// quantile is what PromQL's histogram_quantile says about buckets, by the formula in its documentation: within the bucket that has the rank, the value
// is found by interpolation, and beyond the last bound of a histogram with bounds it is that bound.
func quantile(q float64, buckets []bucket) float64 {
	total := uint64(0)
	for _, b := range buckets {
		total += b.count
	}
	rank, below := q*float64(total), 0.0
	for i, b := range buckets {
		n := float64(b.count)
		if below += n; b.count == 0 || below < rank {
			continue
		}
		fraction := (rank - (below - n)) / n
		switch {
		case math.IsInf(b.upper, 1) && !b.exponential:
			return buckets[i].lower
		case b.exponential:
			return math.Exp2(math.Log2(b.lower) + (math.Log2(b.upper)-math.Log2(b.lower))*fraction)
		default:
			return b.lower + (b.upper-b.lower)*fraction
		}
	}
	return math.NaN()
}

func TestQuantile(t *testing.T) {
	t.Parallel()
	bounds := []uint64{1_000_000_000, 2_000_000_000, 4_000_000_000}
	for _, tt := range []struct {
		name        string
		counts      []uint64
		exponential bool
		q, want     float64
	}{
		{"middle of a bucket", []uint64{0, 10, 10, 0}, false, 0.25, 1.5},
		{"end of a bucket", []uint64{0, 10, 10, 0}, false, 0.5, 2},
		{"first bucket begins at zero", []uint64{4, 0, 0, 0}, false, 0.5, 0.5},
		{"above the last bound", []uint64{1, 0, 0, 9}, false, 0.9, 4},
		{"logarithmic", []uint64{0, 0, 10, 0}, true, 0.5, 2 * math.Sqrt2},
		{"zero bucket is linear", []uint64{4, 0, 0, 0}, true, 0.5, 0.5},
		{"nothing counted", []uint64{0, 0, 0, 0}, false, 0.5, math.NaN()},
	} {
		if got := quantile(tt.q, bucketsOf(bounds, tt.counts, tt.exponential)); !near(got, tt.want) {
			t.Errorf("%s: %v, want %v", tt.name, got, tt.want)
		}
	}
}

// near allows for what adding and multiplying in another order makes of floating point numbers.
func near(got, want float64) bool {
	if math.IsNaN(want) {
		return math.IsNaN(got)
	}
	return got == want || math.Abs(got-want) <= 1e-12*math.Abs(want)
}
