package spool

import (
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/latpush/latpush/internal/latency"
	"github.com/latpush/latpush/internal/spool/segment"
)

// Append adds a snapshot at the end and then applies the bounds. With fsync: always it is durable when Append returns nil. When it
// returns an error no reader gets the snapshot (unless a crash follows and its bytes turn out to be on disk after all), everything
// appended before is still there, and Append may be called again: it works as soon as the disk does. The error wraps ErrInvalid,
// ErrTooLarge, ErrClosed or what the operating system said. The snapshot is not kept.
func (s *Spool) Append(snapshot *latency.Snapshot) error {
	s.appending.Lock()
	defer s.appending.Unlock()
	if err := s.append(snapshot); err != nil {
		s.metrics.appendErrors.Inc()
		return fmt.Errorf("append to spool %s: %w", s.options.Directory, err)
	}
	s.metrics.appended.Inc()
	s.metrics.appendedBytes.Add(float64(len(s.frame)))
	s.applyBounds(snapshot.Taken)
	return nil
}

func (s *Spool) append(snapshot *latency.Snapshot) error {
	s.mu.Lock()
	closed, sequence, lost := s.closed, s.next, s.active != nil && s.active.lost
	s.mu.Unlock()
	if closed {
		return ErrClosed
	}
	if err := s.encode(snapshot); err != nil {
		return err
	}
	if s.writer == nil || lost || s.isFull() {
		if err := s.begin(sequence); err != nil {
			return err
		}
	}
	at, err := s.writer.Append(s.frame, sequence)
	if errors.Is(err, segment.ErrSync) {
		at, err = s.appendAgain(sequence, err)
	}
	if err != nil {
		if s.writer != nil && !s.writer.Usable() {
			s.leave()
		}
		return err
	}
	s.publish(at, snapshot.Taken)
	return nil
}

// isFull reports whether the frame goes beyond the size of a segment. One that is larger than a segment gets one of its own.
func (s *Spool) isFull() bool {
	return s.writer.Size() > segment.HeaderSize && s.writer.Size()+int64(len(s.frame)) > s.options.SegmentBytes
}

// encode fills s.frame, leaving room for the frame header.
func (s *Spool) encode(snapshot *latency.Snapshot) error {
	if cap(s.frame) < segment.FrameSize {
		s.frame = make([]byte, segment.FrameSize)
	}
	frame, err := s.encoder.Encode(s.frame[:segment.FrameSize], snapshot)
	if err != nil {
		return err
	}
	s.frame = frame
	// Half of the bound, so that dropping segments always makes room for the next one.
	if limit := min(int64(s.options.MaxBytes)/2, segment.FrameSize+segment.MaxPayload) - segment.HeaderSize; int64(len(frame)) > limit {
		return fmt.Errorf("%w: record of %d bytes, at most %d are allowed (raise spool.max_size or lower max_label_sets)", ErrTooLarge, len(frame), limit)
	}
	return nil
}

// appendAgain writes the frame into a new segment after a sync of the active one failed.
func (s *Spool) appendAgain(sequence uint64, reason error) (segment.Location, error) {
	s.log.Warn("sync of the spool did not succeed, writing the snapshot again in a new segment", "err", reason)
	if err := s.begin(sequence); err != nil {
		return segment.Location{}, errors.Join(reason, err)
	}
	at, err := s.writer.Append(s.frame, sequence)
	if err != nil {
		return segment.Location{}, errors.Join(reason, err)
	}
	return at, nil
}

// begin leaves the active segment and makes a new one active, on disk under its final name.
func (s *Spool) begin(first uint64) error {
	// Left first, whatever comes next: once a later segment may exist on disk, frames in this one with its numbers would be void.
	s.leave()
	header := segment.Header{ID: randomID(), First: first}
	name := segmentName(first)
	writer, err := s.create(name, header)
	if err != nil {
		return fmt.Errorf("create segment %s: %w", s.path(name), err)
	}
	g := &logSegment{name: name, header: header, size: writer.Size()}
	s.writer = writer
	s.mu.Lock()
	defer s.mu.Unlock()
	s.segments = append(s.segments, g)
	s.active = g
	s.bytes += g.size
	return nil
}

// create writes the header under a temporary name, so that a segment is never seen without one. A file that has the final name already
// holds nothing: only an abandoned segment without a snapshot can begin with the same number.
func (s *Spool) create(name string, header segment.Header) (*segment.Writer, error) {
	path := s.path(name)
	f, err := s.fs.Create(path + temporarySuffix)
	if err != nil {
		return nil, err
	}
	writer, err := segment.Create(name, f, header, s.fsync())
	if err == nil {
		err = s.fs.Rename(path+temporarySuffix, path)
	}
	if err == nil {
		err = s.syncDirectory()
	}
	if err != nil {
		// Whatever is left of it is written over by the next attempt, or removed at open.
		return nil, errors.Join(err, f.Close())
	}
	return writer, nil
}

// leave closes the active segment, which is never written again.
func (s *Spool) leave() {
	if s.writer == nil {
		return
	}
	err := s.writer.Close()
	s.writer = nil
	s.mu.Lock()
	defer s.mu.Unlock()
	if err != nil {
		s.log.Warn("cannot close segment of the spool", "segment", s.path(s.active.name), "err", err)
	}
	if len(s.active.entries) == 0 {
		// Its name will be taken over by the segment that begins with the same number, so nobody may remove it by that name.
		s.segments = s.segments[:len(s.segments)-1]
		s.bytes -= s.active.size
	}
	s.active = nil
}

// publish shows an appended snapshot to the readers.
func (s *Spool) publish(at segment.Location, taken latency.Instant) {
	s.ages.observe(taken)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.active.add(at, taken)
	s.bytes += s.writer.Size() - s.active.size
	s.active.size = s.writer.Size()
	s.next = at.Sequence + 1
	close(s.changed)
	s.changed = make(chan struct{})
}

func randomID() uint64 {
	var b [8]byte
	_, _ = rand.Read(b[:]) // never returns an error
	return binary.LittleEndian.Uint64(b[:])
}
