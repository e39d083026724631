package latency

import (
	"slices"
	"strconv"
	"strings"
)

// LEInf is the le value of the last bucket of every classic histogram.
const LEInf = "+Inf"

// LE gives the value of the le label for an inclusive upper bound in nanoseconds: the shortest decimal of the float64 seconds, such as "1e-06", "0.001024"
// or "67.108864", and with ".0" behind an integral number that has no exponent: "1.0", "10.0".
//
// The classic text format of the Go client writes the last two as "1" and "10". Its OpenMetrics format writes "1.0" and "10.0", and Prometheus 3 rewrites the
// le of every histogram that it scrapes to that form, whatever the target sent. A remote write receiver stores the sender's string as it is. So only the
// OpenMetrics form makes a pushed histogram join, in one sum by (le), with a scraped one of the same bounds. Prometheus 2 did not rewrite: there a histogram
// scraped in the classic format keeps "1". Bounds that are no whole number of seconds, all of the default ones among them, are the same string everywhere.
func LE(bound uint64) string {
	s := strconv.FormatFloat(Seconds(bound), 'g', -1, 64)
	if strings.ContainsAny(s, ".e") {
		return s
	}
	return s + ".0"
}

// Cumulative turns the counts of single buckets into the counts of le buckets: element i is the sum of counts[0] to counts[i], so the last one is the value of
// le="+Inf" and of _count. The result has the length of counts and is written over dst, which is grown when it is too short and may be counts itself.
func Cumulative(dst, counts []uint64) []uint64 {
	dst = slices.Grow(dst[:0], len(counts))[:len(counts)]
	var sum uint64
	for i, n := range counts {
		sum += n
		dst[i] = sum
	}
	return dst
}

// Seconds turns nanoseconds into seconds with one division, so that the result is the float64 nearest to the exact quotient for every ns up to 2^53 (104 days).
func Seconds(ns uint64) float64 {
	return float64(ns) / 1e9
}
