package latency_test

import (
	"math"
	"math/big"
	"testing"

	"github.com/prometheus/prometheus/model/histogram"

	"github.com/latpush/latpush/internal/latency"
)

// A nanosecond count is on the same side of the bound as its seconds are of the bucket that Prometheus has for the index.
func TestExponentialBoundIsPrometheusBound(t *testing.T) {
	t.Parallel()
	for schema := range int32(4) {
		for index := -20 << schema; index <= 10<<schema; index++ {
			bound := latency.ExponentialBound(schema, int32(index))
			native := &histogram.Histogram{Schema: schema, PositiveSpans: []histogram.Span{{Offset: int32(index), Length: 1}}, PositiveBuckets: []int64{1}}
			buckets := native.PositiveBucketIterator()
			if !buckets.Next() {
				t.Fatal("no bucket")
			}
			upper := buckets.At().Upper
			if at, above := latency.Seconds(bound), latency.Seconds(bound+1); at > upper || above <= upper {
				t.Fatalf("schema %d index %d: bound %d ns, but Prometheus has %g s", schema, index, bound, upper)
			}
		}
	}
}

// The bound is the largest integer whose power 2^schema does not pass 2^index * 10^(9 * 2^schema).
func TestExponentialBoundIsExact(t *testing.T) {
	t.Parallel()
	for schema := range int32(4) {
		degree := big.NewInt(1 << schema)
		for index := -29 << schema; index <= 34<<schema; index++ {
			limit := new(big.Rat).SetInt(new(big.Int).Exp(big.NewInt(1e9), degree, nil))
			two := new(big.Rat).SetInt(new(big.Int).Lsh(big.NewInt(1), uint(max(index, -index))))
			if index < 0 {
				two.Inv(two)
			}
			limit.Mul(limit, two)
			power := func(n uint64) *big.Rat {
				return new(big.Rat).SetInt(new(big.Int).Exp(new(big.Int).SetUint64(n), degree, nil))
			}
			bound := latency.ExponentialBound(schema, int32(index))
			if power(bound).Cmp(limit) > 0 || power(bound+1).Cmp(limit) <= 0 {
				t.Fatalf("schema %d index %d: %d ns is not the bound", schema, index, bound)
			}
		}
	}
	if got := latency.ExponentialBound(0, 64); got != math.MaxUint64 {
		t.Errorf("beyond 64 bits: %d", got)
	}
	if got := latency.ExponentialBound(0, -31); got != 0 {
		t.Errorf("below a nanosecond: %d", got)
	}
}

func TestSchema(t *testing.T) {
	t.Parallel()
	of := func(schema, first int32, n int) []uint64 {
		bounds := make([]uint64, n)
		for i := range bounds {
			bounds[i] = latency.ExponentialBound(schema, first+int32(i))
		}
		return bounds
	}
	for schema := range int32(4) {
		first := -20 << schema
		got, at, ok := latency.Schema(of(schema, int32(first)+1, 26<<schema))
		if !ok || got != schema || at != int32(first)+1 {
			t.Errorf("bounds of schema %d from %d: schema %d from %d, %v", schema, first+1, got, at, ok)
		}
	}
	moved := of(2, -80, 100)
	moved[50]++
	for name, bounds := range map[string][]uint64{
		"no bounds":            nil,
		"zero":                 {0},
		"decimal powers":       {1000, 2000, 4000},
		"one bound is off":     moved,
		"a gap":                append(of(1, 0, 3), of(1, 4, 2)...),
		"steps of four":        {250_000_000, 1_000_000_000, 4_000_000_000},
		"equal by rounding":    {1, 1},
		"half of it elsewhere": append(of(0, -3, 2), 999_999_999),
	} {
		if schema, first, ok := latency.Schema(bounds); ok {
			t.Errorf("%s: schema %d from %d", name, schema, first)
		}
	}
}
