package spool

import (
	"slices"
	"time"
)

// run is a number of neighbouring segments that are to be thinned into one.
type run struct {
	from, to int           // of the list, to excluded
	target   time.Duration // the distance at which snapshots are to stay
}

// candidate is what the choice of a run depends on, for one segment.
type candidate struct {
	size    float64       // bytes
	spacing time.Duration // of its snapshots, or to which it was thinned already; 0 when nothing in it can be left out
	age     time.Duration // of its newest snapshot, in time that the host was up
	fixed   bool          // not to be rewritten
}

// choose returns the run that is the finest for its age, of those that free enough and make one segment of at most room bytes. It asks for
// much first, since what is written is then little for what is freed.
func choose(candidates []candidate, room float64) (run, bool) {
	for _, share := range []float64{7. / 8, 1. / 2, 1. / 8} {
		if r, found := chooseRun(candidates, room, share*room); found {
			return r, true
		}
	}
	return run{}, false
}

func chooseRun(candidates []candidate, room, least float64) (best run, found bool) {
	lowest := 0.0
	for from := range candidates {
		target := time.Duration(0)
		for to := from; to < len(candidates) && candidates[to].spacing > 0; to++ {
			target = max(target, 2*candidates[to].spacing)
			before, after := thinnedSize(candidates[from:to+1], target)
			if to > from && after > room {
				break
			}
			coarseness := float64(target) / float64(max(candidates[to].age, time.Second))
			if before-after >= least && (!found || coarseness < lowest) {
				best, found, lowest = run{from, to + 1, target}, true, coarseness
			}
		}
	}
	return best, found
}

// thinnedSize returns the size of segments, and what is expected to be left of it.
func thinnedSize(candidates []candidate, target time.Duration) (before, after float64) {
	for _, c := range candidates {
		before += c.size
		after += c.size * float64(c.spacing) / float64(target)
	}
	return before, after
}

// chooseSmall returns the neighbouring segments that together are the smallest, two at least, when they fit into one of at most room bytes.
func chooseSmall(candidates []candidate, room float64) (r run, found bool) {
	smallest := room
	for i := 1; i < len(candidates); i++ {
		if size := candidates[i-1].size + candidates[i].size; size <= smallest && !candidates[i-1].fixed && !candidates[i].fixed {
			r, found, smallest = run{from: i - 1, to: i + 1}, true, size
		}
	}
	if !found {
		return r, false
	}
	for size := smallest; r.to < len(candidates) && size+candidates[r.to].size <= room && !candidates[r.to].fixed; r.to++ {
		size += candidates[r.to].size
	}
	return r, true
}

// candidates returns the segments of a list to which nothing is added any more, and what the choice of a run depends on. The caller holds mu.
func (s *Spool) candidates(inMemory bool) ([]*logSegment, []candidate) {
	all := slices.Collect(s.all())
	ages := make([]time.Duration, len(all))
	for i := len(all) - 2; i >= 0; i-- {
		ages[i] = ages[i+1] + all[i+1].uptime + all[i].until(all[i+1])
	}
	list, first := s.full(), 0
	if inMemory {
		list, first = s.memory[:max(0, len(s.memory)-1)], len(s.segments)
	}
	candidates := make([]candidate, len(list))
	for i, g := range list {
		spacing := max(g.interval(), g.tried)
		if spacing == 0 && first+i > 0 {
			spacing = all[first+i-1].until(g)
		}
		if g.rigid || g.damaged {
			spacing = 0
		}
		candidates[i] = candidate{size: float64(g.size), spacing: spacing, age: ages[first+i], fixed: g.damaged}
	}
	return slices.Clone(list), candidates
}

// until returns the time from the newest snapshot of a segment to the oldest of the one behind it, 0 when they are of different boots.
func (g *logSegment) until(next *logSegment) time.Duration {
	newest := g.newest()
	if newest.BootID != next.oldest.BootID {
		return 0
	}
	return max(0, next.oldest.Boottime-newest.Boottime)
}
