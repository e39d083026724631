// Package budget keeps a sender within what a metered link may carry.
//
// What enters are the bytes of requests, before they are sent and when they were; what leaves is the permission to send, and how many
// snapshots to leave out so that the rest fits. What can go wrong: a request is larger than a whole day allows (ErrTooLarge), and a crash
// loses what was spent since the state was last stored, a batch at most.
//
// Three rules hold together:
//
//   - No 24 hours see more than the daily limit: what was spent is remembered in slots of a quarter of an hour, and each counts in full until 24
//     hours after its end.
//   - A day's bytes are not spent in the first hour: a bucket holds an eighth of them and fills at the rate of 17/20 of the limit, so that what is
//     live is never locked out for long by a backlog that was sent before it.
//   - A request is started when the ones before it would have left a link with the limit of bytes per second.
//
// Time is CLOCK_BOOTTIME, which nobody steps. It starts again when the host does: how long the host was down counts only when the kernel said
// that the clock was synchronised both before and after, and as no time at all otherwise, which spends too little rather than too much.
package budget

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/alecthomas/units"

	"github.com/latpush/latpush/internal/latency"
)

// ErrTooLarge is returned by Wait for more bytes than the daily limit: waiting does not help.
var ErrTooLarge = errors.New("more than a day's budget")

// Options are the limits of one receiver.
type Options struct {
	// MaxBytesPerDay bounds what is spent in any 24 hours. 0 is no limit.
	MaxBytesPerDay units.Base2Bytes
	// MaxBytesPerSecond bounds the rate at which requests are started. 0 is no limit.
	MaxBytesPerSecond units.Base2Bytes
}

// Budget says when a request may be sent. It is safe for concurrent use, but permissions are not reserved: who waits and spends should be one
// goroutine.
type Budget struct {
	options      Options
	clock        latency.Clock
	synchronized func() bool

	mu       sync.Mutex // guards the rest
	day      window
	daily    bucket        // of MaxBytesPerDay; zero without
	rate     bucket        // of MaxBytesPerSecond, for Stride only; zero without
	started  time.Duration // CLOCK_BOOTTIME of the last permission
	free     time.Duration // CLOCK_BOOTTIME at which a link of MaxBytesPerSecond has sent what was spent
	average  average
	downtime downtime
}

// New makes a budget that goes on from a state; the zero State is that of a budget nobody has spent of. Synchronized says whether the kernel
// believes that its clock is right.
func New(o Options, clock latency.Clock, synchronized func() bool, from State) *Budget {
	perDay, perSecond := float64(o.MaxBytesPerDay), float64(o.MaxBytesPerSecond)
	now := clock.Now()
	b := &Budget{
		options: o, clock: clock, synchronized: synchronized,
		daily: newBucket(perDay*dailyShare/day.Seconds(), perDay/burstShare, now.Boottime),
		rate:  newBucket(perSecond*rateShare, perSecond*ratePeriod.Seconds(), now.Boottime),
	}
	b.restore(from, now)
	return b
}

// unlimited reports whether there is nothing to keep to.
func (b *Budget) unlimited() bool { return b.options == Options{} }

// longestSleep is how long Wait sleeps before it looks at the clock again: timers stand still while the host is suspended, budgets do not.
const longestSleep = time.Minute

// Wait returns nil when that many bytes may be sent, which Spent has to take then. The error wraps ErrTooLarge or what ended ctx.
func (b *Budget) Wait(ctx context.Context, bytes int) error {
	if b.unlimited() {
		return nil
	}
	for {
		pause, err := b.permit(int64(bytes))
		if err != nil {
			return fmt.Errorf("wait for budget: %w", err)
		}
		if pause <= 0 {
			return nil
		}
		timer := time.NewTimer(min(pause, longestSleep))
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return fmt.Errorf("wait for budget: %w", context.Cause(ctx))
		}
	}
}

// permit returns how long to wait, 0 when the bytes may be sent now.
func (b *Budget) permit(bytes int64) (time.Duration, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	now := b.advance().Boottime
	pause := b.free - now
	if limit := int64(b.options.MaxBytesPerDay); limit > 0 {
		if bytes > limit {
			return 0, fmt.Errorf("%w: %d bytes, max_bytes_per_day is %d (raise it or lower max_samples_per_send)", ErrTooLarge, bytes, limit)
		}
		pause = max(pause, b.daily.wait(float64(bytes)), b.day.wait(now, limit-bytes))
	}
	if pause <= 0 {
		b.started = now
	}
	return pause, nil
}

// Spent takes bytes that were sent, by the permission of Wait or without it: attempts that were repeated, and answers, cost as well. The next
// Wait makes up for them.
func (b *Budget) Spent(bytes int) {
	if b.unlimited() || bytes <= 0 {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	now := b.advance().Boottime
	b.average.spent += int64(bytes)
	if b.options.MaxBytesPerDay > 0 {
		b.day.add(now, int64(bytes))
		b.daily.take(float64(bytes))
	}
	if limit := float64(b.options.MaxBytesPerSecond); limit > 0 {
		// From the start of the attempt: the link was busy with it since then.
		b.free = max(b.free, b.started) + time.Duration(float64(bytes)/limit*float64(time.Second))
		b.rate.take(float64(bytes))
	}
}

// Sent says that the bytes spent since the last call carried so many snapshots. Stride learns from it what one costs.
func (b *Budget) Sent(snapshots int) {
	if b.unlimited() || snapshots <= 0 {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.average.sent(snapshots)
}

// advance brings the budget to the present, which it returns. The caller holds mu.
func (b *Budget) advance() latency.Instant {
	now := b.clock.Now()
	if slept, known := b.downtime.known(now, b.synchronized); known {
		b.day.sleep(slept)
		b.daily.fill(slept)
	}
	b.day.forget(now.Boottime)
	b.daily.advance(now.Boottime)
	b.rate.advance(now.Boottime)
	return now
}
