package sender

import (
	"context"

	"github.com/latpush/latpush/internal/latency"
)

// decision is whether a snapshot is sent.
type decision int

const (
	undecided decision = iota // that depends on the snapshot after it, which is not there yet
	keep
	leaveOut
)

// decide decides whether the snapshot that is ahead is sent. When the budget is short, all but one of a stride are left out, if the one after
// carries their counts. The last one before a stop is kept, so that the receiver has every count.
func (s *Sender) decide(waiting context.Context, e *entry, wait bool) (decision, error) {
	if e.kept || s.kept == nil || s.since+1 >= s.stride() {
		return keep, nil
	}
	found, err := s.look(waiting, 2, wait)
	switch {
	case err != nil:
		return undecided, err
	case !found && s.drains():
		return keep, nil
	case !found:
		return undecided, nil
	case latency.Omittable(s.kept, e.snapshot, s.ahead[1].snapshot):
		return leaveOut, nil
	}
	return keep, nil
}
