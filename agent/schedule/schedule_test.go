package schedule

import (
	"fmt"
	"testing"
	"time"
)

func TestDeadlinesFormAGrid(t *testing.T) {
	t.Parallel()
	s := Schedule{interval: 15 * time.Second, phase: 4 * time.Second}
	tests := []struct{ now, after time.Duration }{
		{0, 4 * time.Second},
		{4*time.Second - 1, 4 * time.Second},
		{4 * time.Second, 19 * time.Second},
		{4*time.Second + 1, 19 * time.Second},
		{19*time.Second - 1, 19 * time.Second},
		{19 * time.Second, 34 * time.Second},
		{1000 * time.Hour, 1000*time.Hour + 4*time.Second},
	}
	for _, tt := range tests {
		if got := s.After(tt.now); got != tt.after {
			t.Errorf("after %v comes %v, want %v", tt.now, got, tt.after)
		}
	}
}

func TestMissedDeadlines(t *testing.T) {
	t.Parallel()
	s := Schedule{interval: 10 * time.Second, phase: time.Second}
	tests := []struct {
		deadline, now time.Duration
		missed        int
		late          bool
	}{
		{deadline: 11 * time.Second, now: 11*time.Second - 1, missed: 0},
		{deadline: 11 * time.Second, now: 11 * time.Second, missed: 1},
		{deadline: 11 * time.Second, now: 16 * time.Second, missed: 1},
		{deadline: 11 * time.Second, now: 16*time.Second + 1, missed: 1, late: true},
		{deadline: 11 * time.Second, now: 21*time.Second - 1, missed: 1, late: true},
		{deadline: 11 * time.Second, now: 21 * time.Second, missed: 2, late: true},
		{deadline: 11 * time.Second, now: 8*time.Hour + 11*time.Second, missed: 2881, late: true},
	}
	for _, tt := range tests {
		if got := s.Missed(tt.deadline, tt.now); got != tt.missed {
			t.Errorf("due at %v, now %v: %d missed, want %d", tt.deadline, tt.now, got, tt.missed)
		}
		if got := s.TooLate(tt.deadline, tt.now); got != tt.late {
			t.Errorf("due at %v, now %v: too late %v, want %v", tt.deadline, tt.now, got, tt.late)
		}
	}
}

// The phases of a fleet must cover the interval evenly, or a central receiver sees its hosts in waves.
func TestPhasesSpreadAFleet(t *testing.T) {
	t.Parallel()
	const hosts, slots = 6000, 15
	var perSlot [slots]int
	for i := range hosts {
		s := New(15*time.Second, fmt.Sprintf("edge-%04d", i))
		if s.Phase() < 0 || s.Phase() >= 15*time.Second {
			t.Fatalf("phase %v is outside the interval", s.Phase())
		}
		perSlot[s.Phase()/time.Second]++
	}
	for second, n := range perSlot {
		// 400 are expected in each second; five standard deviations are 97.
		if n < 303 || n > 497 {
			t.Errorf("%d of %d hosts tick in second %d, want about %d", n, hosts, second, hosts/slots)
		}
	}
}

func TestPhaseIsStable(t *testing.T) {
	t.Parallel()
	first, again := New(time.Minute, "edge-1"), New(time.Minute, "edge-1")
	if first != again {
		t.Errorf("one identity has two schedules: %v and %v", first, again)
	}
	if other := New(time.Minute, "edge-2"); other.Phase() == first.Phase() {
		t.Errorf("two hosts have the same phase %v", first.Phase())
	}
}
