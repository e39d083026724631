// Package schedule says when the agent ticks.
//
// What enters is the interval and the host's identity; what leaves are deadlines on CLOCK_BOOTTIME. Deadlines form a fixed grid:
// phase + k*interval, where the phase is derived from the identity. A fleet that is switched on in one moment therefore spreads its
// pushes over the interval, a restarted agent goes on in the same grid, and no step of the wall clock moves a tick. Nothing can go wrong.
package schedule

import (
	"crypto/sha256"
	"encoding/binary"
	"time"
)

// Schedule is a grid of deadlines. Its durations are readings of CLOCK_BOOTTIME.
type Schedule struct {
	interval time.Duration
	phase    time.Duration // in [0, interval)
}

// New makes the grid of a host. The interval is above zero; hosts with the same identity and interval have the same phase.
func New(interval time.Duration, identity string) Schedule {
	sum := sha256.Sum256([]byte(identity))
	return Schedule{interval: interval, phase: time.Duration(binary.BigEndian.Uint64(sum[:8]) % uint64(interval))}
}

// Interval is the distance between two deadlines.
func (s Schedule) Interval() time.Duration { return s.interval }

// Phase is the offset of the grid: the first deadline of a boot.
func (s Schedule) Phase() time.Duration { return s.phase }

// After returns the first deadline that is later than now.
func (s Schedule) After(now time.Duration) time.Duration {
	if now < s.phase {
		return s.phase
	}
	return now - (now-s.phase)%s.interval + s.interval
}

// Missed counts the deadlines from the given one on that are not later than now.
func (s Schedule) Missed(deadline, now time.Duration) int {
	if now < deadline {
		return 0
	}
	return int((now-deadline)/s.interval) + 1
}

// TooLate tells whether a tick that was due at deadline is skipped when its turn comes only now. After more than half an interval it
// would stand closer to the next deadline than to its own, and two ticks in quick succession tell no more than one.
func (s Schedule) TooLate(deadline, now time.Duration) bool {
	return now-deadline > s.interval/2
}
