// Package sender carries snapshots from the spool to one receiver.
//
// What enters are the snapshots of a durable cursor, in order; what leaves are requests, delivered one after the other. The cursor moves
// on only when everything before it was accepted or refused for good, so a crash or a cancellation sends some snapshots twice and none
// never. What can go wrong: the receiver does not answer (the client waits and tries again, the spool grows), it refuses a request for good
// (counted, logged, the queue goes on), the spool cannot be read (logged, tried again).
package sender

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/latpush/latpush/internal/latency"
	"github.com/latpush/latpush/internal/promwire"
	"github.com/latpush/latpush/internal/spool"
	"github.com/latpush/latpush/internal/upload"
)

// Reader is a durable cursor in the spool. *spool.Reader is one.
type Reader interface {
	Next(ctx context.Context) (*latency.Snapshot, spool.Position, error)
	TryNext() (*latency.Snapshot, spool.Position, bool, error)
	Commit(spool.Position) error
	Rewind()
}

// Encoder turns snapshots into requests. *promwire.Encoder is one.
type Encoder interface {
	Encode(snapshots ...*latency.Snapshot) ([]promwire.Request, error)
}

// Client delivers a request, however long it takes. *upload.Client is one.
type Client interface {
	Deliver(ctx context.Context, request promwire.Request) (upload.Answer, error)
}

// Options bound what a sender holds in memory.
type Options struct {
	// MaxSnapshots is how many pending snapshots are put in one batch. The default is 64: sixteen minutes at the default interval.
	MaxSnapshots int
	// MaxSamples is the number of sample lines from which on no further snapshot is put in a batch. The default is 20000, ten requests
	// of the default size: some 2 MB in memory.
	MaxSamples int
	// MinPause and MaxPause bound the wait after an error of the spool, which doubles each time. The defaults are 1 s and 1 min.
	MinPause, MaxPause time.Duration
}

func (o Options) withDefaults() Options {
	if o.MaxSnapshots == 0 {
		o.MaxSnapshots = 64
	}
	if o.MaxSamples == 0 {
		o.MaxSamples = 20000
	}
	if o.MinPause == 0 {
		o.MinPause = time.Second
	}
	if o.MaxPause == 0 {
		o.MaxPause = time.Minute
	}
	return o
}

// Sender delivers the snapshots of one cursor to one receiver.
type Sender struct {
	name    string
	reader  Reader
	encoder Encoder
	client  Client
	options Options
	metrics *Metrics
	log     *slog.Logger

	draining  chan struct{}
	drainOnce sync.Once
	said      map[string]string // by stage: the last error's text, so that each is logged once per change; owned by Run
}

// New makes a sender for the receiver with the given name. The encoder and the client are its own.
func New(name string, reader Reader, encoder Encoder, client Client, o Options, metrics *Metrics, log *slog.Logger) *Sender {
	return &Sender{
		name: name, reader: reader, encoder: encoder, client: client, options: o.withDefaults(), metrics: metrics, log: log,
		draining: make(chan struct{}), said: make(map[string]string),
	}
}

// Drain makes Run return as soon as nothing is left in the spool. It may be called more than once.
func (s *Sender) Drain() { s.drainOnce.Do(func() { close(s.draining) }) }

// Run delivers until ctx ends or, after Drain, until the spool holds nothing more. It returns whether everything was delivered.
func (s *Sender) Run(ctx context.Context) (drained bool) {
	defer s.reader.Rewind() // so that the next sender of this cursor starts with what was not delivered
	waiting, stopWaiting := context.WithCancel(ctx)
	defer stopWaiting()
	go func() {
		select {
		case <-s.draining:
			stopWaiting()
		case <-waiting.Done():
		}
	}()
	pause := s.options.MinPause
	for {
		batch, err := s.collect(waiting)
		switch {
		case ctx.Err() != nil:
			return false
		case err != nil:
			s.outcome(stageRead, "spool cannot be read, trying again", err)
			if s.drains() {
				return false
			}
			sleep(waiting, pause)
			pause = min(2*pause, s.options.MaxPause)
			continue
		case batch.empty():
			return true
		}
		s.outcome(stageRead, "", nil)
		pause = s.options.MinPause
		if err := s.deliver(ctx, batch); err != nil {
			return false
		}
		s.outcome(stageCommit, "progress cannot be stored, snapshots will be sent twice after a restart", s.reader.Commit(batch.last))
	}
}

// batch is a run of snapshots that are sent together.
type batch struct {
	snapshots []*latency.Snapshot
	samples   int
	last      spool.Position
}

func (b *batch) empty() bool { return len(b.snapshots) == 0 }

func (b *batch) add(snapshot *latency.Snapshot, position spool.Position) {
	b.snapshots = append(b.snapshots, snapshot)
	b.samples += lines(snapshot)
	b.last = position
}

// collect waits for a snapshot and takes what else is pending, up to the bounds. When the waiting is over, because of Drain or for good, it
// takes what is there; the batch may then be empty.
func (s *Sender) collect(waiting context.Context) (*batch, error) {
	b := new(batch)
	if waiting.Err() == nil {
		snapshot, position, err := s.reader.Next(waiting)
		switch {
		case err == nil:
			b.add(snapshot, position)
		case waiting.Err() == nil:
			return b, err
		}
	}
	for len(b.snapshots) < s.options.MaxSnapshots && b.samples < s.options.MaxSamples {
		snapshot, position, found, err := s.reader.TryNext()
		if err != nil && b.empty() {
			return b, err
		}
		if err != nil || !found {
			break // An error comes back at the next reading, when what was read before it is out of the way.
		}
		b.add(snapshot, position)
	}
	return b, nil
}

func (s *Sender) drains() bool {
	select {
	case <-s.draining:
		return true
	default:
		return false
	}
}

// deliver sends a batch. The only error is that ctx ended. A request that the receiver rejects is counted and logged by the client, and a
// snapshot that cannot be encoded would fail again for ever, so both count as done.
func (s *Sender) deliver(ctx context.Context, b *batch) error {
	requests, err := s.encoder.Encode(b.snapshots...)
	s.outcome(stageEncode, "metrics cannot be encoded and are left out", err)
	for _, request := range requests {
		if _, err := s.client.Deliver(ctx, request); err != nil {
			return fmt.Errorf("deliver to %s: %w", s.name, err)
		}
	}
	return nil
}

// outcome counts the error of a stage, and logs it unless it is the one that was logged last.
func (s *Sender) outcome(stage, message string, err error) {
	if err == nil {
		delete(s.said, stage)
		return
	}
	s.metrics.errors.WithLabelValues(s.name, stage).Inc()
	if text := err.Error(); text != s.said[stage] {
		s.said[stage] = text
		s.log.Error(message, "stage", stage, "err", err)
	}
}

// sleep waits until the time is over or ctx ends.
func sleep(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}

// lines is the number of classic sample lines that a snapshot becomes: each bucket, _sum and _count, or one value.
func lines(snapshot *latency.Snapshot) int {
	n := 0
	for i := range snapshot.Families {
		family := &snapshot.Families[i]
		perSeries := 1
		if family.Kind == latency.Histogram {
			perSeries = len(family.Bounds) + 3
		}
		n += perSeries * len(family.Series)
	}
	return n
}
