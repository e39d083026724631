package kernel

import (
	"math/big"
)

// MaxSchema is the finest schema of exponential bounds: eight to each power of two.
const MaxSchema = 3

// ExponentialBound returns the bound of the given index in an exponential schema, 2^(index/2^schema) seconds, in whole nanoseconds, rounded down. Since
// latencies are whole nanoseconds too, one is at most this number exactly when it is at most the irrational bound. Schema is from 0 to MaxSchema.
// The bound saturates at 2^64-1 and is 0 below a nanosecond.
func ExponentialBound(schema, index int32) uint64 {
	// The root of degree 2^schema of 2^index * (10^9)^(2^schema): a chain of integer square roots, each rounded down, rounds down as a whole.
	n := new(big.Int).Exp(big.NewInt(1e9), big.NewInt(1<<schema), nil)
	if index >= 0 {
		n.Lsh(n, uint(index))
	} else {
		n.Rsh(n, uint(-index))
	}
	for range schema {
		n.Sqrt(n)
	}
	if !n.IsUint64() {
		return ^uint64(0)
	}
	return n.Uint64()
}

// exponentialBounds returns the bounds of a schema from the last one that is at most low to the first one that is at least high, both in nanoseconds.
func exponentialBounds(schema int32, low, high uint64) []uint64 {
	first := int32(0)
	for ExponentialBound(schema, first) > low {
		first--
	}
	for ExponentialBound(schema, first+1) <= low {
		first++
	}
	var bounds []uint64
	for i := first; ; i++ {
		bound := ExponentialBound(schema, i)
		bounds = append(bounds, bound)
		if bound >= high {
			return bounds
		}
	}
}
