package spool

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"sync"
	"syscall"

	"github.com/latpush/latpush/internal/latency"
	"github.com/latpush/latpush/internal/spool/record"
)

// readAttempts is how often reading one snapshot may fail with an I/O error before it is given up like a damaged one: a bad block
// must not hold the queue for ever, and a moment without a disk must not lose what is on it.
const readAttempts = 3

// Reader hands out the snapshots behind a durable cursor. Meant for one goroutine; Close and Spool.Close may come from another.
type Reader struct {
	spool  *Spool
	cursor *cursor

	mu       sync.Mutex // guards the rest
	position Position   // handed out last
	highest  Position   // handed out ever
	segment  *logSegment
	file     file // of segment, nil when none is open
	buffer   []byte
	decoder  record.Decoder
	failed   Position // which could not be read, and how often
	failures int
	closed   bool
}

// Reader opens the cursor of that name, or makes one that starts at the oldest snapshot. From then on segments stay until this reader
// has delivered them too, or a bound is reached, whether the reader is open or not, until Forget. The name becomes part of a file
// name: letters, digits, '-' and '_'. The error wraps ErrReaderOpen or ErrClosed.
func (s *Spool) Reader(name string) (*Reader, error) {
	if err := checkReaderName(name); err != nil {
		return nil, err
	}
	s.mu.Lock()
	c := s.cursors[name]
	switch {
	case s.closed:
		s.mu.Unlock()
		return nil, fmt.Errorf("open reader %s: %w", name, ErrClosed)
	case c == nil:
		c = &cursor{name: name}
		s.cursors[name] = c
	case c.open:
		s.mu.Unlock()
		return nil, fmt.Errorf("open reader %s: %w already", name, ErrReaderOpen)
	}
	c.open = true
	r := &Reader{spool: s, cursor: c, position: c.delivered, highest: c.delivered}
	s.readers[r] = struct{}{}
	s.mu.Unlock()
	if err := r.save(); err != nil {
		// The reader works without; each Commit tries again.
		s.log.Warn("cannot write the cursor of a new reader", "reader", name, "err", err)
	}
	return r, nil
}

// Next returns the next snapshot and its position, waiting until there is one. The error is ctx's, wraps ErrClosed, or is an I/O error;
// after an I/O error Next may be called again, with a pause. A snapshot that the disk refuses to read three times in a row is given up.
func (r *Reader) Next(ctx context.Context) (*latency.Snapshot, Position, error) {
	for {
		changed := r.spool.change()
		snapshot, p, ok, err := r.TryNext()
		if ok || err != nil {
			return snapshot, p, err
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, 0, ctx.Err()
		}
	}
}

// TryNext is Next without waiting: ok is false when there is nothing more now.
func (r *Reader) TryNext() (snapshot *latency.Snapshot, p Position, ok bool, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for {
		if r.closed {
			return nil, 0, false, fmt.Errorf("read as %s: %w", r.cursor.name, ErrClosed)
		}
		g, e, found := r.spool.following(r.position)
		if !found {
			return nil, 0, false, nil
		}
		snapshot, err := r.read(g, e)
		var damage *CorruptError
		switch {
		case err == nil:
			r.position, r.highest = e.position, max(r.highest, e.position)
			return snapshot, e.position, true, nil
		case errors.As(err, &damage):
			r.spool.damaged(g, e, damage)
		case errors.Is(err, fs.ErrNotExist):
			r.spool.missing(g)
		default:
			return nil, 0, false, fmt.Errorf("read as %s: %w", r.cursor.name, err)
		}
	}
}

// Commit says that everything up to and including a position is delivered. It is durable when Commit returns nil. When it returns an
// error it holds for this process all the same, and the next Commit makes it durable; after a crash in between, snapshots
// are handed out again. Segments that every reader has delivered are removed. A position that was not handed out is refused.
func (r *Reader) Commit(p Position) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case r.closed:
		return fmt.Errorf("commit as %s: %w", r.cursor.name, ErrClosed)
	case p > r.highest:
		return fmt.Errorf("commit as %s: position %d was not handed out yet, the last one was %d", r.cursor.name, p, r.highest)
	}
	s := r.spool
	s.mu.Lock()
	if p > r.cursor.delivered {
		r.cursor.delivered, r.cursor.durable = p, false
	}
	delivered := s.takeDelivered()
	s.mu.Unlock()
	// Removed first: on a full disk that makes the room which the cursor needs.
	s.remove(delivered)
	return r.save()
}

// Rewind makes the next Next return the first snapshot that is not committed.
func (r *Reader) Rewind() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.spool.mu.Lock()
	defer r.spool.mu.Unlock()
	r.position = r.cursor.delivered
}

// Close gives the name back. The cursor stays: what it has not delivered waits for the next Reader of this name. End a Next that waits
// by its context, or by closing the spool.
func (r *Reader) Close() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return nil
	}
	r.closed = true
	r.spool.mu.Lock()
	r.cursor.open = false
	delete(r.spool.readers, r)
	r.spool.mu.Unlock()
	return r.closeFile()
}

// save makes the cursor durable unless it is. The caller holds r.mu or is alone.
func (r *Reader) save() error {
	s := r.spool
	s.mu.Lock()
	delivered, durable := r.cursor.delivered, r.cursor.durable
	s.mu.Unlock()
	if durable {
		return nil
	}
	if err := s.writeCursor(r.cursor.name, delivered); err != nil {
		return err
	}
	s.mu.Lock()
	r.cursor.durable = true
	s.mu.Unlock()
	return nil
}

// read reads one snapshot. The error is a *CorruptError when there is no use in trying again, or the file's own.
func (r *Reader) read(g *logSegment, e entry) (*latency.Snapshot, error) {
	payload, err := r.readPayload(g, e)
	if err != nil {
		return nil, err
	}
	snapshot, err := r.decoder.Decode(payload)
	if err != nil {
		return nil, malformed(g, e.location(), err)
	}
	return snapshot, nil
}

func (r *Reader) readPayload(g *logSegment, e entry) ([]byte, error) {
	at := e.location()
	payload, err := []byte(nil), r.openFile(g)
	if err == nil {
		r.buffer = slices.Grow(r.buffer[:0], at.Length)[:at.Length]
		payload, err = g.header.ReadPayload(g.name, r.file, at, r.buffer)
	}
	if err == nil || !isMedium(err) {
		return payload, err
	}
	if r.failed != e.position {
		r.failed, r.failures = e.position, 0
	}
	if r.failures++; r.failures < readAttempts {
		return nil, err
	}
	return nil, &CorruptError{Segment: g.name, Offset: at.Offset, Length: int64(at.Length), Sequence: at.Sequence, Reason: "unreadable", Err: err}
}

// isMedium reports whether an error speaks of the medium itself: a bad block, or a file system that found its own structures damaged. Others,
// such as too many open files, pass.
func isMedium(err error) bool {
	for _, e := range []error{syscall.EIO, syscall.ENODATA, syscall.EBADMSG, syscall.EUCLEAN} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

// openFile makes r.file the file of a segment.
func (r *Reader) openFile(g *logSegment) error {
	if r.file != nil && r.segment == g {
		return nil
	}
	if err := r.closeFile(); err != nil {
		r.spool.log.Warn("cannot close segment of the spool", "reader", r.cursor.name, "err", err)
	}
	f, err := r.spool.fs.Open(r.spool.path(g.name), false)
	if err != nil {
		return err
	}
	r.segment, r.file = g, f
	return nil
}

func (r *Reader) closeFile() error {
	if r.file == nil {
		return nil
	}
	f := r.file
	r.segment, r.file = nil, nil
	return f.Close()
}
