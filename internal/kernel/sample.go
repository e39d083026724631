package kernel

import "time"

// Kind is what a metric's samples are.
type Kind int

// The kinds of metrics.
const (
	KindHistogram Kind = iota // of durations
	KindCounter               // of events that have no duration
	KindGauge                 // a state at the time of reading
)

// Metric is one family that a source counts in the kernel.
type Metric struct {
	Name   string // Prometheus metric name with its unit, such as "nfs_latency_seconds"
	Help   string // one sentence, ends with a full stop
	Kind   Kind
	Labels []string // label names in the order of Sample.Values
	Bounds []uint64 // of a histogram: inclusive upper bounds in nanoseconds, strictly ascending, without +Inf
}

// Sample is what the kernel has counted for one label set of one metric since that label set's counting began, summed over CPUs.
type Sample struct {
	Metric         *Metric
	Values         []string      // label values, one for each of Metric.Labels
	Start          time.Duration // CLOCK_BOOTTIME when the counting of the label set began, 0 if it began when the source was loaded
	SumNanoseconds uint64        // of a histogram: exact sum of all observed durations
	Counts         []uint64      // of a histogram: events per bucket, not cumulative: len(Metric.Bounds)+1, the last one is above every bound
	Value          float64       // of a counter and a gauge
}

// Loss counts events of one source that could not be counted in a histogram, for one reason.
type Loss struct {
	Source string
	Reason string // a word such as "in_flight_full"; deploy/reference.md explains all
	Events uint64 // since the source was loaded
}
