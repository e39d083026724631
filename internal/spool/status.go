package spool

import (
	"strings"
	"time"
)

// status is what the gauges show.
type status struct {
	bytes     int64
	memory    int64   // bytes
	healthy   float64 // 1 or 0
	coarsest  time.Duration
	aside     fileCount
	snapshots int
	pending   map[string]int // reader -> snapshots
	oldest    time.Time      // wall clock of the oldest that some reader has not delivered; without readers, of the oldest of all
}

// fileCount counts files.
type fileCount struct {
	files int
	bytes int64
}

func (s *Spool) status() status {
	s.mu.Lock()
	defer s.mu.Unlock()
	st := status{bytes: s.bytes, memory: sizeOf(s.memory), healthy: 1, aside: s.aside, pending: make(map[string]int, len(s.cursors))}
	if s.refused != nil {
		st.healthy = 0
	}
	for name, c := range s.cursors {
		st.pending[name] = 0
		if c.failing {
			st.healthy = 0
		}
	}
	delivered := s.deliveredByAll()
	for g := range s.all() {
		st.snapshots += len(g.entries)
		for name, c := range s.cursors {
			st.pending[name] += len(g.after(c.delivered))
		}
		if rest := g.after(delivered); st.oldest.IsZero() && len(rest) > 0 {
			st.oldest = g.instant(rest[0]).Wall
		}
	}
	for _, g := range s.full() {
		st.coarsest = max(st.coarsest, g.interval())
	}
	return st
}

// countAside counts the files that were set aside. What cannot be seen is not counted.
func (s *Spool) countAside() {
	names, err := s.fs.List(s.options.Directory)
	if err != nil {
		return
	}
	var found fileCount
	for _, name := range names {
		if !strings.HasSuffix(name, corruptSuffix) {
			continue
		}
		found.files++
		if f, err := s.fs.Open(s.path(name), false); err == nil {
			size, _ := f.Size()
			found.bytes += size
			_ = f.Close()
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.aside = found
}
