package wallclock

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/latpush/latpush/internal/latency"
	"github.com/latpush/latpush/internal/spool"
)

const (
	day  = 24 * time.Hour
	year = 365 * day
)

// event is something that happens to a host between two snapshots.
type event struct {
	wrong  time.Duration // the error of the wall clock from now on
	reboot time.Duration // how long the host is down before, 0 for no reboot
	pass   time.Duration // until the next snapshot, its boot included
	trust  bool          // what the kernel says about the clock from now on
}

// shot is a snapshot that was taken, and when.
type shot struct {
	taken latency.Instant
	truth time.Time
}

// history lets things happen, takes a snapshot after each, and returns what the spool would hold of it.
func history(m *machine, events []event) (shots []shot, boots []spool.Boot) {
	for _, e := range events {
		if e.reboot > 0 {
			m.pass(e.reboot)
			m.boot++
			m.booted = m.now
		}
		m.wrong, m.synchronized = e.wrong, e.trust
		taken := m.pass(e.pass)
		shots = append(shots, shot{taken, m.now})
		boot := spool.Boot{ID: taken.BootID, Began: beginning(taken), Last: taken.Boottime}
		if n := len(boots); n > 0 && boots[n-1].ID == boot.ID {
			boots[n-1] = boot
			continue
		}
		boots = append(boots, boot)
	}
	return shots, boots
}

func TestSettle(t *testing.T) {
	t.Parallel()
	const tick = time.Minute
	unset := -56 * year // 1970
	tests := []struct {
		name   string
		events []event
		off    []time.Duration // settled minus true time, for each snapshot
	}{
		{
			"a clock that is right",
			[]event{{0, 0, tick, true}, {0, 0, tick, true}, {0, 0, tick, true}},
			[]time.Duration{0, 0, 0},
		},
		{
			"ahead in the last boot, and nothing synchronises this one: for an hour it is taken to be late, then it is believed",
			[]event{{5 * time.Hour, 0, 8 * time.Hour, false}, {0, tick, patience - tick, false}, {0, 0, tick, false}, {0, 0, tick, false}},
			[]time.Duration{tick, 0, 0, 0},
		},
		{
			"stepped forward by seconds",
			[]event{{-5 * time.Second, 0, tick, false}, {-5 * time.Second, 0, tick, false}, {0, 0, tick, true}},
			[]time.Duration{0, 0, 0},
		},
		{
			"stepped backward by seconds",
			[]event{{5 * time.Second, 0, tick, false}, {0, 0, tick, true}},
			[]time.Duration{0, 0},
		},
		{
			"stepped forward by years",
			[]event{{unset, 0, tick, false}, {unset, 0, tick, false}, {0, 0, tick, true}},
			[]time.Duration{0, 0, 0},
		},
		{
			"stepped backward by years",
			[]event{{12 * year, 0, tick, false}, {0, 0, tick, false}},
			[]time.Duration{0, 0},
		},
		{
			"several steps",
			[]event{{unset, 0, tick, false}, {-time.Hour, 0, tick, false}, {3 * time.Hour, 0, tick, false}, {0, 0, tick, true}, {0, 0, tick, true}},
			[]time.Duration{0, 0, 0, 0, 0},
		},
		{
			"a correction below half a second keeps what was recorded",
			[]event{{400 * time.Millisecond, 0, tick, true}, {0, 0, tick, true}},
			[]time.Duration{400 * time.Millisecond, 0},
		},
		{
			"an earlier boot by its last belief",
			[]event{{unset, 0, tick, false}, {0, 0, tick, true}, {0, 10 * time.Minute, tick, true}},
			[]time.Duration{0, 0, 0},
		},
		{
			"an earlier boot by its last belief, which was wrong",
			[]event{{-time.Hour, 0, tick, false}, {0, 10 * time.Minute, tick, true}},
			[]time.Duration{-time.Hour, 0},
		},
		{
			"an earlier boot whose clock was never set ends where this one begins",
			[]event{{unset, 0, tick, false}, {unset, 0, tick, false}, {0, 10 * time.Minute, tick, true}},
			[]time.Duration{10 * time.Minute, 10 * time.Minute, 0},
		},
		{
			"several such boots in a row",
			[]event{{unset, 0, tick, false}, {unset, 10 * time.Minute, 5 * tick, false}, {unset, 7 * time.Minute, 3 * tick, false}, {0, time.Minute, tick, true}},
			[]time.Duration{18 * time.Minute, 8 * time.Minute, time.Minute, 0},
		},
		{
			"such a boot between two that are known",
			[]event{{0, 0, tick, true}, {unset, 10 * time.Minute, tick, false}, {0, 10 * time.Minute, tick, true}, {0, 0, tick, true}},
			[]time.Duration{0, 10 * time.Minute, 0, 0},
		},
		{
			"this boot's clock is not set yet: it began when the one before it ended, or later",
			[]event{{0, 0, tick, true}, {unset, 10 * time.Minute, tick, false}, {unset, 0, tick, false}},
			[]time.Duration{0, -10 * time.Minute, -10 * time.Minute},
		},
		{
			"neither is that of the boot before it",
			[]event{{0, 0, tick, true}, {unset, 10 * time.Minute, tick, false}, {unset, 5 * time.Minute, tick, false}},
			[]time.Duration{0, -10 * time.Minute, -15 * time.Minute},
		},
		{
			"no clock was ever set",
			[]event{{unset, 0, tick, false}, {unset - 10*time.Minute, 10 * time.Minute, tick, false}},
			[]time.Duration{unset, unset - 10*time.Minute},
		},
		{
			"a host without a clock of its own begins at its last shutdown, and is not synchronised yet",
			[]event{{0, 0, time.Hour, true}, {-8 * time.Hour, 7 * time.Hour, tick, false}},
			[]time.Duration{0, -7 * time.Hour},
		},
		{
			"such a host, never synchronised in one boot, and in the next",
			[]event{{0, 0, time.Hour, true}, {-8 * time.Hour, 7 * time.Hour, tick, false}, {0, time.Hour, tick, true}},
			[]time.Duration{0, -7 * time.Hour, 0},
		},
		{
			"one whose clock stood still by more than there is room",
			[]event{{0, 0, time.Hour, true}, {-20 * time.Minute, time.Second, time.Hour, false}, {-40 * time.Minute, time.Second, time.Hour, true}},
			[]time.Duration{-40*time.Minute + 2*time.Second, -40*time.Minute + time.Second, -40 * time.Minute},
		},
		{
			"an earlier boot that believed in the future",
			[]event{{0, 0, tick, true}, {12 * year, 10 * time.Minute, tick, false}, {0, 10 * time.Minute, tick, true}},
			[]time.Duration{0, 10 * time.Minute, 0},
		},
		{
			"one before a boot that was right",
			[]event{{12 * year, 0, tick, false}, {0, 10 * time.Minute, tick, false}, {0, 10 * time.Minute, tick, true}},
			[]time.Duration{10 * time.Minute, 0, 0},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			m := newMachine()
			shots, boots := history(m, tt.events)
			c, _ := m.clock(t)
			for i, s := range shots {
				if off := c.Settle(s.taken, boots).Sub(s.truth); off != tt.off[i] {
					t.Errorf("snapshot %d is settled %v from its true time, want %v", i, off, tt.off[i])
				}
			}
		})
	}
}

// The spool forgets a boot as soon as its snapshots are delivered. What it said about this one is not taken back.
func TestThisBootDoesNotMoveWhenEarlierOnesAreDelivered(t *testing.T) {
	t.Parallel()
	m := newMachine()
	shots, boots := history(m, []event{{0, 0, time.Hour, true}, {-8 * time.Hour, 7 * time.Hour, time.Minute, false}})
	c, _ := m.clock(t)
	before := c.Settle(shots[1].taken, boots)
	if after := c.Settle(shots[1].taken, boots[1:]); !after.Equal(before) {
		t.Errorf("settled as %v, and later as %v", before, after)
	}
	// Until the clock is set.
	m.wrong = 0
	c.Observe(m.pass(time.Minute))
	if settled := c.Settle(shots[1].taken, boots[1:]); !settled.Equal(shots[1].truth) {
		t.Errorf("settled as %v after the step, want %v", settled, shots[1].truth)
	}
}

// An earlier boot was wrong, and this one followed it as long as nothing better was known.
func TestAStepCorrectsWhatEarlierBootsBelieved(t *testing.T) {
	t.Parallel()
	m := newMachine()
	shots, boots := history(m, []event{{12 * year, 0, time.Hour, false}, {-time.Hour, time.Minute, time.Minute, false}})
	c, _ := m.clock(t)
	if settled := c.Settle(shots[1].taken, boots); settled.Before(start().Add(10 * year)) {
		t.Errorf("settled as %v, before the boot before it", settled)
	}
	m.wrong = 0
	c.Observe(m.pass(time.Minute))
	if settled := c.Settle(shots[1].taken, boots[1:]); !settled.Equal(shots[1].truth) {
		t.Errorf("settled as %v after the step, want %v", settled, shots[1].truth)
	}
}

// A clock that was right and is set by hand has to be believed by the kernel again before it overrules earlier boots.
func TestAStepLosesTheTrust(t *testing.T) {
	t.Parallel()
	m := newMachine()
	shots, boots := history(m, []event{{0, 0, time.Hour, true}, {0, time.Hour, time.Minute, true}})
	c, _ := m.clock(t)
	m.wrong, m.synchronized = -20*time.Hour, false
	c.Observe(m.pass(time.Minute))
	if settled := c.Settle(shots[0].taken, boots); !settled.Equal(shots[0].truth) {
		t.Errorf("settled as %v, want %v", settled, shots[0].truth)
	}
}

// While an agent runs, the clock is set: what was settled before moves once, and is right.
func TestAStepWhileTheAgentRuns(t *testing.T) {
	t.Parallel()
	m := newMachine()
	m.wrong, m.synchronized = -3*year, false
	c, _ := m.clock(t)
	first, truth := m.pass(time.Minute), m.now
	c.Observe(first)
	if settled := c.Settle(first, nil); !settled.Equal(first.Wall) {
		t.Errorf("settled as %v before the step, want what was recorded, %v", settled, first.Wall)
	}
	m.wrong = 0
	m.pass(time.Minute)
	if settled := c.Settle(first, nil); !settled.Equal(truth) { // before any tick has seen the step
		t.Errorf("settled as %v after the step, want %v", settled, truth)
	}
}

// A request that is made again has the same timestamps, though two readings of two clocks never agree to the nanosecond.
func TestSettledTimesAreStable(t *testing.T) {
	t.Parallel()
	m := newMachine()
	m.wrong = time.Hour
	taken := m.pass(time.Minute)
	m.wrong = 0
	c, _ := m.clock(t)
	settled := c.Settle(taken, nil)
	for _, wrong := range []time.Duration{time.Microsecond, -time.Millisecond, 40 * time.Millisecond} {
		m.wrong = wrong
		c.Observe(m.pass(time.Minute))
		if again := c.Settle(taken, nil); !again.Equal(settled) {
			t.Errorf("settled as %v, and as %v when the clocks differ by %v", settled, again, wrong)
		}
	}
}

func TestUnknownBootKeepsWhatWasRecorded(t *testing.T) {
	t.Parallel()
	m := newMachine()
	c, _ := m.clock(t)
	taken := latency.Instant{BootID: [16]byte{99}, Boottime: time.Hour, Wall: start().Add(-year)}
	if settled := c.Settle(taken, nil); !settled.Equal(taken.Wall) {
		t.Errorf("settled as %v, want %v", settled, taken.Wall)
	}
}

// randomEvents is the life of a host, with errors of the clock as wrong draws them. The last one is as the agent finds the host now.
func randomEvents(random *rand.Rand, wrong func() (time.Duration, bool)) []event {
	var events []event
	off, trust := wrong()
	for range 3 + random.IntN(40) {
		e := event{pass: time.Second + time.Duration(random.Int64N(int64(time.Hour)))}
		switch random.IntN(6) {
		case 0:
			e.reboot = time.Second + time.Duration(random.Int64N(int64(20*time.Hour)))
			off, trust = wrong()
		case 1:
			off, trust = wrong()
		}
		e.wrong, e.trust = off, trust
		events = append(events, e)
	}
	return events
}

// Whatever happened to the clock, the snapshots of a boot are as far apart as they were, and none comes before one of an earlier boot.
func TestSettledTimesKeepDistanceAndOrder(t *testing.T) {
	t.Parallel()
	for seed := range uint64(3000) {
		random := rand.New(rand.NewPCG(seed, 2))
		m := newMachine()
		shots, boots := history(m, randomEvents(random, func() (time.Duration, bool) {
			return []time.Duration{0, 0, 0, -56 * year, -time.Hour, time.Hour, -9 * time.Second, 3 * day, -3 * day, 12 * year, -year}[random.IntN(11)], random.IntN(2) == 0
		}))
		c, _ := m.clock(t)
		var before shot
		var settledBefore time.Time
		for i, s := range shots {
			settled := c.Settle(s.taken, boots)
			switch apart := settled.Sub(settledBefore); {
			case i == 0:
			case s.taken.BootID != before.taken.BootID && apart < 0:
				t.Errorf("seed %d: snapshot %d, of a new boot, is settled %v before the last one of the boot before", seed, i, -apart)
			case s.taken.BootID == before.taken.BootID && (apart-s.truth.Sub(before.truth)).Abs() > 0:
				t.Errorf("seed %d: snapshot %d was taken %v after the one before, and is settled %v after it", seed, i, s.truth.Sub(before.truth), apart)
			}
			before, settledBefore = s, settled
		}
		if t.Failed() {
			t.Fatal(describe(shots, c, boots))
		}
	}
}

// A clock that nobody set is late. If that is all that ever goes wrong, and the kernel says now that the clock is right, then so is every boot that
// was right in the end.
func TestBootsThatWereRightStayRight(t *testing.T) {
	t.Parallel()
	checked := 0
	for seed := range uint64(3000) {
		random := rand.New(rand.NewPCG(seed, 3))
		m := newMachine()
		events := randomEvents(random, func() (time.Duration, bool) {
			late := []time.Duration{0, 0, -56 * year, -time.Second, -5 * time.Minute, -time.Hour, -day, -3 * day, -year}[random.IntN(9)]
			return late, late == 0 && random.IntN(2) == 0
		})
		events = append(events, event{wrong: 0, pass: time.Second, trust: true})
		shots, boots := history(m, events)
		right := make(map[[16]byte]bool)
		for _, s := range shots {
			right[s.taken.BootID] = s.taken.Wall.Equal(s.truth) // the last one decides
		}
		c, _ := m.clock(t)
		for i, s := range shots {
			settled := c.Settle(s.taken, boots)
			if !right[s.taken.BootID] {
				continue
			}
			checked++
			if !settled.Equal(s.truth) {
				t.Errorf("seed %d: snapshot %d is settled %v from its true time", seed, i, settled.Sub(s.truth))
			}
		}
		if t.Failed() {
			t.Fatal(describe(shots, c, boots))
		}
	}
	if checked < 10000 {
		t.Errorf("only %d snapshots were checked", checked)
	}
}

func describe(shots []shot, c *Clock, boots []spool.Boot) string {
	text := ""
	for i, s := range shots {
		text += fmt.Sprintf("%3d boot %d at %12v true %v believed %v settled %v\n", i, s.taken.BootID[0], s.taken.Boottime.Round(time.Second),
			s.truth.Format(time.DateTime), s.taken.Wall.Format(time.DateTime), c.Settle(s.taken, boots).Format(time.DateTime))
	}
	return text
}
