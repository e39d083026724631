package sender

import (
	"net/http"
	"time"

	"github.com/latpush/latpush/internal/promwire"
	"github.com/latpush/latpush/internal/upload"
)

// tryAgain is how long a receiver that does not know remote write 2.0 is sent 1.0 before 2.0 is tried again: it may have been upgraded.
const tryAgain = 24 * time.Hour

// protocol is the one in which the next batch is sent.
func (s *Sender) protocol() promwire.Protocol {
	p := s.settings.Protocol
	if p == promwire.V2 && s.state.FellBack != 0 {
		// A time in the future is of a clock that was wrong.
		if since := s.clock.Now().Sub(time.Unix(s.state.FellBack, 0)); since >= 0 && since < tryAgain {
			p = promwire.V1
		}
	}
	s.metrics.speaks(p)
	return p
}

// fallsBack reports whether an answer means that the batch is to be encoded again, as 1.0. That is so when the receiver does not know 2.0, and
// when it has answered 400 before it has ever taken 2.0, as receivers do that try to read the message as 1.0. The latter may be about the
// samples as well: only if the same batch is accepted as 1.0, it was not.
func (s *Sender) fallsBack(d *delivery, a upload.Answer) bool {
	if d.protocol != promwire.V2 {
		return false
	}
	switch {
	case a.Verdict == upload.Unsupported:
		s.fallBack()
	case a.Verdict == upload.Rejected && a.Written != nil:
		s.state.TookV2 = true // who says what was written has understood the rest
		return false
	case a.Verdict == upload.Rejected && a.Status == http.StatusBadRequest && !s.state.TookV2:
		d.trial = true
	default:
		return false
	}
	d.protocol, d.accepted = promwire.V1, 0
	return true
}

// conclude remembers what a batch has told about the protocol.
func (s *Sender) conclude(d *delivery) {
	if d.trial && d.accepted > 0 {
		s.fallBack()
	}
}

// fallBack remembers that the receiver does not know 2.0.
func (s *Sender) fallBack() {
	s.state.FellBack, s.state.TookV2 = s.clock.Now().Unix(), false
	s.metrics.fallbacks.Inc()
	s.metrics.speaks(promwire.V1)
	s.log.Warn("receiver does not know remote write 2.0, it is sent 1.0", "try_again_after", tryAgain)
}
