package wallclock

import (
	"context"
	"time"

	"github.com/latpush/latpush/internal/latency"
)

// syncPoll is how often WaitSync asks the kernel.
const syncPoll = time.Second

// WaitSync returns when the kernel says that the clock is synchronised, when limit has passed since the first call, or when ctx ends, and whether
// it has waited for that. Limit 0 does not wait.
func (c *Clock) WaitSync(ctx context.Context, limit time.Duration) (waited bool) {
	c.mu.Lock()
	first := c.deadline.IsZero()
	if first {
		c.deadline = time.Now().Add(limit)
	}
	deadline := c.deadline
	c.mu.Unlock()
	poll := time.NewTicker(syncPoll)
	defer poll.Stop()
	for !c.Synchronized() {
		if !time.Now().Before(deadline) {
			if first && waited {
				c.log.Warn("wall clock is still not synchronised, sending all the same", "waited", limit)
			}
			return waited
		}
		if first && !waited {
			c.log.Info("waiting until the wall clock is synchronised", "limit", limit)
		}
		waited = true
		select {
		case <-poll.C:
		case <-ctx.Done():
			return waited
		}
	}
	return waited
}

// WaitSet returns true when the wall clock shows a time at which latpush can have run, and false if ctx ends before. No receiver takes what is
// dated 1970, and once the clock is set the samples that waited are sent with the right times.
func (c *Clock) WaitSet(ctx context.Context) (set bool) {
	poll := time.NewTicker(syncPoll)
	defer poll.Stop()
	for waited := false; latency.Unset(c.Now()); waited = true {
		if !waited {
			c.log.Warn("wall clock is not set, samples wait until it is", "shows", c.Now())
		}
		select {
		case <-poll.C:
		case <-ctx.Done():
			return false
		}
	}
	return true
}

// Synchronized returns whether the kernel says that the wall clock is synchronised, false when it does not tell.
func (c *Clock) Synchronized() bool {
	synchronized, err := c.kernel()
	value := 0.
	if synchronized {
		value = 1
	}
	c.synchronized.Set(value)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.trusted = c.trusted || synchronized
	if err != nil && !c.silent {
		c.silent = true
		c.log.Warn("the kernel does not tell whether the wall clock is synchronised, so it counts as not synchronised", "err", err)
	}
	return synchronized
}
