package sender

import (
	"encoding/json"
	"errors"
	"fmt"

	"github.com/latpush/latpush/agent/budget"
	"github.com/latpush/latpush/internal/spool"
)

const (
	stateVersion = 1
	// lastMillisecond is the end of the year 9999. No timestamp is above it, so sums of them never overflow.
	lastMillisecond = 253402300799999
)

// errBadState is in the error of decodeState.
var errBadState = errors.New("bad sender state")

// state is what a sender has to know after a restart. It is JSON beside the receiver's position in the spool, and durable with it.
type state struct {
	Version int `json:"version"`
	// Last is the newest timestamp that was delivered, in Unix milliseconds, or 0.
	Last int64 `json:"last_ms,omitempty"`
	// TookV2 says that the receiver has accepted remote write 2.0, and has known it since.
	TookV2 bool `json:"took_v2,omitempty"`
	// FellBack is when the receiver was last found not to know 2.0, in Unix seconds, or 0.
	FellBack int64 `json:"fell_back_s,omitempty"`
	// Budget is what was spent lately, nil without a budget.
	Budget *budget.State `json:"budget,omitempty"`
}

// decodeState reads a state; no bytes are the state of a new receiver. The error is errBadState.
func decodeState(b []byte) (state, error) {
	fresh := state{Version: stateVersion}
	if len(b) == 0 {
		return fresh, nil
	}
	var read state
	if err := json.Unmarshal(b, &read); err != nil {
		return fresh, fmt.Errorf("%w: %w", errBadState, err)
	}
	switch {
	case read.Version != stateVersion:
		return fresh, fmt.Errorf("%w: version is %d, this latpush knows %d", errBadState, read.Version, stateVersion)
	case read.Last < 0 || read.Last > lastMillisecond:
		return fresh, fmt.Errorf("%w: last timestamp %d is out of range", errBadState, read.Last)
	}
	return read, nil
}

// restore starts with the state of the sender before.
func (s *Sender) restore() {
	var err error
	if s.state, err = decodeState(s.reader.State()); err != nil {
		s.log.Warn("what was known about the receiver cannot be read, starting anew", "err", err)
	}
	s.floor = s.state.Last
	if s.newBudget != nil {
		var spent budget.State
		if s.state.Budget != nil {
			spent = *s.state.Budget
		}
		s.budget, s.transferred = s.newBudget(spent), s.client.Transferred()
	}
}

// store makes the position and the state durable.
func (s *Sender) store(p spool.Position) {
	s.position, s.state.Budget = p, nil
	if s.budget != nil {
		spent := s.budget.State()
		s.state.Budget = &spent
	}
	encoded, err := json.Marshal(s.state)
	if err == nil {
		err = s.reader.Commit(p, encoded)
	}
	s.outcome(stageCommit, "progress cannot be stored, snapshots will be sent twice after a restart", err)
}
