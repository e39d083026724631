package upload

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"github.com/latpush/latpush/internal/promwire"
)

// While credentials are refused, one attempt in this range: a new password is noticed within a minute and a half, and a server that locks out who knocks too
// often is not provoked.
const (
	minUnauthorized = 30 * time.Second
	maxUnauthorized = 90 * time.Second
)

// Deliver sends until the request is accepted or rejected for good, which is when the error is nil. Between attempts it waits a random time that becomes longer,
// min_backoff to max_backoff, or as long as the receiver asks. When ctx ends it gives the last answer and an error with ctx's cause; the request may or may not
// have arrived then.
func (c *Client) Deliver(ctx context.Context, r promwire.Request) (Answer, error) {
	var a Answer
	for attempt := 1; ; attempt++ {
		if ctx.Err() != nil {
			return a, fmt.Errorf("deliver to %s: %w", c.config.Receiver(), context.Cause(ctx))
		}
		a = c.Send(ctx, r)
		if a.Verdict == Accepted || a.Verdict == Rejected {
			return a, nil
		}
		pause := c.pause(attempt, &a)
		c.log.DebugContext(ctx, "request waits for another attempt", "attempt", attempt, "verdict", a.Verdict.String(), "status", a.Status, "pause", pause)
		if !sleep(ctx, pause) {
			return a, fmt.Errorf("deliver to %s: %w", c.config.Receiver(), context.Cause(ctx))
		}
		c.metrics.retries.Inc()
	}
}

// pause is how long to wait after that many attempts. It is drawn from a range whose upper end doubles, so that hosts which lost a receiver at one moment do not
// come back at one moment. A wait that the receiver asks for is never cut short, but lengthened in the same way, since it asks all hosts for the same.
func (c *Client) pause(attempts int, a *Answer) time.Duration {
	if a.Verdict == Unauthorized {
		return c.between(minUnauthorized, maxUnauthorized)
	}
	shortest, longest := time.Duration(c.config.QueueConfig.MinBackoff), time.Duration(c.config.QueueConfig.MaxBackoff)
	ceiling := shortest
	for range attempts {
		if ceiling > longest/2 {
			ceiling = longest
			break
		}
		ceiling *= 2
	}
	if a.RetryAfter > 0 {
		return a.RetryAfter + c.between(0, ceiling)
	}
	return c.between(shortest, ceiling)
}

// between draws a duration, both ends included.
func (c *Client) between(shortest, longest time.Duration) time.Duration {
	return shortest + time.Duration(c.random(int64(longest-shortest)+1))
}

// sleep waits and tells whether the time has passed before ctx ended.
func sleep(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// forgetRefusal is when a refusal that was logged before is news again.
const forgetRefusal = time.Hour

// said is what the log has said last, so that the same trouble is logged once and not with every attempt.
type said struct {
	outage    trouble // until the receiver accepts something
	refusal   trouble // of single requests, between which others may be accepted
	refusedAt time.Time
}

// trouble is an answer that is worth a line.
type trouble struct {
	status int
	text   string
}

// say logs an answer if it is another one than before.
func (c *Client) say(ctx context.Context, a *Answer, r *promwire.Request) {
	if a.Verdict == Accepted {
		if c.said.outage != (trouble{}) {
			c.said.outage = trouble{}
			c.log.InfoContext(ctx, "receiver accepts requests again")
		}
		return
	}
	now := trouble{a.Status, a.Err.Error()}
	if a.Verdict == Rejected {
		if c.said.refusal == now && time.Since(c.said.refusedAt) < forgetRefusal {
			return
		}
		c.said.refusal, c.said.refusedAt = now, time.Now()
		c.log.ErrorContext(ctx, "receiver refuses samples for good, going on with the next", "status", a.Status, "message", a.Message,
			"samples", r.Samples, "oldest", r.Oldest, "newest", r.Newest)
		return
	}
	if c.said.outage == now {
		return
	}
	c.said.outage = now
	attrs := []any{"status", a.Status, "message", a.Message}
	if a.Status == 0 {
		attrs = []any{slog.Any("error", a.Err)}
	}
	if a.Verdict == Unauthorized {
		c.log.ErrorContext(ctx, "receiver does not accept the credentials, samples wait", attrs...)
		return
	}
	c.log.WarnContext(ctx, "receiver does not accept requests, samples wait", attrs...)
}
