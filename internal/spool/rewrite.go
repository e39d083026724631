package spool

import (
	"errors"
	"fmt"
	"io/fs"
	"time"

	"github.com/latpush/latpush/internal/spool/record"
	"github.com/latpush/latpush/internal/spool/segment"
)

// rewrite writes what stays of some segments into a file that takes the name of the first of them, and removes the others. It is synced whatever
// Fsync says: what lay on disk for long must not be lost by being moved.
//
// After a crash at any moment, all that was to stay is there: until the others are removed, what they hold counts and not the copy of it,
// because frames of a segment that are not below the first number of the next one are void. The error is the disk's or errMoved; the segments
// are then as they were.
func (s *Spool) rewrite(d decision, target time.Duration) error {
	first := d.segments[0]
	merged := &logSegment{name: first.name, header: segment.Header{ID: randomID(), First: first.header.First}, tried: target}
	path := s.path(first.name)
	err := s.writeMerged(path+temporarySuffix, merged, d.keep)
	if err == nil {
		err = s.install(path, merged, d.segments)
	}
	if err != nil {
		return errors.Join(err, s.removeFile(path+temporarySuffix))
	}
	s.metrics.thinned.Add(float64(d.thinned))
	for i, g := range d.segments {
		if i > 0 || len(d.keep) == 0 {
			s.doomed = append(s.doomed, g.name)
		}
	}
	return s.removeDoomed()
}

// writeMerged writes snapshots into a new file, and indexes them in the segment that it is to be. It makes none when there are no snapshots.
func (s *Spool) writeMerged(path string, merged *logSegment, keep []place) (err error) {
	if len(keep) == 0 {
		return nil
	}
	f, err := s.fs.Create(path)
	if err != nil {
		return fmt.Errorf("rewrite segment %s: %w", merged.name, err)
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	writer, err := segment.Create(merged.name, f, merged.header, false)
	if err != nil {
		return err
	}
	source := fetcher{spool: s}
	defer source.done()
	var frame []byte
	for _, at := range keep {
		payload, err := source.payload(at.segment, at.entry)
		if err != nil {
			return s.cannotRead(at, err)
		}
		taken, err := record.ReadInstant(payload)
		if err != nil {
			return s.cannotRead(at, malformed(at.segment, at.entry.location(), err))
		}
		frame = append(append(frame[:0], make([]byte, segment.FrameSize)...), payload...)
		written, err := writer.Append(frame, uint64(at.entry.position))
		if err != nil {
			return err
		}
		merged.add(written, taken)
	}
	merged.size = writer.Size()
	return writer.Sync()
}

// install gives a new file the name of a segment, and puts it in the index in the place of those that it replaces.
func (s *Spool) install(path string, merged *logSegment, replaced []*logSegment) error {
	// Nobody opens or removes a segment by its name while the file and the index disagree.
	s.names.Lock()
	defer s.names.Unlock()
	s.mu.Lock()
	list, listed := swap(s.segments, replaced, merged)
	s.mu.Unlock()
	if !listed {
		return errMoved
	}
	if len(merged.entries) > 0 {
		if err := s.fs.Rename(path+temporarySuffix, path); err != nil {
			return fmt.Errorf("rewrite segment %s: %w", merged.name, err)
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.segments = list
	s.bytes += merged.size - sizeOf(replaced)
	return nil
}

// removeDoomed removes the segments that were merged into others, once those are there whatever happens.
func (s *Spool) removeDoomed() error {
	if len(s.doomed) == 0 {
		return nil
	}
	if err := s.fs.SyncDirectory(s.options.Directory); err != nil {
		return fmt.Errorf("rewrite segments: sync directory: %w", err)
	}
	for len(s.doomed) > 0 {
		if err := s.removeFile(s.path(s.doomed[0])); err != nil {
			return fmt.Errorf("remove segment that was merged: %w", err)
		}
		s.doomed = s.doomed[1:]
	}
	return nil
}

// removeFile removes a file that may be gone already.
func (s *Spool) removeFile(path string) error {
	if err := s.fs.Remove(path); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}
