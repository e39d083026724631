package sender

import (
	"context"
	"time"

	"github.com/latpush/latpush/internal/upload"
)

// endSeries marks all series as stale, after everything was delivered and nothing more comes. It does not last longer than ctx.
func (s *Sender) endSeries(ctx context.Context) {
	if !s.settings.StaleMarkers {
		return
	}
	at := s.clock.Now().UnixMilli()
	if !isFarAhead(s.state.Last, at) {
		at = max(at, s.state.Last+1)
	}
	requests, err := s.encoder.Stale(s.protocol(), time.UnixMilli(at).UTC())
	s.outcome(stageEncode, "series cannot be marked as stale", err)
	if len(requests) == 0 {
		return
	}
	for len(requests) > 0 {
		requests = s.cut(requests)
		answer, err := s.sendPatiently(ctx, requests[0], maxPatience)
		if err != nil || answer.Verdict == upload.Retry || answer.Verdict == upload.Unsupported {
			break
		}
		if answer.Verdict == upload.TooLarge {
			requests = s.halve(requests, answer)
			continue
		}
		requests = requests[1:]
	}
	s.state.Last = at // the first samples after the next start come after the markers, as far as they were sent
	s.store(s.position)
}
