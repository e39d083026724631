package spool

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"slices"
)

// Readers returns the names of all cursors, open or not, sorted. Each holds back the removal of segments until Forget.
func (s *Spool) Readers() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Sorted(maps.Keys(s.cursors))
}

// Forget removes the cursor of a reader that will not come back, and the segments that only it held. The reader must be closed
// (ErrReaderOpen); a name without a cursor is no error.
func (s *Spool) Forget(name string) error {
	s.mu.Lock()
	c := s.cursors[name]
	if s.closed || c == nil || c.open {
		defer s.mu.Unlock()
		switch {
		case s.closed:
			return fmt.Errorf("forget reader %s: %w", name, ErrClosed)
		case c != nil:
			return fmt.Errorf("forget reader %s: %w (close it first)", name, ErrReaderOpen)
		}
		return nil
	}
	delete(s.cursors, name)
	delivered := s.takeDelivered()
	s.mu.Unlock()
	s.remove(delivered)
	if err := s.fs.Remove(s.path(name + cursorSuffix)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("forget reader %s: %w", name, err)
	}
	if err := s.syncDirectory(); err != nil {
		return fmt.Errorf("forget reader %s: sync directory: %w", name, err)
	}
	return nil
}

// change returns a channel that is closed at the next append, or is closed already when the spool is.
func (s *Spool) change() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.changed
}

// following returns the first snapshot behind a position.
func (s *Spool) following(p Position) (*logSegment, entry, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, g := range s.segments {
		if rest := g.after(p); len(rest) > 0 {
			return g, rest[0], true
		}
	}
	return nil, entry{}, false
}

// damaged takes a snapshot that cannot be read out of the index, so that it is counted and logged once however many readers find it.
func (s *Spool) damaged(g *logSegment, e entry, damage *CorruptError) {
	s.mu.Lock()
	found := g.forget(e.position)
	s.mu.Unlock()
	if found {
		s.countDamage(damage)
	}
}

// missing takes a segment off the list whose file somebody else removed. When the spool removed it itself, it is not there any more.
func (s *Spool) missing(g *logSegment) {
	s.mu.Lock()
	defer s.mu.Unlock()
	i := slices.Index(s.segments, g)
	if i < 0 {
		return
	}
	undelivered := s.countDropped(s.segments[i:i+1], reasonMissing)
	s.log.Error("segment of the spool is missing, somebody removed it", "segment", s.path(g.name), "undelivered", undelivered)
	if g == s.active {
		// The writer belongs to the appender: it will see the mark and begin another segment.
		g.entries, g.lost = nil, true
		return
	}
	s.segments = slices.Delete(s.segments, i, i+1)
	s.bytes -= g.size
}
