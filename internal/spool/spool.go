package spool

import (
	"errors"
	"fmt"
	"io"
	"iter"
	"log/slog"
	"maps"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/latpush/latpush/internal/spool/record"
	"github.com/latpush/latpush/internal/spool/segment"
)

// Spool is an open spool directory. One goroutine appends, any number of others read; all methods may be called at the same time.
// Locks are taken in the order appending, Reader.mu, names, cursor.saving, mu.
type Spool struct {
	options  Options
	policy   syncPolicy
	fs       fileSystem
	log      *slog.Logger
	registry prometheus.Registerer
	metrics  *metrics
	lock     io.Closer

	appending sync.Mutex      // held for a whole Append, disk included; guards down to regimes
	encoder   record.Encoder  //
	frame     []byte          // of the record being appended
	file      file            // of the active segment; nil when the next append begins a new one
	writer    *segment.Writer // of file
	written   uint64          // last sequence number that is in a segment
	unsynced  []loose         // what is in the active segment and may not be on disk yet, where Fsync is a duration
	doomed    []string        // segments that were merged into another, to be removed once that is durable
	regimes   regimes

	synchronised func() bool // whether the wall clock is right

	names sync.RWMutex // held for reading while a segment is opened or removed by its name, for writing while another file takes its name

	mu       sync.Mutex    // held for moments, never while the disk works; guards all that follows
	segments []*logSegment // on disk, oldest first
	memory   []*logSegment // what the disk refused; all of it comes behind segments
	active   *logSegment   // the last of segments while it is written to, else nil
	next     uint64        // sequence number of the next snapshot
	bytes    int64         // sum of the sizes of segments
	cursors  map[string]*cursor
	readers  map[*Reader]struct{}
	changed  chan struct{} // closed, and replaced, when there is a new snapshot or the spool closes
	refused  error         // why the disk did not take the last snapshot, nil when it did
	timer    *time.Timer   // of the next sync, where Fsync is a duration; nil when nothing waits for one
	aside    fileCount     // files that were set aside
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
		options: o.withDefaults(), log: log, synchronised: synchronized, registry: reg, next: 1,
		cursors: make(map[string]*cursor), readers: make(map[*Reader]struct{}), changed: make(chan struct{}),
	}
	// Validate has found it good.
	s.policy, _ = s.options.Fsync.policy()
	s.metrics = newMetrics(s)
	s.fs = meter{fsys, s.metrics.writtenBytes}
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

// Close ends the spool: blocked readers return ErrClosed. It waits for an Append that is under way. Where Fsync is always, nothing that was
// promised depends on it; where it is a duration, it syncs what is not yet. Snapshots that the disk refused until now are tried once more, and
// the error says how many were lost.
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
	if s.timer != nil {
		s.timer.Stop()
	}
	readers := slices.Collect(maps.Keys(s.readers))
	s.mu.Unlock()
	errs := []error{s.writeLast()}
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
		s.writer, s.file = nil, nil
	}
	if s.lock != nil {
		errs = append(errs, s.lock.Close())
	}
	return errors.Join(errs...)
}

func (s *Spool) path(name string) string { return filepath.Join(s.options.Directory, name) }

func (s *Spool) syncDirectory() error {
	if !s.policy.syncsFiles() {
		return nil
	}
	return s.fs.SyncDirectory(s.options.Directory)
}

// all walks through all segments, those in memory last. The caller holds mu.
func (s *Spool) all() iter.Seq[*logSegment] {
	return func(yield func(*logSegment) bool) {
		for _, list := range [][]*logSegment{s.segments, s.memory} {
			for _, g := range list {
				if !yield(g) {
					return
				}
			}
		}
	}
}

// isListed reports whether a segment is still one of the spool's.
func (s *Spool) isListed(g *logSegment) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Contains(s.segments, g)
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
