package sender

import (
	"context"
	"errors"
	"time"

	"github.com/latpush/latpush/agent/budget"
	"github.com/latpush/latpush/internal/promwire"
	"github.com/latpush/latpush/internal/upload"
)

// stride is that of so many snapshots one is sent.
func (s *Sender) stride() int {
	if s.budget == nil {
		return 1
	}
	return s.budget.Stride(s.settings.Interval)
}

// sendOnce sends a request once, when the budget has room for it. The error is why ctx has ended.
func (s *Sender) sendOnce(ctx context.Context, r promwire.Request) (upload.Answer, error) {
	return s.metered(ctx, func() (upload.Answer, error) {
		if err := s.admit(ctx, r); err != nil {
			return upload.Answer{}, err
		}
		return s.client.Send(ctx, r), nil
	})
}

// sendPatiently sends a request until there is an answer to act on, each time when the budget has room for it. The error is why ctx has ended.
func (s *Sender) sendPatiently(ctx context.Context, r promwire.Request, patience time.Duration) (upload.Answer, error) {
	again := func(ctx context.Context) error { return s.admit(ctx, r) }
	return s.metered(ctx, func() (upload.Answer, error) {
		if err := again(ctx); err != nil {
			return upload.Answer{}, err
		}
		return s.client.Deliver(ctx, r, patience, again)
	})
}

// admit waits until the budget has room for an attempt.
func (s *Sender) admit(ctx context.Context, r promwire.Request) error {
	if s.budget == nil {
		return nil
	}
	s.charge()
	return s.budget.Wait(ctx, s.client.Bytes(r))
}

// metered charges what sending takes. A request that is larger than a day's budget is as good as too large for the receiver.
func (s *Sender) metered(ctx context.Context, send func() (upload.Answer, error)) (upload.Answer, error) {
	answer, err := send()
	s.charge()
	switch {
	case errors.Is(err, budget.ErrTooLarge):
		return upload.Answer{Verdict: upload.TooLarge, Err: err}, nil
	case err != nil:
		return answer, causeOf(ctx, err)
	}
	return answer, nil
}

// charge takes from the budget what the link has carried since the last time.
func (s *Sender) charge() {
	if s.budget == nil {
		return
	}
	before := s.transferred
	s.transferred = s.client.Transferred()
	s.budget.Spent(int(s.transferred - before))
}

// causeOf gives the reason why ctx has ended, or else err.
func causeOf(ctx context.Context, err error) error {
	if cause := context.Cause(ctx); cause != nil {
		return cause
	}
	return err
}
