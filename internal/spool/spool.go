package spool

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"path/filepath"
	"slices"
	"sync"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/latpush/latpush/internal/spool/record"
	"github.com/latpush/latpush/internal/spool/segment"
)

// Spool is an open spool directory. One goroutine appends, any number of others read; all methods may be called at the same time.
// Locks are taken in the order appending, Reader.mu, mu.
type Spool struct {
	options  Options
	fs       fileSystem
	log      *slog.Logger
	registry prometheus.Registerer
	metrics  *metrics
	lock     io.Closer

	appending sync.Mutex      // held for a whole Append, disk included; guards the next four
	encoder   record.Encoder  //
	frame     []byte          // of the record being appended
	writer    *segment.Writer // of the active segment; nil when the next append begins a new one
	ages      ages

	mu       sync.Mutex    // held for moments, never while the disk works; guards all that follows
	segments []*logSegment // oldest first
	active   *logSegment   // the last of segments while it is written to, else nil
	next     uint64        // sequence number of the next snapshot
	bytes    int64         // sum of the sizes of segments
	cursors  map[string]*cursor
	readers  map[*Reader]struct{}
	changed  chan struct{} // closed, and replaced, when there is a new snapshot or the spool closes
	closed   bool
}

// Open opens the spool in a directory, which it makes when there is none, and brings it in order: it cuts a torn tail, sets aside what it
// cannot read, and removes what every reader has delivered. The logger gets a line for each; the registry may be nil. The error is
// that of Options.Validate, or wraps ErrLocked, ErrVersion or what the operating system said.
func Open(o Options, log *slog.Logger, reg prometheus.Registerer) (*Spool, error) {
	return open(o, disk{}, log, reg)
}

func open(o Options, fsys fileSystem, log *slog.Logger, reg prometheus.Registerer) (*Spool, error) {
	if err := o.Validate(); err != nil {
		return nil, err
	}
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	s := &Spool{
		options: o.withDefaults(), fs: fsys, log: log, registry: reg, next: 1,
		cursors: make(map[string]*cursor), readers: make(map[*Reader]struct{}), changed: make(chan struct{}),
	}
	s.metrics = newMetrics(s)
	if err := s.load(); err != nil {
		return nil, fmt.Errorf("open spool %s: %w", o.Directory, errors.Join(err, s.release()))
	}
	if reg != nil {
		if err := reg.Register(s.metrics); err != nil {
			return nil, fmt.Errorf("open spool %s: register metrics: %w", o.Directory, errors.Join(err, s.release()))
		}
	}
	return s, nil
}

// Close ends the spool: blocked readers return ErrClosed. It waits for an Append that is under way. Nothing that was promised depends on it.
func (s *Spool) Close() error {
	s.appending.Lock()
	defer s.appending.Unlock()
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return nil
	}
	s.closed = true
	close(s.changed)
	readers := slices.Collect(maps.Keys(s.readers))
	s.mu.Unlock()
	var errs []error
	for _, r := range readers {
		errs = append(errs, r.Close())
	}
	if s.registry != nil {
		s.registry.Unregister(s.metrics)
	}
	if err := errors.Join(append(errs, s.release())...); err != nil {
		return fmt.Errorf("close spool %s: %w", s.options.Directory, err)
	}
	return nil
}

// release closes the active segment and gives up the directory.
func (s *Spool) release() error {
	var errs []error
	if s.writer != nil {
		errs = append(errs, s.writer.Close())
		s.writer = nil
	}
	if s.lock != nil {
		errs = append(errs, s.lock.Close())
	}
	return errors.Join(errs...)
}

func (s *Spool) path(name string) string { return filepath.Join(s.options.Directory, name) }

func (s *Spool) fsync() bool { return s.options.Fsync == FsyncAlways }

func (s *Spool) syncDirectory() error {
	if !s.fsync() {
		return nil
	}
	return s.fs.SyncDirectory(s.options.Directory)
}

// deliveredByAll returns the position up to which every reader has delivered; 0 without readers. The caller holds mu.
func (s *Spool) deliveredByAll() Position {
	first, delivered := true, Position(0)
	for _, c := range s.cursors {
		if first || c.delivered < delivered {
			first, delivered = false, c.delivered
		}
	}
	return delivered
}
