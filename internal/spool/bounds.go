package spool

import (
	"time"

	"github.com/latpush/latpush/internal/latency"
)

// applyBounds drops the oldest segments while the spool is too large or they are too old, judged by the clock of the newest snapshot.
// The active segment stays. The caller holds appending.
func (s *Spool) applyBounds(now latency.Instant) {
	s.drop(reasonAge, func() int { return s.ages.expired(s.full(), now, time.Duration(s.options.MaxAge)) })
	s.drop(reasonSize, s.excess)
}

// excess returns how many of the oldest segments have to go until the rest is small enough. The caller holds mu.
func (s *Spool) excess() int {
	n, left := 0, s.bytes
	for _, g := range s.full() {
		if left <= int64(s.options.MaxBytes) {
			break
		}
		n++
		left -= g.size
	}
	return n
}

// drop counts and removes as many of the oldest segments as the function says, which is called with mu held.
func (s *Spool) drop(reason string, howMany func() int) {
	s.mu.Lock()
	dropped := s.takeFirst(howMany())
	undelivered := s.countDropped(dropped, reason)
	s.mu.Unlock()
	if undelivered > 0 {
		s.log.Warn("oldest snapshots dropped at a bound of the spool", "reason", reason, "undelivered", undelivered, "segments", len(dropped))
	}
	s.remove(dropped)
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
	taken := s.segments[:n:n]
	s.segments = s.segments[n:]
	for _, g := range taken {
		s.bytes -= g.size
	}
	return taken
}

// takeDelivered takes the segments off the list that every reader has delivered. The caller holds mu, or is alone.
func (s *Spool) takeDelivered() []*logSegment {
	delivered, n := s.deliveredByAll(), 0
	for _, g := range s.full() {
		if len(g.after(delivered)) != 0 {
			break
		}
		n++
	}
	return s.takeFirst(n)
}

// remove removes the files of segments that were taken off the list. One that cannot be removed comes back at the next open.
func (s *Spool) remove(segments []*logSegment) {
	for _, g := range segments {
		if err := s.fs.Remove(s.path(g.name)); err != nil {
			s.log.Warn("cannot remove segment of the spool", "segment", s.path(g.name), "err", err)
		}
	}
}
