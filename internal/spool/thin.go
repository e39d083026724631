package spool

import (
	"errors"
	"io/fs"
	"slices"
	"time"
)

// Thinning leaves out snapshots so that the distance of those that stay is roughly proportional to their age. It works on runs of neighbouring
// segments: each step takes the run that is the finest for its age, leaves out about every other snapshot of it, and makes one segment of the
// rest. So about as many bytes are written again as are freed.

// headroom is what a step may need on disk beside the segments there are, in bytes.
func (s *Spool) headroom() int64 { return s.options.SegmentBytes + s.options.SegmentBytes/tolerance }

// thin makes one step, on disk or in memory, and reports whether there was one to make. When it finds out that there is little to free in a
// run, it frees nothing, and the run is not tried again in this way. The error is the disk's; another time it may go better.
func (s *Spool) thin(inMemory bool) (bool, error) {
	room := s.options.SegmentBytes
	if inMemory {
		room = s.chunkBytes()
	}
	s.mu.Lock()
	list, candidates := s.candidates(inMemory)
	r, found := choose(candidates, float64(room))
	s.mu.Unlock()
	if !found {
		return false, nil
	}
	return true, s.reduce(list, r, room+room/tolerance, inMemory)
}

// reduce decides about a run and puts what stays of it, of at most room bytes if that can be, in its place.
func (s *Spool) reduce(list []*logSegment, r run, room int64, inMemory bool) error {
	s.mu.Lock()
	st := s.view(list, r)
	s.mu.Unlock()
	d, err := s.plan(st, room)
	switch {
	case errors.Is(err, errMoved):
		return nil
	case err != nil:
		return err
	case r.target > 0 && d.freed < sizeOf(d.segments)/16:
		s.mu.Lock()
		defer s.mu.Unlock()
		for _, g := range d.segments {
			g.tried = max(g.tried, r.target)
		}
		return nil
	case inMemory:
		s.replaceInMemory(d, r.target)
		return nil
	}
	if err := s.rewrite(d, r.target); !errors.Is(err, errMoved) {
		return err
	}
	return nil
}

// cannotRead deals with a snapshot of a run that cannot be read. Where that will not change, its segment is to stay as it is, and the error is
// errMoved.
func (s *Spool) cannotRead(at place, err error) error {
	var damage *CorruptError
	switch {
	case errors.As(err, &damage):
		s.damaged(at.segment, at.entry, damage)
	case errors.Is(err, fs.ErrNotExist):
		s.missing(at.segment)
	case isMedium(err):
		s.log.Warn("cannot read segment of the spool, it stays as it is", "segment", s.path(at.segment.name), "err", err)
		s.mu.Lock()
		at.segment.damaged = true
		s.mu.Unlock()
	default:
		return err
	}
	return errMoved
}

// replaceInMemory puts what stays of some chunks in their place.
func (s *Spool) replaceInMemory(d decision, target time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	merged := &logSegment{frames: make(map[Position][]byte), tried: target}
	for _, at := range d.keep {
		// A reader may have delivered it meanwhile.
		if frame, found := at.segment.frames[at.entry.position]; found {
			merged.add(at.entry.location(), at.segment.instant(at.entry))
			merged.frames[at.entry.position] = frame
			merged.size += int64(len(frame)) + looseOverhead
		}
	}
	list, replaced := swap(s.memory, d.segments, merged)
	if replaced {
		s.memory = list
		s.metrics.thinned.Add(float64(d.thinned))
	}
}

// swap puts a segment where others are in a list, or nothing when it is empty. It reports false when not all of them are there any more.
func swap(list, out []*logSegment, in *logSegment) ([]*logSegment, bool) {
	i := slices.Index(list, out[0])
	if i < 0 || i+len(out) > len(list) || !slices.Equal(list[i:i+len(out)], out) {
		return list, false
	}
	var replacement []*logSegment
	if len(in.entries) > 0 {
		replacement = []*logSegment{in}
	}
	return slices.Concat(list[:i], replacement, list[i+len(out):]), true
}
