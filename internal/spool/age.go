package spool

import (
	"time"

	"github.com/latpush/latpush/internal/latency"
)

// ages estimates when a snapshot was really taken, for max_age only. Edge hosts boot with a clock that stands at 1970 or at the last
// shutdown and is stepped when the network comes, so the wall clock of a snapshot is not taken at its word.
type ages struct {
	booted map[[16]byte]time.Time // boot id -> when that boot began, by the newest snapshot of it
}

// clockUnset returns whether a wall clock was not set: it shows a moment at which latpush cannot have run.
func clockUnset(wall time.Time) bool { return wall.Year() < 2025 }

// observe learns from a snapshot. Call it in the order of the log: the last word of a boot is the best one.
func (a *ages) observe(taken latency.Instant) {
	if a.booted == nil {
		a.booted = make(map[[16]byte]time.Time)
	}
	a.booted[taken.BootID] = taken.Wall.Add(-taken.Boottime)
}

// expired returns how many of the first segments hold nothing younger than limit.
//
//   - In the boot of now, age is a difference of CLOCK_BOOTTIME, which nobody steps.
//   - In an earlier boot it is now's wall clock minus the moment that the boot's last known offset gives, and no earlier than the segments
//     before it. Where that clock was never set, the age is unknown.
//   - The log is in order of time, so a segment of unknown age goes when one after it is found too old.
func (a *ages) expired(segments []*logSegment, now latency.Instant, limit time.Duration) int {
	var latest time.Time
	count := 0
	for i, g := range segments {
		if g.newest == (latency.Instant{}) {
			continue
		}
		age := now.Boottime - g.newest.Boottime
		if g.newest.BootID != now.BootID {
			if taken := a.booted[g.newest.BootID].Add(g.newest.Boottime); taken.After(latest) {
				latest = taken
			}
			if clockUnset(latest) {
				continue
			}
			age = now.Wall.Sub(latest)
		}
		if age > limit {
			count = i + 1
		}
	}
	return count
}
