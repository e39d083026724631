// Package spooltest makes snapshots for the tests and benchmarks of the spool. What enters: a number. What leaves: always the same
// snapshot for that number. Nothing can go wrong.
package spooltest

import (
	"encoding/binary"
	"fmt"
	"time"

	"github.com/latpush/latpush/internal/latency"
)

// Interval is the time between two numbered snapshots.
const Interval = 15 * time.Second

// start returns the wall clock of snapshot 0.
func start() time.Time { return time.Date(2026, time.November, 1, 6, 30, 0, 250, time.UTC) }

// Instant is when snapshot i was taken: i intervals after the boot began.
func Instant(i int) latency.Instant {
	at := time.Duration(i) * Interval
	return latency.Instant{BootID: [16]byte{'b', 'o', 'o', 't', 15: 1}, Boottime: at, Wall: start().Add(at)}
}

// Number returns which snapshot was taken at an instant.
func Number(taken latency.Instant) int { return int(taken.Boottime / Interval) }

// Snapshot is a small snapshot, the i-th of a boot, that differs from all others in its counts.
func Snapshot(i int) *latency.Snapshot {
	families := []latency.Family{
		{
			Name: "latpush_ticks_total", Help: "Ticks.", Kind: latency.Counter,
			Series: []latency.Series{{Start: time.Second, Value: float64(i)}},
		},
		histogram("nfs_latency_seconds", "operation", i, 3, 6),
	}
	return &latency.Snapshot{Taken: Instant(i), Families: families}
}

// Rebooted is snapshot i in a boot of its own, so that it cannot be left out.
func Rebooted(i int) *latency.Snapshot {
	snapshot := Snapshot(i)
	binary.LittleEndian.PutUint32(snapshot.Taken.BootID[4:], uint32(i))
	return snapshot
}

// Large is the i-th snapshot of a boot with one histogram of that many label sets and bounds.
func Large(i, sets, bounds int) *latency.Snapshot {
	return &latency.Snapshot{Taken: Instant(i), Families: []latency.Family{histogram("syscall_latency_seconds", "syscall", i, sets, bounds)}}
}

// histogram fills the middle buckets, as latencies do, with counts that grow with i and differ between label sets.
func histogram(name, label string, i, sets, bounds int) latency.Family {
	family := latency.Family{
		Name: name, Help: "How long it took.", Unit: "seconds", Kind: latency.Histogram,
		LabelNames: []string{label, "device"}, Bounds: make([]uint64, bounds), Series: make([]latency.Series, sets),
	}
	for b := range family.Bounds {
		family.Bounds[b] = 1000 << b
	}
	for s := range family.Series {
		series := &family.Series[s]
		*series = latency.Series{
			LabelValues: []string{fmt.Sprintf("%s_%04d", label, s), fmt.Sprintf("nvme%dn1", s%4)},
			Start:       2 * time.Second, Counts: make([]uint64, bounds+1),
		}
		for b := bounds / 4; b < bounds*3/4; b++ {
			series.Counts[b] = uint64(i+1) * uint64(s*b%977+1)
			series.Sum += series.Counts[b] * family.Bounds[b] * 3 / 4
		}
	}
	return family
}
