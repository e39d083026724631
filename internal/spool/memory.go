package spool

import (
	"bytes"
	"errors"
	"fmt"
	"slices"

	"github.com/latpush/latpush/internal/spool/segment"
)

// looseOverhead is about what a snapshot in memory costs beside its frame, in bytes.
const looseOverhead = 128

// refuse notes that the disk did not take a snapshot.
func (s *Spool) refuse(err error) {
	s.metrics.diskErrors.Inc()
	s.mu.Lock()
	first := s.refused == nil
	s.refused = err
	s.mu.Unlock()
	if first {
		s.log.Error("the disk refuses snapshots, they are kept in memory until it takes them (make room on it, or see what is wrong with it)",
			"directory", s.options.Directory, "err", err)
	}
}

// accept notes that the disk took everything, and tries the cursors again that it has refused.
func (s *Spool) accept() {
	s.mu.Lock()
	before := s.refused
	s.refused = nil
	s.mu.Unlock()
	if before != nil {
		s.regimes.memory.on = false
		s.log.Info("the disk takes snapshots again, none is left in memory", "directory", s.options.Directory)
	}
	if s.cursorsFail() {
		// A failure is counted; the reader's next Commit returns it.
		_ = s.saveCursors()
	}
}

// keep puts a snapshot behind those in memory, shows it to the readers and applies the bound of memory.
func (s *Spool) keep(h loose) {
	h.frame = bytes.Clone(h.frame)
	s.mu.Lock()
	s.memory = s.appendLoose(s.memory, h)
	s.announce(h.sequence)
	s.mu.Unlock()
	s.boundMemory()
}

// appendLoose puts a snapshot at the end of a list of chunks.
func (s *Spool) appendLoose(chunks []*logSegment, h loose) []*logSegment {
	size := int64(len(h.frame)) + looseOverhead
	n := len(chunks)
	if n == 0 || chunks[n-1].size+size > s.chunkBytes() {
		chunks = append(chunks, &logSegment{frames: make(map[Position][]byte)})
		n++
	}
	g := chunks[n-1]
	g.add(segment.Location{Sequence: h.sequence, Length: len(h.frame)}, h.taken)
	g.frames[Position(h.sequence)] = h.frame
	g.size += size
	return chunks
}

func (s *Spool) chunkBytes() int64 { return int64(s.options.MaxMemory) / memoryChunks }

// firstInMemory returns the oldest snapshot in memory.
func (s *Spool) firstInMemory() (loose, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, g := range s.memory {
		if len(g.entries) > 0 {
			return g.loose(0), true
		}
	}
	return loose{}, false
}

// loose returns a snapshot of a chunk in memory.
func (g *logSegment) loose(i int) loose {
	e := g.entries[i]
	return loose{sequence: uint64(e.position), taken: g.instant(e), frame: g.frames[e.position]}
}

// payloadInMemory returns the record of a snapshot in memory.
func (s *Spool) payloadInMemory(g *logSegment, p Position) ([]byte, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	frame, found := g.frames[p]
	if !found || !slices.Contains(s.memory, g) {
		return nil, errMoved
	}
	return frame[segment.FrameSize:], nil
}

// trimMemory takes the snapshots up to a position out of memory. The caller holds mu.
func (s *Spool) trimMemory(p Position) {
	for len(s.memory) > 0 {
		g := s.memory[0]
		n := g.before(p)
		for _, e := range g.entries[:n] {
			g.size -= int64(len(g.frames[e.position])) + looseOverhead
			delete(g.frames, e.position)
		}
		g.entries = g.entries[n:]
		if len(g.entries) > 0 {
			return
		}
		s.memory = s.memory[1:]
	}
}

// boundMemory thins what is in memory, or drops the oldest of it, until it is within its bound.
func (s *Spool) boundMemory() {
	for {
		s.mu.Lock()
		excess := sizeOf(s.memory) - int64(s.options.MaxMemory)
		s.mu.Unlock()
		if excess <= 0 {
			return
		}
		thinned, err := s.thin(true)
		if err != nil {
			s.log.Warn("cannot thin the snapshots in memory", "err", err)
		}
		if !thinned {
			s.dropFromMemory()
		}
	}
}

// dropFromMemory drops the oldest chunk of memory.
func (s *Spool) dropFromMemory() {
	s.mu.Lock()
	dropped := s.memory[:1]
	s.memory = s.memory[1:]
	undelivered := s.countDropped(dropped, reasonMemory)
	s.mu.Unlock()
	s.regimes.memory.begin(func() {
		s.log.Error("oldest snapshots in memory dropped, the disk still refuses them", "undelivered", undelivered)
	})
}

func sizeOf(segments []*logSegment) (bytes int64) {
	for _, g := range segments {
		bytes += g.size
	}
	return bytes
}

// takeBack puts what is in the active segment and could not be synced into memory again, in front of what is there.
func (s *Spool) takeBack(reason error) {
	s.metrics.diskErrors.Inc()
	s.log.Warn("sync of the spool did not succeed, writing the snapshots since the last one again in a new segment",
		"snapshots", len(s.unsynced), "err", reason)
	first := s.unsynced[0].sequence
	var chunks []*logSegment
	for _, h := range s.unsynced {
		chunks = s.appendLoose(chunks, h)
	}
	s.unsynced = nil
	s.mu.Lock()
	defer s.mu.Unlock()
	// What the segment says of boots stays as it is: it is as true of the next one.
	n := s.active.before(Position(first) - 1)
	s.active.entries = s.active.entries[:n]
	s.written = s.active.header.First - 1
	if n > 0 {
		s.written = uint64(s.active.entries[n-1].position)
	}
	s.memory = append(chunks, s.memory...)
	s.trimMemory(s.deliveredByAll())
}

// writeLast writes and syncs what is left when the spool closes.
func (s *Spool) writeLast() error {
	err := s.write(nil)
	if len(s.unsynced) > 0 {
		s.leave()
		if err == nil {
			err = s.write(nil)
		}
		s.leave()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	lost := 0
	for _, g := range s.memory {
		lost += len(g.entries)
	}
	if lost == 0 {
		return nil
	}
	return errors.Join(fmt.Errorf("%d snapshots that the disk refused are lost", lost), err)
}
