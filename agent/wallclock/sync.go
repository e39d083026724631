package wallclock

import (
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sys/unix"
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
	for waited := false; unset(c.Now()); waited = true {
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

// adjtimex asks the kernel. It changes nothing and needs no privilege.
func adjtimex() (bool, error) {
	var state unix.Timex
	answer, err := unix.Adjtimex(&state)
	if err != nil {
		hint := ""
		if errors.Is(err, unix.EPERM) {
			hint = " (a filter of system calls, such as ProtectClock= of systemd, refuses it)"
		}
		return false, fmt.Errorf("read clock state: adjtimex: %w%s", err, hint)
	}
	return answer != unix.TIME_ERROR && state.Status&unix.STA_UNSYNC == 0, nil
}
