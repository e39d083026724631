package spool

import (
	"iter"
	"slices"
	"time"

	"github.com/latpush/latpush/internal/latency"
)

// synchronized returns whether the kernel says that something keeps the wall clock right.
func synchronized() bool {
	is, err := latency.Synchronized()
	return is && err == nil
}

// expired returns how many of the first segments hold nothing younger than limit. The caller holds mu.
func (s *Spool) expired(now latency.Instant, limit time.Duration) int {
	return expired(slices.Collect(s.all()), len(s.full()), now, limit, s.synchronised)
}

// expired returns how many of the first n segments of all hold nothing younger than limit. Edge hosts boot with a clock that stands at 1970 or
// at the last shutdown and is stepped when the network comes, or with one that is years ahead, so the wall clock is not taken at its word.
//
//   - In the boot of now, age is a difference of CLOCK_BOOTTIME, which nobody steps.
//   - In an earlier boot, a snapshot is at least as old as the time that the host was up since.
//   - Where the kernel says that the wall clock is right now, age is also now's wall clock minus the moment that the last known offset of the
//     snapshot's boot gives, and no earlier than the segments before it; but nothing where that clock was never set.
//   - The log is in order of time, so a segment of unknown age goes when one after it is found too old.
func expired(all []*logSegment, n int, now latency.Instant, limit time.Duration, synchronised func() bool) int {
	booted := make(map[[16]byte]time.Time)
	for _, g := range all {
		for _, stay := range g.stays {
			booted[stay.newest.BootID] = stay.newest.Wall.Add(-stay.newest.Boottime)
		}
	}
	up := uptimes(all, now)
	isRight := slices.ContainsFunc(all[:n], func(g *logSegment) bool { return g.newest().BootID != now.BootID }) && synchronised()
	var latest time.Time
	count := 0
	for i, g := range all[:n] {
		newest := g.newest()
		if newest == (latency.Instant{}) {
			continue
		}
		age := up[i]
		if newest.BootID != now.BootID {
			if taken := booted[newest.BootID].Add(newest.Boottime); taken.After(latest) {
				latest = taken
			}
			if isRight && !latency.Unset(latest) {
				age = max(age, now.Wall.Sub(latest))
			}
		}
		if age > limit {
			count = i + 1
		}
	}
	return count
}

// uptimes returns how long the host was up, as far as the log knows, since the newest snapshot of each segment.
func uptimes(all []*logSegment, now latency.Instant) []time.Duration {
	up := make([]time.Duration, len(all))
	earlier := now.Boottime // the boot of now, and what is known of those before it
	for i := len(all) - 1; i >= 0; i-- {
		newest := all[i].newest()
		if newest.BootID == now.BootID {
			up[i] = now.Boottime - newest.Boottime
			continue
		}
		if i+1 < len(all) {
			earlier += all[i].until(all[i+1])
		}
		up[i] = earlier
		earlier += all[i].uptime
	}
	return up
}

// Boot is what the spool knows of one boot of the host.
type Boot struct {
	ID    [16]byte
	Began time.Time     // the wall clock at boottime 0, by the newest snapshot of that boot
	Last  time.Duration // CLOCK_BOOTTIME of its newest snapshot
}

// Boots returns the boots of the snapshots that the spool holds, in the order of the log.
func (s *Spool) Boots() []Boot {
	s.mu.Lock()
	defer s.mu.Unlock()
	return bootsOf(s.all())
}

func bootsOf(segments iter.Seq[*logSegment]) (boots []Boot) {
	for g := range segments {
		for _, stay := range g.stays {
			taken := stay.newest
			boot := Boot{ID: taken.BootID, Began: taken.Wall.Add(-taken.Boottime), Last: taken.Boottime}
			if n := len(boots); n > 0 && boots[n-1].ID == boot.ID {
				boots[n-1] = boot
				continue
			}
			boots = append(boots, boot)
		}
	}
	return boots
}
