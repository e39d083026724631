package sender

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/latpush/latpush/internal/latency"
	"github.com/latpush/latpush/internal/spool"
)

const (
	// farAhead is by how much the timestamp given last may be ahead of a snapshot's time before it is given up as a floor. Receivers refuse
	// samples that are further in the future, so they have not stored any series at it.
	farAhead = 10 * time.Minute
	// aMove is the change of a snapshot's time that is worth encoding it again. Below it, a clock is slewed or the estimate is rounded.
	aMove = time.Second
	// lookAtClock is how often the clock is looked at while a batch waits for its receiver.
	lookAtClock = time.Second
)

// errClockMoved ends a delivery because the times of its snapshots are known better by now.
var errClockMoved = errors.New("clock was stepped")

// entry is a snapshot on its way.
type entry struct {
	snapshot *latency.Snapshot
	position spool.Position
	taken    latency.Instant // as it was recorded; the snapshot's own wall time becomes the timestamp
	settled  time.Time       // what the clock makes of taken
	at       int64           // the timestamp: Unix milliseconds
	kept     bool            // it is decided that the snapshot is not left out
}

// stamp gives a snapshot its timestamp: its settled time, or one millisecond more than the timestamp before it.
func (s *Sender) stamp(e *entry) {
	e.settled = s.clock.Settle(e.taken)
	e.at = e.settled.UnixMilli()
	if !isFarAhead(s.floor, e.at) {
		e.at = max(e.at, s.floor+1)
	}
	s.floor = e.at
	e.snapshot.Taken.Wall = time.UnixMilli(e.at).UTC()
}

// putBack makes the snapshots of a batch, of which nothing was accepted, the next ones again, with the times that the clock now gives them.
func (s *Sender) putBack(b *batch) {
	s.ahead = append(b.entries, s.ahead...)
	s.floor = s.state.Last
	for _, e := range s.ahead {
		s.stamp(e)
	}
	s.more = true
}

// isFarAhead reports whether a timestamp is given up as a floor for a later snapshot. Both are Unix milliseconds.
func isFarAhead(floor, at int64) bool { return floor-at > farAhead.Milliseconds() }

// checkFloor notes it when a batch starts with a timestamp far below the one that was delivered last.
func (s *Sender) checkFloor(b *batch) {
	first := b.entries[0]
	if !isFarAhead(s.state.Last, first.at) {
		return
	}
	s.log.Warn("timestamps go back, the ones before were too far in the future to be stored",
		"before", time.UnixMilli(s.state.Last).UTC(), "now", first.snapshot.Taken.Wall)
	s.metrics.back.Inc()
	s.state.Last = 0
}

// watch returns a context that also ends, with the cause errClockMoved, when the times of the batch change before the receiver has accepted
// anything of it. A batch can wait for its receiver for days, and at the start of a host the network and the right time come together. A batch
// that has arrived in part keeps its times to the end, so that those of each series ascend. No look at the clock is under way when stop returns.
func (s *Sender) watch(ctx context.Context, d *delivery) (watched context.Context, stop func()) {
	watched, cancel := context.WithCancelCause(ctx)
	arrived, done := make(chan struct{}), make(chan struct{})
	d.arrived = sync.OnceFunc(func() { close(arrived) })
	go func() {
		defer close(done)
		ticker := time.NewTicker(lookAtClock)
		defer ticker.Stop()
		for {
			select {
			case <-watched.Done():
				return
			case <-arrived:
				return
			case <-ticker.C:
				if s.moved(d.batch.entries[0]) || s.moved(d.batch.newest()) {
					cancel(errClockMoved)
				}
			}
		}
	}()
	return watched, func() {
		cancel(context.Canceled)
		<-done
	}
}

func (s *Sender) moved(e *entry) bool { return s.clock.Settle(e.taken).Sub(e.settled).Abs() >= aMove }
