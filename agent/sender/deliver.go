package sender

import (
	"context"
	"time"

	"github.com/latpush/latpush/internal/promwire"
	"github.com/latpush/latpush/internal/upload"
)

// delivery is the sending of one batch.
type delivery struct {
	batch    *batch
	protocol promwire.Protocol
	trial    bool   // of 1.0, since 2.0 was answered with 400
	accepted int    // requests in this protocol
	arrived  func() // called when the receiver has accepted something
	stuck    stuck  // how the next request fails
}

// deliver sends a batch. The error is errClockMoved, or that ctx ended. A request that the receiver rejects is counted and logged by the
// client, and a snapshot that cannot be encoded would fail again for ever, so both count as done.
func (s *Sender) deliver(ctx context.Context, b *batch) error {
	s.checkFloor(b)
	began := time.Now()
	d := &delivery{batch: b, protocol: s.protocol()}
	if err := s.deliverSteadily(ctx, d); err != nil {
		return err
	}
	s.pace.observe(b.samples, time.Since(began))
	if s.budget != nil {
		s.budget.Sent(len(b.entries))
	}
	s.conclude(d)
	s.sendMetadata(ctx, d)
	s.encoder.Accept()
	return nil
}

// deliverSteadily sends a batch as long as its times are right.
func (s *Sender) deliverSteadily(ctx context.Context, d *delivery) error {
	ctx, stop := s.watch(ctx, d)
	defer stop()
	for done := false; !done; {
		requests, err := s.encoder.Encode(d.protocol, d.batch.snapshots()...)
		s.outcome(stageEncode, "metrics cannot be encoded and are left out", err)
		if done, err = s.deliverAll(ctx, d, requests); err != nil {
			return err
		}
	}
	return nil
}

// deliverAll sends the requests of a batch, one after the other. It is not done when the batch is to be encoded again in another protocol.
func (s *Sender) deliverAll(ctx context.Context, d *delivery, requests []promwire.Request) (done bool, err error) {
	for len(requests) > 0 {
		requests = s.cut(requests)
		r := requests[0]
		answer, err := s.offer(ctx, d, r)
		switch {
		case err != nil:
			return false, err
		case answer.Verdict == upload.Accepted:
			s.accepted(d, r)
			requests = requests[1:]
		case answer.Verdict == upload.Retry:
			if requests, err = s.standOff(ctx, d, requests, answer); err != nil {
				return false, err
			}
			continue // still failing, unless standOff says otherwise
		case answer.Verdict == upload.TooLarge:
			requests = s.halve(requests, answer)
		case s.fallsBack(d, answer):
			return false, nil
		default:
			s.client.Refuse(r, answer)
			requests = requests[1:]
		}
		d.stuck = stuck{}
	}
	return true, nil
}

// offer sends one request. With the verdict Retry the request has had nothing but 5xx since d.stuck.since.
func (s *Sender) offer(ctx context.Context, d *delivery, r promwire.Request) (upload.Answer, error) {
	began := time.Now()
	answer, err := s.sendPatiently(ctx, r, s.patience())
	if err == nil && answer.Verdict == upload.Retry {
		d.stuck.fails(began, s.patience())
	}
	return answer, err
}

// accepted notes that the receiver has a request.
func (s *Sender) accepted(d *delivery, r promwire.Request) {
	d.accepted++
	d.arrived()
	s.state.Last = max(s.state.Last, r.Newest.UnixMilli())
	if d.protocol == promwire.V2 {
		s.state.TookV2, s.state.FellBack = true, 0
	}
}
