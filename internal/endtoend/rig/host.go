package rig

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/latpush/latpush/internal/latency"
)

// The families that a host has, beside each other in every snapshot.
const (
	Latency = "work_latency_seconds" // histograms, with the label operation
	Events  = "work_events_total"    // a counter of all events of this boot
	Ticks   = "work_ticks"           // a gauge: the number of the snapshot, from 1
)

// HostOptions describe a host. Zero values mean the defaults.
type HostOptions struct {
	Seed     uint64
	Sets     int           // label sets; default 4
	Busy     int           // how many of them, chosen anew each tick, count something; default all
	Bounds   []uint64      // nanoseconds; default 27 powers of two from 1 us
	Metric   string        // name of the histograms; default Latency
	Interval time.Duration // between ticks; default 15 s
	Began    time.Time     // wall clock of the first tick; needed
}

// Host counts latencies as the programs in the kernel do, and remembers what it has counted in all its lives. It is for one goroutine.
type Host struct {
	// Clock is the host's, which is not bound to the goroutine.
	Clock *Clock

	o      HostOptions
	random *rand.Rand
	boots  uint64
	ticks  int
	now    latency.Instant
	start  time.Duration // CLOCK_BOOTTIME when the agent attached
	events uint64        // of this boot
	sets   []set
}

// set is one label set.
type set struct {
	labels []string
	start  time.Duration
	life   Total // since start
	all    Total
	resets int
}

// Total is what a histogram has counted.
type Total struct {
	Counts []uint64 // per bucket, not cumulative, the last one for +Inf
	Sum    uint64   // nanoseconds
}

// Count is the number of events.
func (t Total) Count() uint64 {
	var n uint64
	for _, count := range t.Counts {
		n += count
	}
	return n
}

func (t *Total) add(bucket int, count, nanoseconds uint64) {
	t.Counts[bucket] += count
	t.Sum += nanoseconds
}

func (t Total) clone() Total { return Total{Counts: slices.Clone(t.Counts), Sum: t.Sum} }

// Powers returns n powers of two from 1 us, in nanoseconds: the default bounds of every source.
func Powers(n int) []uint64 {
	bounds := make([]uint64, n)
	for i := range bounds {
		bounds[i] = 1000 << i
	}
	return bounds
}

// NewHost makes a host that has just booted.
func NewHost(o HostOptions) *Host {
	if o.Sets == 0 {
		o.Sets = 4
	}
	if o.Busy == 0 {
		o.Busy = o.Sets
	}
	if o.Bounds == nil {
		o.Bounds = Powers(27)
	}
	if o.Metric == "" {
		o.Metric = Latency
	}
	if o.Interval == 0 {
		o.Interval = 15 * time.Second
	}
	h := &Host{o: o, random: rand.New(rand.NewPCG(o.Seed, 1)), sets: make([]set, o.Sets), Clock: new(Clock)}
	for i := range h.sets {
		h.sets[i].labels = []string{Operation(i)}
		h.sets[i].all = h.zero()
	}
	h.now.Wall = o.Began.Add(-o.Interval)
	h.boot()
	return h
}

// Operation is the label value of the i-th label set. In the order of the numbers they are sorted.
func Operation(i int) string { return fmt.Sprintf("operation-%04d", i) }

func (h *Host) zero() Total { return Total{Counts: make([]uint64, len(h.o.Bounds)+1)} }

func (h *Host) boot() {
	h.boots++
	h.now.BootID = [16]byte{}
	binary.BigEndian.PutUint64(h.now.BootID[:], h.o.Seed)
	binary.BigEndian.PutUint64(h.now.BootID[8:], h.boots)
	h.now.Boottime = 40 * time.Second
	h.Clock.set(h.now)
	h.start = 30 * time.Second
	h.events = 0
	for i := range h.sets {
		h.sets[i].life, h.sets[i].start = h.zero(), h.start
	}
}

// Reboot starts the host again after it was off for a while. All counting begins at zero.
func (h *Host) Reboot(off time.Duration) {
	for i := range h.sets {
		h.sets[i].resets++
	}
	h.now.Wall = h.now.Wall.Add(off)
	h.boot()
}

// Reset lets the counting of one label set begin again within the boot, as when its source was detached and attached.
func (h *Host) Reset(i int) {
	s := &h.sets[i]
	s.life, s.start = h.zero(), h.now.Boottime
	s.resets++
}

// Tick lets one interval go by and returns what is counted at its end. The snapshot shares no memory with the host.
func (h *Host) Tick() *latency.Snapshot {
	h.ticks++
	h.now.Wall = h.now.Wall.Add(h.o.Interval)
	h.now.Boottime += h.o.Interval
	h.Clock.set(h.now)
	for i := range h.o.Busy {
		if h.o.Busy < h.o.Sets {
			i = h.random.IntN(h.o.Sets)
		}
		h.work(&h.sets[i])
	}
	return h.snapshot()
}

// work counts a few events of a label set: most of them around a latency of its own, and now and then one beyond the last bound.
func (h *Host) work(s *set) {
	buckets := len(h.o.Bounds)
	for range 3 {
		bucket := min(buckets/3+int(h.random.ExpFloat64()*3), buckets)
		lower, upper := uint64(0), 2*h.o.Bounds[buckets-1]
		if bucket > 0 {
			lower = h.o.Bounds[bucket-1]
		}
		if bucket < buckets {
			upper = h.o.Bounds[bucket]
		}
		count := 1 + h.random.Uint64N(20)
		nanoseconds := count * (lower + 1 + h.random.Uint64N(upper-lower))
		s.life.add(bucket, count, nanoseconds)
		s.all.add(bucket, count, nanoseconds)
		h.events += count
	}
}

func (h *Host) snapshot() *latency.Snapshot {
	histograms := latency.Family{
		Name: h.o.Metric, Help: "How long the work took.", Unit: "seconds", Kind: latency.Histogram, Bounds: h.o.Bounds, LabelNames: []string{"operation"},
		Series: make([]latency.Series, len(h.sets)),
	}
	for i := range h.sets {
		s := &h.sets[i]
		histograms.Series[i] = latency.Series{LabelValues: s.labels, Start: s.start, Sum: s.life.Sum, Counts: slices.Clone(s.life.Counts)}
	}
	families := []latency.Family{
		histograms,
		{Name: Events, Help: "Events.", Kind: latency.Counter, Series: []latency.Series{{Start: h.start, Value: float64(h.events)}}},
		{Name: Ticks, Help: "Number of the snapshot.", Kind: latency.Gauge, Series: []latency.Series{{Value: float64(h.ticks)}}},
	}
	latency.SortFamilies(families)
	return &latency.Snapshot{Taken: h.now, Families: families}
}

// Histograms returns the family of the histograms in a snapshot.
func Histograms(s *latency.Snapshot) *latency.Family {
	return &s.Families[slices.IndexFunc(s.Families, func(f latency.Family) bool { return f.Kind == latency.Histogram })]
}

// Last is when the last tick was.
func (h *Host) Last() latency.Instant { return h.now }

// Ticked is the number of snapshots so far.
func (h *Host) Ticked() int { return h.ticks }

// Total is what the i-th label set has counted in all its lives.
func (h *Host) Total(i int) Total { return h.sets[i].all.clone() }

// Resets is how often the counting of the i-th label set began again, reboots included.
func (h *Host) Resets(i int) int { return h.sets[i].resets }
