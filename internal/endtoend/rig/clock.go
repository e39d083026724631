package rig

import (
	"context"
	"sync"
	"time"

	"github.com/latpush/latpush/agent/wallclock"
	"github.com/latpush/latpush/internal/latency"
	"github.com/latpush/latpush/internal/spool"
)

// Clock is that of a made-up host: it goes as the real one does, and knows which of its instants was when. It is safe for concurrent use.
type Clock struct {
	mu   sync.Mutex
	last latency.Instant
}

// NewClock makes the clock of a host that was at an instant when its wall clock said so.
func NewClock(at latency.Instant) *Clock { return &Clock{last: at} }

func (c *Clock) set(at latency.Instant) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.last = at
}

// Now returns the real time, on the clocks of the host.
func (c *Clock) Now() latency.Instant {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := time.Now().Round(0).UTC()
	return latency.Instant{BootID: c.last.BootID, Boottime: c.last.Boottime + now.Sub(c.last.Wall), Wall: now}
}

// timing settles the times of snapshots as the agent does.
type timing struct {
	*wallclock.Clock
	spool *spool.Spool
}

// Settle returns the best estimate of when a snapshot was taken.
func (t timing) Settle(taken latency.Instant) time.Time {
	return t.Clock.Settle(taken, t.spool.Boots())
}

// WaitSync does not wait: a made-up host's clock is right.
func (timing) WaitSync(context.Context) bool { return true }
