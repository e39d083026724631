package upload

import (
	"context"
	"fmt"
	"time"

	"github.com/latpush/latpush/internal/promwire"
)

// While credentials are refused, one attempt in this range: a password that was changed at the receiver is noticed within a minute and a half, and a server that
// locks out who knocks too often is not provoked. A file with a secret is looked at more often, for that costs nobody anything.
const (
	minUnauthorized = 30 * time.Second
	maxUnauthorized = 90 * time.Second
	lookAtSecrets   = time.Second
)

// enoughFailures is how many 5xx in a row are more than bad luck.
const enoughFailures = 3

// Deliver sends until the answer is final for the request: Accepted, Rejected, TooLarge or Unsupported. It also returns, with Retry, when for at least patience,
// and at least three attempts, there was no other answer than 5xx: perhaps it is the request that the receiver stumbles over. An attempt without an answer, a 429
// and refused credentials start that measure again; with a patience of 0 there is none.
//
// Between attempts it waits a random time that becomes longer, min_backoff to max_backoff, or as long as the receiver asks. After refused credentials it waits 30 s
// to 90 s, or until a file with a secret has changed, and then until again returns, which is asked before each further attempt: the link may be metered. It may be
// nil. When ctx ends it gives the last answer and an error with ctx's cause, the only error there is beside again's; the request may or may not have arrived then.
func (c *Client) Deliver(ctx context.Context, r promwire.Request, patience time.Duration, again func(context.Context) error) (Answer, error) {
	var a Answer
	var failing streak
	for attempt := 1; ; attempt++ {
		if ctx.Err() != nil {
			return a, fmt.Errorf("deliver to %s: %w", c.config.Receiver(), context.Cause(ctx))
		}
		secrets := c.config.fingerprint() // before they are read for the attempt, so that no change falls between
		a = c.Send(ctx, r)
		if a.Verdict != Retry && a.Verdict != Unauthorized {
			return a, nil
		}
		if failing.add(&a); patience > 0 && failing.lasts(patience) {
			return a, nil
		}
		pause := c.pause(attempt, &a)
		c.log.DebugContext(ctx, "request waits for another attempt", "attempt", attempt, "verdict", a.Verdict.String(), "status", a.Status, "pause", pause)
		wait := sleep
		if a.Verdict == Unauthorized {
			wait = func(ctx context.Context, d time.Duration) bool { return c.hold(ctx, d, secrets) }
		}
		if !wait(ctx, pause) {
			return a, fmt.Errorf("deliver to %s: %w", c.config.Receiver(), context.Cause(ctx))
		}
		if again != nil {
			if err := again(ctx); err != nil {
				return a, fmt.Errorf("deliver to %s: %w", c.config.Receiver(), err)
			}
		}
		c.metrics.retries.Inc()
	}
}

// streak is a number of 5xx in a row.
type streak struct {
	answers int
	began   time.Time // when the first came
}

func (s *streak) add(a *Answer) {
	if a.Status < 500 {
		*s = streak{}
		return
	}
	if s.answers == 0 {
		s.began = time.Now()
	}
	s.answers++
}

func (s *streak) lasts(d time.Duration) bool {
	return s.answers >= enoughFailures && time.Since(s.began) >= d
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

// hold waits, or until the files with secrets are no longer as they were. It tells whether ctx has not ended.
func (c *Client) hold(ctx context.Context, d time.Duration, secrets fingerprint) bool {
	for end := time.Now().Add(d); ; {
		left := time.Until(end)
		if left <= 0 {
			return true
		}
		if !sleep(ctx, min(left, lookAtSecrets)) {
			return false
		}
		if c.config.fingerprint() != secrets {
			c.log.InfoContext(ctx, "a file with a secret has changed, trying again")
			return true
		}
	}
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
