// Package latency makes Prometheus histograms of what the kernel counted.
//
// Samples of package kernel enter. Snapshots leave: families of series with label names and values, inclusive bucket bounds and counts in
// exact nanoseconds and start times, beside the functions that make `le` values, cumulative buckets and seconds of them. A snapshot is a whole
// state, so any one of them can be left out without losing counts. Nothing here does I/O, except that the clock is read.
package latency
