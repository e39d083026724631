package spool

import (
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/latpush/latpush/internal/latency"
	"github.com/latpush/latpush/internal/spool/segment"
)

// Append adds a snapshot at the end and applies the bounds. When it returns nil, readers get the snapshot, and with Fsync always it is
// durable, unless the disk refuses: then it is kept in memory, and written in its order as soon as the disk takes it, which each Append tries.
// When Append returns an error no reader gets the snapshot, and everything appended before is still there. The error wraps ErrInvalid,
// ErrTooLarge or ErrClosed. The snapshot is not kept.
func (s *Spool) Append(snapshot *latency.Snapshot) error {
	s.appending.Lock()
	defer s.appending.Unlock()
	if err := s.append(snapshot); err != nil {
		s.metrics.appendErrors.Inc()
		return fmt.Errorf("append to spool %s: %w", s.options.Directory, err)
	}
	return nil
}

func (s *Spool) append(snapshot *latency.Snapshot) error {
	s.mu.Lock()
	closed, sequence := s.closed, s.next
	s.mu.Unlock()
	if closed {
		return ErrClosed
	}
	if err := s.encode(snapshot); err != nil {
		return err
	}
	s.dropExpired(snapshot.Taken)
	h := loose{sequence: sequence, taken: snapshot.Taken, frame: s.frame}
	if err := s.write(&h); err != nil {
		if int64(len(s.frame)) > int64(s.options.MaxMemory) {
			return fmt.Errorf("%w: record of %d bytes, and the disk refuses it: %w (raise spool.max_memory)", ErrTooLarge, len(s.frame), err)
		}
		s.keep(h)
		s.refuse(err)
	} else {
		s.accept()
	}
	s.metrics.appended.Inc()
	s.metrics.appendedBytes.Add(float64(len(h.frame)))
	return nil
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

// loose is a snapshot outside of the segments.
type loose struct {
	sequence uint64
	taken    latency.Instant
	frame    []byte
}

// write writes what is in memory, oldest first, and then one more snapshot, unless that is nil. It stops at the first error.
func (s *Spool) write(last *loose) error {
	for {
		h, inMemory := s.firstInMemory()
		if !inMemory {
			if last == nil {
				return nil
			}
			h = *last
		}
		if s.isOver(len(h.frame)) {
			// A sync that fails now gives snapshots back, which are written first.
			s.leave()
			continue
		}
		if err := s.writeOne(h); err != nil {
			return err
		}
		if !inMemory {
			return nil
		}
	}
}

// isOver reports whether the active segment is to be left: it has no room for a frame of that length, or its file was removed by somebody. A
// frame that is larger than a segment gets one of its own.
func (s *Spool) isOver(length int) bool {
	if s.writer == nil {
		return false
	}
	s.mu.Lock()
	active := s.active
	lost := active.lost
	s.mu.Unlock()
	if removed, err := s.file.Removed(); !lost && removed && err == nil {
		s.missing(active)
		lost = true
	}
	return lost || s.writer.Size() > segment.HeaderSize && s.writer.Size()+int64(length) > s.options.SegmentBytes
}

// writeOne writes a snapshot and shows it to the readers. Where a write failed and the place itself is suspect, it is tried once more in a new
// segment.
func (s *Spool) writeOne(h loose) error {
	if err := s.makeRoom(int64(len(h.frame))); err != nil {
		return err
	}
	var reason error
	for {
		if s.writer == nil {
			if err := s.begin(); err != nil {
				return errors.Join(reason, err)
			}
		}
		at, err := s.writer.Append(h.frame, h.sequence)
		if err == nil {
			s.publish(at, h)
			return nil
		}
		if s.writer.Usable() {
			return errors.Join(reason, err)
		}
		s.leave()
		if reason != nil {
			return errors.Join(reason, err)
		}
		s.log.Warn("write to the spool did not succeed, writing the snapshot again in a new segment", "err", err)
		reason = err
		s.metrics.diskErrors.Inc()
	}
}

// publish shows a snapshot that is in the active segment to the readers, there instead of in memory.
func (s *Spool) publish(at segment.Location, h loose) {
	s.written = h.sequence
	if s.policy.delay > 0 {
		s.awaitSync(h)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.active.add(at, h.taken)
	s.bytes += s.writer.Size() - s.active.size
	s.active.size = s.writer.Size()
	s.trimMemory(Position(h.sequence))
	s.announce(h.sequence)
}

// announce wakes the readers when a snapshot is new to them. The caller holds mu.
func (s *Spool) announce(sequence uint64) {
	if sequence < s.next {
		return
	}
	s.next = sequence + 1
	close(s.changed)
	s.changed = make(chan struct{})
}

// begin makes a new segment active, on disk under its final name. There is no active one.
func (s *Spool) begin() error {
	// Behind all that was written, and before all that may have been: frames in earlier segments from this number on are void.
	header := segment.Header{ID: randomID(), First: s.written + 1}
	name := segmentName(header.First)
	f, writer, err := s.create(name, header)
	if err != nil {
		return fmt.Errorf("create segment %s: %w", s.path(name), err)
	}
	g := &logSegment{name: name, header: header, size: writer.Size()}
	s.file, s.writer = f, writer
	s.countAside()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.segments = append(s.segments, g)
	s.active = g
	s.bytes += g.size
	return nil
}

// create writes the header under a temporary name, so that a segment is never seen without one. A file that has the final name already
// holds nothing: only an abandoned segment without a snapshot can begin with the same number.
func (s *Spool) create(name string, header segment.Header) (file, *segment.Writer, error) {
	path := s.path(name)
	f, err := s.fs.Create(path + temporarySuffix)
	if err != nil {
		return nil, nil, err
	}
	writer, err := segment.Create(name, f, header, s.policy.syncsEach())
	if err == nil && s.policy.delay > 0 {
		err = writer.Sync()
	}
	if err == nil {
		err = s.fs.Rename(path+temporarySuffix, path)
	}
	if err == nil {
		err = s.syncDirectory()
	}
	if err != nil {
		// Whatever is left of it is written over by the next attempt, or removed at open.
		return nil, nil, errors.Join(err, f.Close())
	}
	return f, writer, nil
}

// leave closes the active segment, which is never written again. What of it could not be synced goes back into memory.
func (s *Spool) leave() {
	if s.writer == nil {
		return
	}
	if len(s.unsynced) > 0 {
		if err := s.writer.Sync(); err != nil {
			s.takeBack(err)
		}
		s.unsynced = nil
	}
	err := s.writer.Close()
	s.writer, s.file = nil, nil
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

func randomID() uint64 {
	var b [8]byte
	_, _ = rand.Read(b[:]) // never returns an error
	return binary.LittleEndian.Uint64(b[:])
}
