package spool

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"strings"

	"github.com/latpush/latpush/internal/spool/record"
	"github.com/latpush/latpush/internal/spool/segment"
)

// load locks the directory, reads what is in it and brings it in order.
func (s *Spool) load() error {
	if err := s.fs.MakeDirectory(s.options.Directory); err != nil {
		return fmt.Errorf("make directory: %w", err)
	}
	var err error
	if s.lock, err = s.fs.Lock(s.path(lockName)); err != nil {
		return fmt.Errorf("lock directory: %w", err)
	}
	names, err := s.fs.List(s.options.Directory)
	if err != nil {
		return fmt.Errorf("list directory: %w", err)
	}
	for _, name := range names {
		if err := s.loadFile(name); err != nil {
			return err
		}
	}
	if err := s.indexSegments(); err != nil {
		return err
	}
	for _, c := range s.cursors {
		// Without fsync, a power cut can take snapshots that were delivered already.
		s.next = max(s.next, uint64(c.delivered)+1)
	}
	s.written = s.next - 1
	s.removeDelivered(func() {})
	s.countAside()
	return nil
}

// loadFile deals with one file of the directory. Segments are only opened here: each is indexed when all are known.
func (s *Spool) loadFile(name string) error {
	switch first, isSegment := parseSegmentName(name); {
	case isSegment:
		return s.loadSegment(name, first)
	case strings.HasSuffix(name, segmentSuffix+temporarySuffix), strings.HasSuffix(name, cursorSuffix+temporarySuffix):
		if err := s.fs.Remove(s.path(name)); err != nil {
			s.log.Warn("cannot remove unfinished file of the spool", "file", s.path(name), "err", err)
		}
	case strings.HasSuffix(name, cursorSuffix):
		return s.loadCursor(strings.TrimSuffix(name, cursorSuffix))
	}
	return nil
}

func (s *Spool) loadCursor(name string) error {
	found, err := readCursor(s.fs, s.path(name+cursorSuffix))
	switch {
	case errors.Is(err, ErrVersion):
		return fmt.Errorf("read cursor of reader %s: %w (install the newer latpush again, or remove the file to send everything again)", name, err)
	case err != nil && !errors.Is(err, errBadCursor) && !isMedium(err):
		return fmt.Errorf("read cursor of reader %s: %w", name, err)
	case err != nil:
		s.metrics.corrupt.WithLabelValues(kindCursor).Inc()
		s.log.Error("cursor set aside, its reader starts again from the oldest snapshot", "reader", name, "err", err)
		if err := s.setAside(name + cursorSuffix); err != nil {
			return err
		}
		s.cursors[name] = &cursor{name: name, durable: -1}
		return nil
	}
	s.cursors[name] = &cursor{name: name, progress: found}
	return nil
}

// loadSegment reads the header of a segment and puts it at the end of the list, or sets the file aside.
func (s *Spool) loadSegment(name string, first uint64) error {
	header, size, err := s.readHeader(name)
	switch {
	case errors.Is(err, ErrVersion):
		return fmt.Errorf("%w (install the newer latpush again, or give this one another spool.directory)", err)
	case err != nil && !errors.Is(err, ErrCorrupt) && !isMedium(err):
		return err
	case err == nil && header.First != first:
		err = &CorruptError{Segment: name, Length: segment.HeaderSize, Reason: fmt.Sprintf("header says that it begins at %d", header.First)}
	case err == nil && size > math.MaxUint32:
		err = &CorruptError{Segment: name, Length: size, Reason: "file larger than a segment can be"}
	}
	if err != nil {
		// The numbers that may be in the file are not given out again, nor is its name.
		s.next = max(s.next, first+1)
		return s.setAsideSegment(name, err)
	}
	s.next = max(s.next, first)
	s.segments = append(s.segments, &logSegment{name: name, header: header, size: size})
	s.bytes += size
	return nil
}

func (s *Spool) readHeader(name string) (segment.Header, int64, error) {
	f, err := s.fs.Open(s.path(name), false)
	if err != nil {
		return segment.Header{}, 0, err
	}
	defer f.Close()
	size, err := f.Size()
	if err != nil {
		return segment.Header{}, 0, err
	}
	header, err := segment.ReadHeader(name, f)
	return header, size, err
}

func (s *Spool) setAsideSegment(name string, reason error) error {
	s.metrics.corrupt.WithLabelValues(kindSegment).Inc()
	s.log.Error("segment set aside, its snapshots cannot be delivered", "segment", s.path(name), "offset", 0, "err", reason)
	return s.setAside(name)
}

// setAside renames a file to a name that was not used yet.
func (s *Spool) setAside(name string) error {
	to := name + corruptSuffix
	for i := 2; ; i++ {
		f, err := s.fs.Open(s.path(to), false)
		if errors.Is(err, fs.ErrNotExist) {
			break
		}
		if err != nil {
			return fmt.Errorf("set aside %s: %w", name, err)
		}
		_ = f.Close()
		to = fmt.Sprintf("%s.%d%s", name, i, corruptSuffix)
	}
	err := s.fs.Rename(s.path(name), s.path(to))
	if err == nil {
		err = s.syncDirectory()
	}
	if err != nil {
		// The disk refuses; what is in the file is not read all the same, and the next open tries again.
		s.metrics.diskErrors.Inc()
		s.log.Warn("cannot set file of the spool aside, it stays under its name", "file", s.path(name), "err", err)
	}
	return nil
}

// indexSegments reads all frames of all segments, and makes the last segment the active one when it is in order and has room.
func (s *Spool) indexSegments() error {
	found := s.segments
	s.segments = nil
	for i, g := range found {
		bound := uint64(math.MaxUint64)
		if i+1 < len(found) {
			bound = found[i+1].header.First
		}
		state, err := s.openAndIndex(g, bound)
		if err != nil {
			return err
		}
		last := bound == math.MaxUint64
		if !last && state.damaged > 0 && len(g.entries) == 0 {
			s.bytes -= g.size
			if err := s.setAsideSegment(g.name, errors.New("no record in it can be read")); err != nil {
				return err
			}
			continue
		}
		g.damaged = state.damaged > 0
		s.segments = append(s.segments, g)
		if last && state.whole && state.end < s.options.SegmentBytes {
			s.resume(g, state.end)
		}
	}
	if n := len(s.segments); n > 0 && s.active == nil {
		// The next segment must not get the name of one that is there.
		s.next = max(s.next, s.segments[n-1].header.First+1)
	}
	return nil
}

// segmentState is what reading all frames of a segment told beside the snapshots.
type segmentState struct {
	end     int64 // where the next frame may be written
	whole   bool  // every byte could be read
	damaged int   // stretches that were counted as damage
}

func (s *Spool) openAndIndex(g *logSegment, bound uint64) (segmentState, error) {
	f, err := s.fs.Open(s.path(g.name), false)
	if err != nil {
		return segmentState{}, fmt.Errorf("open segment %s: %w", g.name, err)
	}
	defer f.Close()
	return s.indexSegment(g, f, bound)
}

// indexSegment reads all frames of a segment. Those whose numbers are not below bound are void.
func (s *Spool) indexSegment(g *logSegment, f file, bound uint64) (segmentState, error) {
	state := segmentState{end: segment.HeaderSize, whole: true}
	scanner, unread := segment.NewScanner(g.name, f, g.header, g.size), int64(0)
	for {
		found, err := scanner.Next()
		var damage *CorruptError
		switch {
		case errors.Is(err, io.EOF):
			if bound == math.MaxUint64 {
				// More numbers than frames fit into what could not be read: should it become readable again, they are still unique.
				s.next = max(s.next, scanner.Last()+1+uint64(unread/segment.FrameSize))
			}
			return state, nil
		case errors.As(err, &damage):
			if damage.Err != nil {
				if !isMedium(damage.Err) {
					return state, fmt.Errorf("read segment %s: %w", g.name, damage.Err)
				}
				state.whole = false
				unread += damage.Length
			}
			if isTorn(damage, bound, scanner.Last()) {
				s.log.Warn("torn write at the end of a segment of the spool",
					"segment", s.path(g.name), "offset", damage.Offset, "bytes", damage.Length, "reason", damage.Reason)
				continue
			}
			s.countDamage(damage)
			state.damaged++
			state.end = damage.Offset + damage.Length
		case err != nil:
			return state, err
		case found.Sequence < bound:
			if err := s.indexRecord(g, found, &state); err != nil {
				return state, err
			}
		}
	}
}

// isTorn reports whether a damaged stretch is no loss: a write that was under way when the machine stopped, or that the writer gave up
// and repeated in the next segment, the first number of which is bound.
func isTorn(damage *CorruptError, bound, last uint64) bool {
	if bound == math.MaxUint64 {
		return damage.Tail && damage.Err == nil
	}
	return damage.Sequence >= bound || damage.Sequence == 0 && damage.Tail && last+1 >= bound
}

// indexRecord adds a record to the index of its segment. The error is ErrVersion.
func (s *Spool) indexRecord(g *logSegment, found segment.Record, state *segmentState) error {
	state.end = found.Offset + int64(found.Length)
	taken, err := record.ReadInstant(found.Payload)
	switch {
	case errors.Is(err, record.ErrVersion):
		return fmt.Errorf("%w: segment %s, offset %d: %w (install the newer latpush again, or give this one another spool.directory)",
			ErrVersion, g.name, found.Offset, err)
	case err != nil:
		s.countDamage(malformed(g, found.Location, err))
		state.damaged++
		return nil
	}
	g.add(found.Location, taken)
	return nil
}

// malformed is the error for a record whose checksum is right and which is none.
func malformed(g *logSegment, at segment.Location, err error) *CorruptError {
	return &CorruptError{Segment: g.name, Offset: at.Offset, Length: int64(at.Length), Sequence: at.Sequence, Reason: "malformed record", Err: err}
}

func (s *Spool) countDamage(damage *CorruptError) {
	s.metrics.corrupt.WithLabelValues(kindRecord).Inc()
	s.log.Error("damaged record skipped", "segment", s.path(damage.Segment), "offset", damage.Offset, "bytes", damage.Length, "err", damage)
}

// resume makes a segment the active one. When that is not possible, the next append begins a new one.
func (s *Spool) resume(g *logSegment, end int64) {
	f, err := s.fs.Open(s.path(g.name), true)
	if err != nil {
		s.log.Warn("cannot continue the last segment, a new one will be begun", "segment", s.path(g.name), "err", err)
		return
	}
	writer, err := segment.Resume(g.name, f, g.header, end, s.policy.syncsEach())
	if err == nil && s.policy.delay > 0 {
		err = writer.Sync()
	}
	if err != nil {
		_ = f.Close()
		s.log.Warn("cannot continue the last segment, a new one will be begun", "segment", s.path(g.name), "err", err)
		return
	}
	s.bytes += end - g.size
	g.size = end
	s.file, s.writer, s.active = f, writer, g
}
