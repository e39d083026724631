package latency

import "time"

// Kind is the Prometheus type of a family.
type Kind uint8

// The kinds a family can have. The numbers are part of the spool's record format.
const (
	Histogram Kind = 1
	Counter   Kind = 2
	Gauge     Kind = 3
)

// Snapshot is everything one tick read: a complete, self-contained state of all families.
type Snapshot struct {
	Taken    Instant
	Families []Family // sorted by name
}

// Instant is one moment on the clocks of this host. Two instants of one boot are ordered by Boottime however the wall clock was stepped.
type Instant struct {
	BootID   [16]byte      // the kernel's random boot id (/proc/sys/kernel/random/boot_id)
	Boottime time.Duration // CLOCK_BOOTTIME: since boot, suspend included
	Wall     time.Time     // CLOCK_REALTIME as it was believed at that moment
}

// Family is one metric with all its label sets.
type Family struct {
	Name       string
	Help       string
	Unit       string // OpenMetrics unit, "seconds" for latency histograms, may be empty
	Kind       Kind
	Bounds     []uint64 // histograms: inclusive upper bounds in nanoseconds, ascending, without +Inf
	LabelNames []string
	Series     []Series // sorted by label values
}

// Series is the state of one label set.
type Series struct {
	LabelValues []string      // one for each of Family.LabelNames; an empty value means that the label is absent
	Start       time.Duration // CLOCK_BOOTTIME, of the snapshot's boot, when counting began at zero; 0 for gauges
	Sum         uint64        // histograms: exact nanoseconds
	Counts      []uint64      // histograms: per bucket, not cumulative, len(Family.Bounds)+1
	Value       float64       // counters and gauges
}
