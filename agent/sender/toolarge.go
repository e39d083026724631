package sender

import (
	"slices"
	"time"

	"github.com/latpush/latpush/internal/promwire"
	"github.com/latpush/latpush/internal/upload"
)

// believeCeiling is how long a receiver is believed not to take larger requests than it took. Limits are raised now and then.
const believeCeiling = time.Hour

// ceiling is the size of a request that was too large for the receiver, so that not every request costs an attempt to find it out.
type ceiling struct {
	bytes int // of the compressed body
	until time.Time
}

// tooLow reports whether a request is known to be too large.
func (c *ceiling) tooLow(r promwire.Request) bool {
	return c.bytes > 0 && len(r.Body) >= c.bytes && time.Now().Before(c.until)
}

// lower notes that a request was too large.
func (c *ceiling) lower(r promwire.Request) {
	*c = ceiling{bytes: len(r.Body), until: time.Now().Add(believeCeiling)}
}

// cut halves the first request until it is under the ceiling, or one histogram.
func (s *Sender) cut(requests []promwire.Request) []promwire.Request {
	for s.ceiling.tooLow(requests[0]) {
		halves := s.halves(requests[0])
		if halves == nil {
			break
		}
		requests = slices.Concat(halves, requests[1:])
	}
	return requests
}

// halve puts two halves in the place of the first request, which was too large. One histogram at one timestamp cannot be halved: it is dropped.
func (s *Sender) halve(requests []promwire.Request, a upload.Answer) []promwire.Request {
	r := requests[0]
	halves := s.halves(r)
	if halves == nil {
		s.client.Refuse(r, a)
		s.metrics.tooLarge.Add(float64(r.Samples + r.Histograms))
		return requests[1:]
	}
	s.ceiling.lower(r)
	return slices.Concat(halves, requests[1:])
}

// halves returns nil if a request cannot be halved.
func (s *Sender) halves(r promwire.Request) []promwire.Request {
	halves, err := s.encoder.Halve(r)
	s.outcome(stageHalve, "request cannot be halved", err)
	if len(halves) < 2 {
		return nil
	}
	return halves
}
