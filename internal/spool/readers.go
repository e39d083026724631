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
	var c *cursor
	var err error
	s.removeDelivered(func() {
		switch c = s.cursors[name]; {
		case s.closed:
			err = ErrClosed
		case c != nil && c.open:
			err = fmt.Errorf("%w (close it first)", ErrReaderOpen)
		default:
			delete(s.cursors, name)
		}
	})
	if err != nil {
		return fmt.Errorf("forget reader %s: %w", name, err)
	}
	if c == nil {
		return nil
	}
	c.saving.Lock()
	defer c.saving.Unlock()
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
	for g := range s.all() {
		if rest := g.after(p); len(rest) > 0 {
			return g, rest[0], true
		}
	}
	return nil, entry{}, false
}

// damaged takes a snapshot that cannot be read out of the index, so that it is counted and logged once however many readers find it. The file
// stays as it is.
func (s *Spool) damaged(g *logSegment, e entry, damage *CorruptError) {
	s.mu.Lock()
	found := (slices.Contains(s.segments, g) || slices.Contains(s.memory, g)) && g.forget(e.position)
	g.damaged = true
	s.mu.Unlock()
	if found {
		s.countDamage(damage)
	}
}

// missing takes a segment off the list whose file somebody else removed. When the spool removed it itself, it is not there any more.
func (s *Spool) missing(g *logSegment) {
	s.names.RLock()
	defer s.names.RUnlock()
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
