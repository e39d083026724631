package wallclock

import (
	"slices"
	"time"

	"github.com/latpush/latpush/internal/latency"
	"github.com/latpush/latpush/internal/spool"
)

// Settle returns the best estimate of when a snapshot was taken, in the light of all that is known now. Boots are those that the spool holds
// snapshots of, in the order of the log. Settled times of one boot are as far apart as their CLOCK_BOOTTIMEs, to within half a second, and a boot
// ends before the next one begins.
//
// The recorded wall time is kept when it agrees with the boot's beginning, or else made from that. This boot's beginning is what the clock shows
// now; an earlier boot's is what its newest snapshot believed, see place.
func (c *Clock) Settle(taken latency.Instant, boots []spool.Boot) time.Time {
	c.mu.Lock()
	now := c.clock.Now()
	c.follow(now)
	began, known := c.began, true
	if trusted := c.certain(now); taken.BootID != now.BootID || !trusted {
		began, known = find(c.place(boots, now, trusted), taken.BootID)
	}
	c.mu.Unlock()
	settled := began.Add(taken.Boottime)
	if !known || distance(taken.Wall, settled) <= tolerance {
		return taken.Wall
	}
	return settled
}

// patience is the time since boot after which a clock that the kernel does not call synchronised is believed: what synchronises clocks has long done
// so where it runs, and where none runs, everything else on the host goes by this clock too. A host that was right before must not have its live
// data dated into the future for ever because the clock was ahead in its last boot.
const patience = time.Hour

// certain reports whether this boot's clock is believed more than those of earlier boots. The caller holds mu.
func (c *Clock) certain(now latency.Instant) bool {
	return !latency.Unset(now.Wall) && (c.trusted || now.Boottime >= patience)
}

// stay is one boot of the host on the wall clock.
type stay struct {
	id    [16]byte
	began time.Time
	last  time.Duration // from there to the last thing known of it
	known bool          // began is a belief and no guess
}

func (s *stay) end() time.Time { return s.began.Add(s.last) }

// find returns when a boot began.
func find(stays []stay, id [16]byte) (began time.Time, found bool) {
	i := slices.IndexFunc(stays, func(s stay) bool { return s.id == id })
	if i < 0 {
		return time.Time{}, false
	}
	return stays[i].began, true
}

// place returns the boots with the best estimate of when each of them began. The caller holds mu.
//
// A clock that nobody set stands too early, seldom too late: at 1970, or at the last shutdown. So beliefs that contradict each other are pushed
// forward, the later boot behind the earlier one, but never into what is certain: this boot, once its clock is believed, because the kernel said that
// it is synchronised or for its patience. What does not fit before that is pushed back again.
func (c *Clock) place(boots []spool.Boot, now latency.Instant, trusted bool) []stay {
	stays := c.stays(boots, now, trusted)
	present := &stays[len(stays)-1]
	last := -1        // the last boot whose time is known
	var end time.Time // of the boots so far, once one is known
	for i := range stays {
		s := &stays[i]
		if !s.known {
			end = end.Add(s.last)
			continue
		}
		if last >= 0 && s.began.Before(end) && (s != present || !trusted) {
			s.began = end
		}
		last, end = i, s.end()
	}
	// From the last one back, no boot ends after the next one begins, and of those in between nothing is known but that.
	for i := last - 1; i >= 0; i-- {
		if next := stays[i+1].began; !stays[i].known || stays[i].end().After(next) {
			stays[i].began = next.Add(-stays[i].last)
		}
	}
	// Behind it, none begins before the one before it ended.
	for i := last + 1; i < len(stays); i++ {
		if i > 0 && stays[i].began.Before(stays[i-1].end()) {
			stays[i].began = stays[i-1].end()
		}
	}
	if !trusted && present.began.Before(c.earliest) {
		present.began = c.earliest
	}
	if !trusted && len(stays) > 1 {
		c.earliest = later(c.earliest, stays[len(stays)-2].end())
	}
	return stays
}

// stays returns the boots in order, this one last, with what each of them believed. The caller holds mu.
func (c *Clock) stays(boots []spool.Boot, now latency.Instant, trusted bool) []stay {
	stays := make([]stay, 0, len(boots)+1)
	for _, b := range boots {
		s := stay{id: b.ID, began: b.Began, last: b.Last}
		s.known = !latency.Unset(s.end())
		if trusted && s.end().After(c.began) {
			s.known = false // it believed to run when this boot did
		}
		stays = append(stays, s)
	}
	stays = slices.DeleteFunc(stays, func(s stay) bool { return s.id == now.BootID })
	return append(stays, stay{id: now.BootID, began: c.began, last: now.Boottime, known: !latency.Unset(now.Wall)})
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}
