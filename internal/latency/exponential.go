package latency

import (
	"math"

	"github.com/latpush/latpush/internal/kernel"
)

// ExponentialBound returns the bound of the given index in the schema of a native histogram, 2^(index/2^schema) seconds, in whole nanoseconds, rounded down:
// a latency, which is a whole number of nanoseconds, is at most this number exactly when it is at most the bound. Schema is from 0 to 3.
func ExponentialBound(schema, index int32) uint64 { return kernel.ExponentialBound(schema, index) }

// Schema returns the schema of the native histogram that has these bucket bounds, in nanoseconds, without a gap, and the index of the first one. Of several,
// it is the coarsest. Ok is false for bounds of any other shape; they can be sent as custom bounds.
func Schema(bounds []uint64) (schema, first int32, ok bool) {
	if len(bounds) == 0 || bounds[0] == 0 {
		return 0, 0, false
	}
	for schema = range kernel.MaxSchema + 1 {
		first = int32(math.Round(math.Log2(Seconds(bounds[0])) * float64(int32(1)<<schema)))
		if follows(bounds, schema, first) {
			return schema, first, true
		}
	}
	return 0, 0, false
}

func follows(bounds []uint64, schema, first int32) bool {
	for i, bound := range bounds {
		if bound != ExponentialBound(schema, first+int32(i)) || i > 0 && bound == bounds[i-1] {
			return false
		}
	}
	return true
}
