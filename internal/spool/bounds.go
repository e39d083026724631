package spool

import (
	"slices"
	"time"

	"github.com/latpush/latpush/internal/latency"
	"github.com/latpush/latpush/internal/spool/segment"
)

// makeRoom makes sure that one more frame keeps the spool within its bound: it removes what every reader has delivered, thins, and drops the
// oldest segment when thinning finds nothing more to leave out. The active segment stays. The error is the disk's.
func (s *Spool) makeRoom(frame int64) error {
	if err := s.removeDoomed(); err != nil {
		return err
	}
	limit := int64(s.options.MaxBytes) - s.headroom() - frame - segment.HeaderSize
	for {
		s.mu.Lock()
		used, full := s.bytes, len(s.full())
		s.mu.Unlock()
		if used <= limit && full <= s.maxSegments() {
			if used < int64(s.options.MaxBytes)/2 {
				s.regimes.relax(s.log)
			}
			return nil
		}
		progress, err := s.reduceSomething(used <= limit)
		if err != nil {
			return err
		}
		if !progress && (used <= limit || !s.dropOldest()) {
			return nil
		}
	}
}

// maxSegments bounds the number of files: of segments that cannot be merged, any two neighbours are larger than one.
func (s *Spool) maxSegments() int { return 2*int(int64(s.options.MaxBytes)/s.options.SegmentBytes) + 8 }

// reduceSomething makes one step towards a smaller spool, or towards fewer segments alone, and reports whether there was one to make.
func (s *Spool) reduceSomething(mergeOnly bool) (bool, error) {
	room := s.options.SegmentBytes
	s.mu.Lock()
	list, candidates := s.candidates(false)
	r, found := chooseSmall(candidates, float64(room))
	if !mergeOnly {
		r, found = run{to: 1}, s.deliveredBytes(list) >= room/8
	}
	s.mu.Unlock()
	if found {
		return true, s.reduce(list, r, room, false)
	}
	if mergeOnly {
		return false, nil
	}
	progress, err := s.thin(false)
	if progress {
		s.regimes.thinning.begin(func() {
			s.log.Warn("the spool has reached its size, old snapshots are thinned: their totals stay exact, their resolution becomes coarser with age",
				"max_size", s.options.MaxBytes)
		})
	}
	return progress, err
}

// deliveredBytes returns how much of the first segment every reader has delivered. The caller holds mu.
func (s *Spool) deliveredBytes(list []*logSegment) (bytes int64) {
	if len(list) == 0 {
		return 0
	}
	g := list[0]
	if g.damaged {
		return 0
	}
	for _, e := range g.entries[:g.before(s.deliveredByAll())] {
		bytes += int64(e.length)
	}
	return bytes
}

// dropOldest drops the oldest segment because of the spool's size, and reports whether there was one to drop.
func (s *Spool) dropOldest() bool {
	dropped, undelivered := s.drop(reasonSize, func() int { return min(1, len(s.full())) })
	if undelivered > 0 {
		s.regimes.dropping.begin(func() {
			s.log.Error("the spool has reached its size and cannot be thinned more, the oldest snapshots are dropped",
				"max_size", s.options.MaxBytes, "undelivered", undelivered)
		})
	}
	return dropped > 0
}

// dropExpired drops the segments that are too old, judged by the clock of the newest snapshot.
func (s *Spool) dropExpired(now latency.Instant) {
	age := time.Duration(s.options.MaxAge)
	_, undelivered := s.drop(reasonAge, func() int { return s.expired(now, age) })
	switch {
	case undelivered > 0:
		s.regimes.expiring.begin(func() {
			s.log.Warn("the oldest snapshots are dropped because of their age", "max_age", s.options.MaxAge, "undelivered", undelivered)
		})
	case s.regimes.expiring.on:
		s.mu.Lock()
		old := s.expired(now, age/2)
		s.mu.Unlock()
		if old == 0 {
			s.regimes.expiring.on = false
		}
	}
}

// drop counts and removes as many of the oldest segments as the function says, which is called with mu held.
func (s *Spool) drop(reason string, howMany func() int) (segments, undelivered int) {
	s.mu.Lock()
	dropped := s.takeFirst(howMany())
	undelivered = s.countDropped(dropped, reason)
	s.mu.Unlock()
	s.remove(dropped)
	return len(dropped), undelivered
}

// full returns the segments that are not written to. The caller holds mu.
func (s *Spool) full() []*logSegment {
	if s.active != nil {
		return s.segments[:len(s.segments)-1]
	}
	return s.segments
}

// takeFirst takes the first n segments off the list. The caller holds mu.
func (s *Spool) takeFirst(n int) []*logSegment {
	taken := slices.Clone(s.segments[:n])
	s.segments = s.segments[n:]
	for _, g := range taken {
		s.bytes -= g.size
	}
	return taken
}

// removeDelivered makes a change to a cursor, which is called with mu held, and removes the segments that every reader has delivered then.
func (s *Spool) removeDelivered(change func()) {
	s.names.RLock()
	defer s.names.RUnlock()
	s.mu.Lock()
	change()
	delivered, n := s.deliveredByAll(), 0
	for _, g := range s.full() {
		if len(g.after(delivered)) != 0 {
			break
		}
		n++
	}
	taken := s.takeFirst(n)
	s.trimMemory(delivered)
	s.mu.Unlock()
	s.remove(taken)
}

// remove removes the files of segments that were taken off the list. One that cannot be removed comes back at the next open.
func (s *Spool) remove(segments []*logSegment) {
	for _, g := range segments {
		if err := s.fs.Remove(s.path(g.name)); err != nil {
			s.log.Warn("cannot remove segment of the spool", "segment", s.path(g.name), "err", err)
		}
	}
}
