// Package sender carries snapshots from the spool to one receiver.
//
// What enters are the snapshots of a durable cursor, in order; what leaves are requests, delivered one after the other. A batch is a run of
// snapshots that are encoded together. The cursor moves on when everything of a batch was accepted, refused for good or set apart on disk, so
// a crash or a cancellation sends at most the last batch twice, and nothing never.
//
// The way of a snapshot: it is read and gets its timestamp (timestamp.go), is left out if the budget is short and no count is lost by that
// (thin.go), joins a batch (collect.go), is encoded in the protocol that the receiver knows (protocol.go) and delivered (deliver.go). A request
// that is too large is halved (toolarge.go), one that gets nothing but 5xx while others pass is set apart (apart.go).
//
// How long live data waits: snapshots are delivered in order, so one that was just taken waits for those before it. A batch of fresh snapshots
// holds no more than the link has lately carried in one interval, but at least one snapshot. As soon as what waits fits the link, there is at
// most such a batch on its way when a snapshot is taken, and the next batch has it: it is not delayed by more than one interval. Old
// snapshots, which are late anyway, go in larger batches, because several ticks in one request take fewer bytes.
//
// What can go wrong: the receiver does not answer (the client waits and tries again, the spool grows), it refuses a request for good
// (counted, logged, the queue goes on), the spool cannot be read (logged, tried again), the clock is stepped while requests wait (they are
// encoded again with the corrected times).
package sender

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"github.com/latpush/latpush/agent/budget"
	"github.com/latpush/latpush/internal/latency"
	"github.com/latpush/latpush/internal/spool"
)

// Sender delivers the snapshots of one cursor to one receiver.
type Sender struct {
	name       string
	reader     Reader
	encoder    Encoder
	client     Client
	clock      Clock
	quarantine Quarantine
	newBudget  func(from budget.State) Budget
	settings   Settings
	limits     Limits
	metrics    *receiverMetrics
	log        *slog.Logger

	draining  chan struct{}
	drainOnce sync.Once

	// The goroutine of Run owns the rest.
	state       state
	budget      Budget            // nil if the link is not metered
	position    spool.Position    // committed last
	floor       int64             // the timestamp given last, in Unix milliseconds
	ahead       []*entry          // read, and not in a batch yet
	kept        *latency.Snapshot // the one before the next, of those that are not left out
	since       int               // how many were left out after kept
	more        bool              // there is more to send now: the last batch was not ended by the end of the spool
	due         time.Time         // of the next push, if there is a push interval
	transferred int64             // what the client had transferred when the budget was told last
	pace        pace
	ceiling     ceiling
	metadata    time.Time         // when it is due, zero before the first
	said        map[string]string // by stage: the last error's text, so that each is logged once per change
}

// New makes a sender. Nothing is read or sent before Run.
func New(o Options) *Sender {
	return &Sender{
		name: o.Name, reader: o.Reader, encoder: o.Encoder, client: o.Client, clock: o.Clock, quarantine: o.Quarantine, newBudget: o.NewBudget,
		settings: o.Settings, limits: o.Limits.withDefaults(), metrics: o.Metrics.of(o.Name), log: o.Log,
		draining: make(chan struct{}), said: make(map[string]string),
	}
}

// Drain makes Run return as soon as nothing is left in the spool. It may be called more than once.
func (s *Sender) Drain() { s.drainOnce.Do(func() { close(s.draining) }) }

func (s *Sender) drains() bool {
	select {
	case <-s.draining:
		return true
	default:
		return false
	}
}

// Run delivers until ctx ends or, after Drain, until the spool holds nothing more. It returns whether everything was delivered. It is for one
// call.
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
	s.restore()
	if !s.clock.WaitSync(waiting) {
		return false
	}
	for pause := s.limits.MinPause; ; {
		s.awaitPush(waiting)
		b, err := s.collect(waiting)
		switch {
		case ctx.Err() != nil:
			return false
		case err != nil:
			s.outcome(stageRead, "spool cannot be read, trying again", err)
			if s.drains() {
				return false
			}
			sleep(waiting, pause)
			pause, s.more = min(2*pause, s.limits.MaxPause), true
			continue
		case b.empty():
			s.commit(b)
			s.endSeries(ctx)
			return true
		}
		s.outcome(stageRead, "", nil)
		pause = s.limits.MinPause
		switch err := s.deliver(ctx, b); {
		case errors.Is(err, errClockMoved):
			s.putBack(b)
		case err != nil:
			return false
		default:
			s.commit(b)
		}
	}
}

// awaitPush waits for the time of the next push, unless a backlog is being delivered.
func (s *Sender) awaitPush(waiting context.Context) {
	if s.settings.PushInterval == 0 || s.more {
		return
	}
	if s.due.IsZero() {
		s.due = time.Now()
	}
	sleep(waiting, time.Until(s.due))
	for !s.due.After(time.Now()) {
		s.due = s.due.Add(s.settings.PushInterval)
	}
}

// commit stores that a batch is done.
func (s *Sender) commit(b *batch) {
	if b.last == 0 {
		return
	}
	if !b.empty() {
		newest := b.newest()
		s.state.Last = max(s.state.Last, newest.at)
		s.metrics.delivered.Set(float64(newest.at) / 1e3)
	}
	s.store(b.last)
}

// outcome counts the error of a stage, and logs it unless it is the one that was logged last.
func (s *Sender) outcome(stage, message string, err error) {
	if err == nil {
		delete(s.said, stage)
		return
	}
	s.metrics.errors[stage].Inc()
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
