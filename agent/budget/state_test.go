package budget_test

import (
	"encoding/json"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/latpush/latpush/agent/budget"
)

// stored returns a state as it comes back from disk.
func stored(t *testing.T, b *budget.Budget) budget.State {
	t.Helper()
	text, err := json.Marshal(b.State())
	if err != nil {
		t.Fatal(err)
	}
	if len(text) > 3*kib {
		t.Fatalf("the state has %d bytes:\n%s", len(text), text)
	}
	var s budget.State
	if err := json.Unmarshal(text, &s); err != nil {
		t.Fatal(err)
	}
	return s
}

// What a reboot does to a day that is used up: how long the host was down counts only if its clock can be believed.
func TestReboot(t *testing.T) {
	t.Parallel()
	const limit = 960 * kib
	never := func(*host) {}
	tests := []struct {
		name  string
		state func(h *host) // before the state is taken
		boot  func(h *host) // after the reboot
		want  time.Duration // that the host has to be up until the day is free again
	}{
		{"clock is right", never, never, 15*time.Minute + 4*time.Hour},
		{"clock was not right before", func(h *host) { h.synchronized = false }, func(h *host) { h.synchronized = true }, 15*time.Minute + day},
		{"clock is not right now", never, func(h *host) { h.synchronized = false }, 15*time.Minute + day},
		{
			"clock claims years", func(h *host) { h.synchronized, h.wrong = false, -50*365*day },
			func(h *host) { h.synchronized, h.wrong = true, 0 }, 15*time.Minute + day,
		},
		{"clock goes backward", func(h *host) { h.wrong = 100 * day }, func(h *host) { h.wrong = 0 }, 15*time.Minute + day},
	}
	for _, tt := range tests {
		synctest.Test(t, func(t *testing.T) {
			h := newHost()
			o := budget.Options{MaxBytesPerDay: limit}
			b := h.budget(o, budget.State{})
			b.Spent(limit / 2)
			tt.state(h)
			state := stored(t, b)
			h.reboot(20 * time.Hour)
			tt.boot(h)
			b = h.budget(o, state)
			start := time.Now()
			spend(t, b, limit)
			if waited := time.Since(start); (waited - tt.want).Abs() > 2*time.Second {
				t.Errorf("%s: waited %v, want %v", tt.name, waited, tt.want)
			}
		})
	}
}

// The clock of a host that was down is right some minutes after the boot, as a rule.
func TestDowntimeIsKnownLater(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		const limit = 960 * kib
		h, o := newHost(), budget.Options{MaxBytesPerDay: limit}
		b := h.budget(o, budget.State{})
		b.Spent(limit / 2)
		time.Sleep(12 * time.Hour)
		state := stored(t, b)
		h.synchronized, h.wrong = false, -11*time.Hour
		h.reboot(11 * time.Hour)
		b = h.budget(o, state)
		time.Sleep(time.Hour) // the slot of before the reboot is over
		spend(t, b, 10*kib)
		h.synchronized, h.wrong = true, 0
		if waited, want := wait(t, b, limit/2), 15*time.Minute; (waited - want).Abs() > 2*time.Second {
			t.Errorf("waited %v until what was spent before the reboot is a day old, want %v", waited, want)
		}
		b.Spent(limit / 2)
		if waited, want := wait(t, b, limit/2), day; (waited - want).Abs() > 2*time.Second {
			t.Errorf("waited %v until what was spent after the reboot is a day old, want %v", waited, want)
		}
	})
}

func TestStateSurvivesARestart(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		h, o := newHost(), budget.Options{MaxBytesPerDay: 1 << 20}
		b := h.budget(o, budget.State{})
		for range 200 { // more than two days, so that every slot is in use
			spend(t, b, 4*kib)
			time.Sleep(15 * time.Minute)
		}
		b.Sent(200)
		same := h.budget(o, stored(t, b))
		for _, bytes := range []int{1, 100 * kib, 300 * kib, 1 << 20} {
			var first, second time.Duration
			var both sync.WaitGroup
			both.Go(func() { first = wait(t, b, bytes) })
			both.Go(func() { second = wait(t, same, bytes) })
			both.Wait()
			if (first - second).Abs() > 2*time.Second {
				t.Errorf("%d bytes wait %v before and %v after a restart", bytes, first, second)
			}
		}
		if before, after := b.Stride(time.Second), same.Stride(time.Second); before != after || after < 2 {
			t.Errorf("stride %d before and %d after a restart", before, after)
		}
	})
}

// wait returns how long Wait would take.
func wait(t *testing.T, b *budget.Budget, bytes int) time.Duration {
	t.Helper()
	start := time.Now()
	if err := b.Wait(t.Context(), bytes); err != nil {
		t.Error(err)
	}
	return time.Since(start)
}

// What is spent right after the reboot falls into the slot that the reboot interrupted, and must not grow old with it.
func TestSlotThatARebootInterrupts(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		const limit = 960 * kib
		h, o := newHost(), budget.Options{MaxBytesPerDay: limit}
		b := h.budget(o, budget.State{})
		b.Spent(10 * kib)
		state := stored(t, b)
		h.synchronized = false
		h.reboot(11 * time.Hour)
		b = h.budget(o, state)
		b.Spent(limit / 2)
		h.synchronized = true
		if waited, want := wait(t, b, limit), 15*time.Minute+day; (waited - want).Abs() > 2*time.Second {
			t.Errorf("waited %v until what was spent after the reboot is a day old, want %v", waited, want)
		}
	})
}

// Many restarts, each of which rounds, let nothing grow old sooner.
func TestManyRestarts(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		const limit = 960 * kib
		h, o := newHost(), budget.Options{MaxBytesPerDay: limit}
		b := h.budget(o, budget.State{})
		b.Spent(limit / 2)
		for range 3000 {
			time.Sleep(1400 * time.Millisecond)
			b = h.budget(o, stored(t, b))
		}
		if wait(t, b, limit); time.Since(h.booted) < day {
			t.Errorf("the day is free again after %v", time.Since(h.booted))
		}
	})
}

// A state that no Budget has made.
func TestForeignState(t *testing.T) {
	t.Parallel()
	const limit = 960 * kib
	tests := []struct {
		name, state string
		want        time.Duration // until all but what is spent now is free
	}{
		{"a slot in the future", `{"boot":"Ag==","level":122880,"spent":[[-100000,491520]]}`, 15*time.Minute + day},
		{"slots in the wrong order", `{"boot":"Ag==","level":122880,"spent":[[-900,1],[90000,491520]]}`, 15*time.Minute + day},
		{"less than nothing spent", `{"boot":"Ag==","level":122880,"spent":[[900,-491520]]}`, 0},
		{"more than a full bucket", `{"boot":"Ag==","level":9000000000000000000}`, 0},
		{"an endless debt", `{"boot":"Ag==","level":-9000000000000000000}`, 31*time.Hour + 46*time.Minute},
		{"a sum that overflows", `{"boot":"Ag==","level":122880,"spent":[[0,9223372036854775807],[0,9223372036854775807]]}`, day},
	}
	for _, tt := range tests {
		synctest.Test(t, func(t *testing.T) {
			var state budget.State
			if err := json.Unmarshal([]byte(tt.state), &state); err != nil {
				t.Fatal(err)
			}
			b := newHost().budget(budget.Options{MaxBytesPerDay: limit}, state)
			if waited := wait(t, b, limit); (waited - tt.want).Abs() > time.Minute {
				t.Errorf("%s: waited %v, want %v", tt.name, waited, tt.want)
			}
			b.Spent(limit / 2)
			if waited, want := wait(t, b, limit), 15*time.Minute+day; (waited - want).Abs() > time.Minute {
				t.Errorf("%s: waited %v for a day of which half is spent, want %v", tt.name, waited, want)
			}
		})
	}
}

// A state comes from a file: whatever is in it, the budget is no more generous than a new one, works, and recovers.
func FuzzState(f *testing.F) {
	f.Add([]byte(`{}`))
	f.Add([]byte(`{"boot":"AQAAAAAAAAAAAAAAAAAAAA==","boottime":3600000000000,"level":-5,"snapshot":1024,"spent":[[86000,1024],[-60,2048]]}`))
	f.Add([]byte(`{"boot":"AgAAAAAAAAAAAAAAAAAAAA==","boottime":-1,"wall":"1970-01-01T00:00:00Z","level":9000000000000000000,"spent":[[-9000000000000,-7]]}`))
	f.Add([]byte(`{"boot":"Ag==","snapshot":9223372036854775807,"spent":[[1,9223372036854775807],[1,9223372036854775807]]}`))
	f.Add([]byte(`{"spent":[[1]]}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		var state budget.State
		if json.Unmarshal(text, &state) != nil {
			return
		}
		synctest.Test(t, func(t *testing.T) {
			const limit = 64 * kib
			h, o := newHost(), budget.Options{MaxBytesPerDay: limit, MaxBytesPerSecond: kib}
			b := h.budget(o, state)
			var all []sending
			for range 20 {
				spend(t, b, 10*kib)
				all = append(all, sending{time.Now(), 10 * kib})
				if b.Stride(time.Minute) < 1 {
					t.Error("a stride below 1")
				}
			}
			if most := mostInADay(all); most > limit {
				t.Errorf("%d bytes in 24 hours", most)
			}
			if passed := time.Since(h.booted); passed > 10*day {
				t.Errorf("200 KiB took %v", passed)
			}
			stored(t, b)
		})
	})
}
