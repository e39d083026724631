package sender

import (
	"context"
	"fmt"
	"time"

	"github.com/latpush/latpush/internal/promwire"
	"github.com/latpush/latpush/internal/upload"
)

// sendMetadata sends type, help and unit of the families of a batch that was just delivered as 1.0, if that is due. Each request is tried once:
// samples never wait for metadata. While the budget is short, only the first metadata is sent.
func (s *Sender) sendMetadata(ctx context.Context, d *delivery) {
	now := time.Now()
	if s.settings.MetadataInterval == 0 || d.protocol != promwire.V1 || d.accepted == 0 || now.Before(s.metadata) || s.drains() {
		return
	}
	if !s.metadata.IsZero() && s.stride() > 1 {
		return
	}
	s.metadata = now.Add(s.settings.MetadataInterval)
	requests, err := s.encoder.MetadataRequests()
	for _, r := range requests {
		a, ended := s.sendOnce(ctx, r)
		if ended != nil {
			return
		}
		if a.Verdict != upload.Accepted {
			err = fmt.Errorf("send metadata: %w", a.Err)
			break
		}
	}
	s.outcome(stageMetadata, "metadata is not delivered, samples go on", err)
}
