package spool

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"sync"
	"syscall"

	"github.com/latpush/latpush/internal/latency"
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
	fetcher  fetcher
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
		c = &cursor{name: name, durable: -1}
		s.cursors[name] = c
	case c.open:
		s.mu.Unlock()
		return nil, fmt.Errorf("open reader %s: %w already", name, ErrReaderOpen)
	}
	c.open = true
	r := &Reader{spool: s, cursor: c, position: c.delivered, highest: c.delivered, fetcher: fetcher{spool: s}}
	s.readers[r] = struct{}{}
	s.mu.Unlock()
	if err := s.saveCursor(c); err != nil {
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
		case errors.Is(err, errMoved):
		case errors.Is(err, fs.ErrNotExist):
			r.spool.missing(g)
		default:
			return nil, 0, false, fmt.Errorf("read as %s: %w", r.cursor.name, err)
		}
	}
}

// Commit says that everything up to and including a position is delivered, and keeps a state of the caller's beside it: at most MaxState bytes
// that State returns, after a restart too, always together with the position they were committed with. A nil state keeps the one there is, an
// empty one removes it. Both are durable when Commit returns nil, or, where Fsync is a duration, at most that much later. When Commit returns
// an error they hold for this process all the same, and it is tried again at the next Commit or Append; after a crash in between, snapshots
// are handed out again. Segments that every reader has delivered are removed. A position that was not handed out is refused; one before the
// last commit changes only the state.
func (r *Reader) Commit(p Position, state []byte) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case r.closed:
		return fmt.Errorf("commit as %s: %w", r.cursor.name, ErrClosed)
	case p > r.highest:
		return fmt.Errorf("commit as %s: position %d was not handed out yet, the last one was %d", r.cursor.name, p, r.highest)
	case len(state) > MaxState:
		return fmt.Errorf("commit as %s: state of %d bytes, at most %d are kept", r.cursor.name, len(state), MaxState)
	}
	s := r.spool
	// Removed first: on a full disk that makes the room which the cursor needs.
	s.removeDelivered(func() { r.cursor.advance(p, state) })
	if s.policy.delay > 0 {
		s.syncLater()
		return nil
	}
	return s.saveCursor(r.cursor)
}

// State returns a copy of the state that was committed last, nil when there is none.
func (r *Reader) State() []byte {
	r.spool.mu.Lock()
	defer r.spool.mu.Unlock()
	return bytes.Clone(r.cursor.state)
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
	r.fetcher.done()
	return r.spool.saveCursor(r.cursor)
}

// read reads one snapshot. The error is a *CorruptError when there is no use in trying again, errMoved, or the file's own.
func (r *Reader) read(g *logSegment, e entry) (*latency.Snapshot, error) {
	snapshot, err := r.fetcher.snapshot(g, e)
	if err == nil || !isMedium(err) {
		return snapshot, err
	}
	if r.failed != e.position {
		r.failed, r.failures = e.position, 0
	}
	if r.failures++; r.failures < readAttempts {
		return nil, err
	}
	return nil, unreadable(g, e, err)
}

// unreadable is the error for a snapshot that the disk refuses to read.
func unreadable(g *logSegment, e entry, err error) *CorruptError {
	return &CorruptError{
		Segment: g.name, Offset: int64(e.offset), Length: int64(e.length), Sequence: uint64(e.position), Reason: "unreadable", Err: err,
	}
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
