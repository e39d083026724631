package agent

import (
	"context"
	"time"

	"github.com/latpush/latpush/agent/wallclock"
	"github.com/latpush/latpush/internal/latency"
)

// timing is the senders' clock: the wall clock, and what the spool knows about it in earlier boots.
type timing struct {
	clock latency.Clock
	wall  *wallclock.Clock
	spool Spool
	limit time.Duration // of WaitSync
}

// Now returns the present wall time.
func (t *timing) Now() time.Time { return t.clock.Now().Wall }

// Settle returns the best estimate of the wall time at which a snapshot was taken.
func (t *timing) Settle(taken latency.Instant) time.Time {
	return t.wall.Settle(taken, t.spool.Boots())
}

// WaitSync returns true when the clock is right, was waited for long enough, or is set and need not be more, and false if ctx ends before.
func (t *timing) WaitSync(ctx context.Context) bool {
	if !t.wall.WaitSet(ctx) {
		return false
	}
	if t.limit == 0 {
		return true
	}
	t.wall.WaitSync(ctx, t.limit)
	return ctx.Err() == nil || t.wall.Synchronized()
}
