package upload

import (
	"context"
	"log/slog"
	"time"

	"github.com/latpush/latpush/internal/promwire"
)

// forgetSaid is when a line that was logged before is news again.
const forgetSaid = time.Hour

// said is what the log has said last, so that the same trouble is logged once and not with every attempt.
type said struct {
	outage trouble            // until the receiver accepts something
	lines  map[string]mention // by message: troubles of single requests, between which others may be accepted
}

// trouble is an answer that is worth a line.
type trouble struct {
	status int
	text   string
}

// mention is a trouble, and when it was logged.
type mention struct {
	trouble
	at time.Time
}

// say logs an answer if it is another one than before. What is refused for good is logged by reject.
func (c *Client) say(ctx context.Context, a *Answer, r *promwire.Request) {
	switch a.Verdict {
	case Accepted:
		if c.said.outage != (trouble{}) {
			c.said.outage = trouble{}
			c.log.InfoContext(ctx, "receiver accepts requests again")
		}
		if left := carried(r) - a.stored(r); left > 0 {
			c.once(ctx, slog.LevelError, "receiver has accepted a request and not written all of it, going on with the next", trouble{status: a.Status},
				"samples", carried(r), "unwritten", left, "oldest", r.Oldest, "newest", r.Newest)
		}
	case TooLarge:
		c.once(ctx, slog.LevelWarn, "receiver finds a request too large", trouble{a.Status, a.Err.Error()}, "status", a.Status, "message", a.Message, "bytes", len(r.Body),
			"samples", carried(r))
	case Unsupported:
		c.once(ctx, slog.LevelWarn, "receiver does not know remote write 2.0", trouble{a.Status, a.Err.Error()}, "status", a.Status, "message", a.Message)
	case Retry, Unauthorized:
		c.sayOutage(ctx, a)
	case Rejected:
	}
}

// sayOutage logs that nothing is accepted any more, and why.
func (c *Client) sayOutage(ctx context.Context, a *Answer) {
	now := trouble{a.Status, a.Err.Error()}
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

// reject counts and logs that a request is refused for good.
func (c *Client) reject(ctx context.Context, r *promwire.Request, a *Answer) {
	c.metrics.reject(a, r)
	text := ""
	if a.Err != nil {
		text = a.Err.Error()
	}
	c.once(ctx, slog.LevelError, "receiver refuses samples for good, going on with the next", trouble{a.Status, text},
		"status", a.Status, "message", a.Message, "samples", carried(r)-a.stored(r), "oldest", r.Oldest, "newest", r.Newest)
}

// sayBadHeader logs that a header should be a number and is none.
func (c *Client) sayBadHeader(name, value string) {
	if _, again := c.said.lines[name]; again {
		return
	}
	c.said.lines[name] = mention{}
	c.log.Warn("receiver sends a header that is no number, it is taken as missing", "header", name, "value", c.presentable(value))
}

// once logs a line, unless it has said the same of the same trouble within the hour.
func (c *Client) once(ctx context.Context, level slog.Level, message string, now trouble, attrs ...any) {
	before, known := c.said.lines[message]
	if known && before.trouble == now && time.Since(before.at) < forgetSaid {
		return
	}
	c.said.lines[message] = mention{now, time.Now()}
	c.log.Log(ctx, level, message, attrs...)
}
