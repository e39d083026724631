package sender

import (
	"bytes"
	"context"
	"slices"
	"time"

	"github.com/latpush/latpush/internal/promwire"
	"github.com/latpush/latpush/internal/spool/quarantine"
	"github.com/latpush/latpush/internal/upload"
)

const (
	// maxPatience is how long a request is tried, with nothing but 5xx for an answer, before another one is tried in its place.
	maxPatience = 5 * time.Minute
	// someRetries is what a client waits at most beyond its patience: for two more attempts, each after the longest pause that a receiver can ask
	// for. A delivery that took longer had other answers in between, or none.
	someRetries = 25 * time.Minute
)

// patience is what the client needs before it gives a request back. 0 is for ever.
func (s *Sender) patience() time.Duration {
	switch {
	case s.quarantine == nil:
		return 0
	case s.settings.QuarantineAfter > 0:
		return min(maxPatience, s.settings.QuarantineAfter)
	}
	return maxPatience
}

// stuck is the state of a request that gets nothing but 5xx; zero for any other.
type stuck struct {
	since  time.Time
	passed bool // another request was accepted meanwhile
}

// fails notes that a delivery which began then has ended with nothing but 5xx for the patience.
func (s *stuck) fails(began time.Time, patience time.Duration) {
	switch now := time.Now(); {
	case now.Sub(began) > patience+someRetries:
		s.since = now.Add(-patience)
	case s.since.IsZero():
		s.since = began
	}
}

// lasts reports whether a request has failed for the time after which it is set apart in any case; 0 is never.
func (s *stuck) lasts(after time.Duration) bool { return after > 0 && time.Since(s.since) >= after }

// standOff decides on the first of the requests, which gets nothing but 5xx: it is set apart when the receiver accepts the next one, or when it
// has failed for too long; or else it stays the first. The error is why ctx has ended.
func (s *Sender) standOff(ctx context.Context, d *delivery, requests []promwire.Request, a upload.Answer) ([]promwire.Request, error) {
	first, rest := requests[0], requests[1:]
	first.Body = bytes.Clone(first.Body) // probing ahead encodes something else
	if !d.stuck.passed && !d.stuck.lasts(s.settings.QuarantineAfter) {
		var err error
		if d.stuck.passed, err = s.probe(ctx, d, rest); err != nil {
			return nil, err
		}
		if d.stuck.passed {
			rest = rest[min(1, len(rest)):]
		}
	}
	if (d.stuck.passed || d.stuck.lasts(s.settings.QuarantineAfter)) && s.setApart(first, a) {
		d.stuck = stuck{}
		return rest, nil
	}
	return slices.Concat([]promwire.Request{first}, rest), nil
}

// probe reports whether the receiver accepts another request: the next one, or one of the next snapshot.
func (s *Sender) probe(ctx context.Context, d *delivery, rest []promwire.Request) (bool, error) {
	if len(rest) > 0 {
		return s.probeWith(ctx, d, rest[0])
	}
	found, err := s.look(ctx, 1, false)
	if err != nil || !found {
		return false, nil // an error of the spool comes back when the batch is done
	}
	// What cannot be encoded is reported when it is the turn of its batch.
	requests, _ := s.encoder.Encode(d.protocol, s.ahead[0].snapshot)
	passed := false
	if len(requests) > 0 {
		passed, err = s.probeWith(ctx, d, requests[0])
	}
	// It is the batch that is accepted in the end.
	_, _ = s.encoder.Encode(d.protocol, d.batch.snapshots()...)
	return passed, err
}

// probeWith sends a request once.
func (s *Sender) probeWith(ctx context.Context, d *delivery, r promwire.Request) (bool, error) {
	a, err := s.sendOnce(ctx, r)
	if err != nil || a.Verdict != upload.Accepted {
		return false, err
	}
	s.accepted(d, r)
	return true, nil
}

// setApart puts a request in quarantine, and reports whether it is safe there.
func (s *Sender) setApart(r promwire.Request, a upload.Answer) bool {
	err := s.quarantine.Put(quarantine.Batch{
		Receiver: s.name, Taken: s.clock.Now(), ContentType: r.ContentType, Version: r.Version, Body: r.Body,
		Samples: r.Samples + r.Histograms, Series: r.Series, Oldest: r.Oldest, Newest: r.Newest, Status: a.Status, Message: a.Message,
	})
	s.outcome(stageQuarantine, "request cannot be set apart and stays the next one", err)
	if err != nil {
		return false
	}
	s.metrics.quarantined.Inc()
	s.log.Error("request gets nothing but server errors and is set apart, going on with the next", "status", a.Status, "message", a.Message,
		"samples", r.Samples+r.Histograms, "oldest", r.Oldest, "newest", r.Newest)
	return true
}
