package wallclock

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/latpush/latpush/internal/latency"
)

// start is the true time at which the tests begin.
func start() time.Time { return time.Date(2026, time.November, 22, 12, 0, 0, 0, time.UTC) }

// machine is a host: its true time, its boot and the error of its wall clock.
type machine struct {
	now          time.Time
	boot         byte
	booted       time.Time     // true time
	wrong        time.Duration // wall clock minus true time
	synchronized bool
	err          error // of asking the kernel
}

func newMachine() *machine {
	return &machine{now: start(), boot: 1, booted: start().Add(-time.Hour), synchronized: true}
}

func (m *machine) Now() latency.Instant {
	return latency.Instant{BootID: [16]byte{m.boot}, Boottime: m.now.Sub(m.booted), Wall: m.now.Add(m.wrong)}
}

func (m *machine) kernel() (bool, error) { return m.synchronized, m.err }

func (m *machine) pass(d time.Duration) latency.Instant {
	m.now = m.now.Add(d)
	return m.Now()
}

// clock makes a Clock of the machine, as a start of the agent does. The log is what it wrote.
func (m *machine) clock(t *testing.T) (*Clock, *bytes.Buffer) {
	t.Helper()
	log := new(bytes.Buffer)
	c, err := newClock(m, m.kernel, prometheus.NewRegistry(), slog.New(slog.NewTextHandler(log, nil)))
	if err != nil {
		t.Fatal(err)
	}
	return c, log
}

func TestObserve(t *testing.T) {
	t.Parallel()
	const tick = 15 * time.Second
	tests := []struct {
		name              string
		errors            []time.Duration // of the wall clock, at one tick after the other
		step              float64         // seconds
		forward, backward float64
	}{
		{"no step", []time.Duration{0, 0, 0}, 0, 0, 0},
		{"half a second is no step", []time.Duration{0, 500 * time.Millisecond, 0}, 0, 0, 0},
		{"more is one", []time.Duration{0, 501 * time.Millisecond}, 0.501, 1, 0},
		{"backward", []time.Duration{0, -2 * time.Second}, -2, 0, 1},
		{"there and back", []time.Duration{0, time.Hour, 0}, -3600, 1, 1},
		{"years", []time.Duration{-50 * 365 * 24 * time.Hour, 0}, 50 * 365 * 24 * 3600, 1, 0},
		{"many small ones", []time.Duration{0, 400 * time.Millisecond, 800 * time.Millisecond, 1200 * time.Millisecond}, 0, 0, 0},
		{"two in one direction", []time.Duration{0, time.Second, 3 * time.Second}, 2, 2, 0},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			m := newMachine()
			m.wrong = tt.errors[0]
			c, log := m.clock(t)
			for _, wrong := range tt.errors {
				m.wrong = wrong
				c.Observe(m.pass(tick))
				c.Observe(m.pass(tick)) // a step is found once
			}
			if got := testutil.ToFloat64(c.step); got != tt.step {
				t.Errorf("latpush_clock_step_seconds is %v, want %v", got, tt.step)
			}
			for direction, want := range map[string]float64{forward: tt.forward, backward: tt.backward} {
				if got := testutil.ToFloat64(c.steps.WithLabelValues(direction)); got != want {
					t.Errorf("%v steps %s, want %v", got, direction, want)
				}
			}
			if got := strings.Count(log.String(), "wall clock was stepped"); got != int(tt.forward+tt.backward) {
				t.Errorf("%d lines in the log:\n%s", got, log)
			}
		})
	}
}

// A process that is not scheduled between the two readings of an instant sees a difference that is no step.
func TestOneBadReadingIsNoStep(t *testing.T) {
	t.Parallel()
	m := newMachine()
	c, log := m.clock(t)
	bad := m.pass(15 * time.Second)
	bad.Wall = bad.Wall.Add(3 * time.Second)
	m.pass(3 * time.Second)
	c.Observe(bad)
	c.Observe(m.pass(15 * time.Second))
	if log.Len() > 0 || testutil.ToFloat64(c.step) != 0 {
		t.Errorf("a step was found:\n%s", log)
	}
	if settled, want := c.Settle(bad, nil), bad.Wall.Add(-3*time.Second); !settled.Equal(want) {
		t.Errorf("settled as %v, want %v", settled, want)
	}
}

// The tick reads the clocks first; a sender that settles in the meantime may have seen the step already.
func TestAnOldReadingIsNoStepBack(t *testing.T) {
	t.Parallel()
	m := newMachine()
	c, log := m.clock(t)
	before := m.pass(15 * time.Second)
	m.wrong = time.Hour
	c.Settle(before, nil)
	c.Observe(before)
	c.Observe(m.pass(15 * time.Second))
	if got := strings.Count(log.String(), "direction=forward"); got != 1 || strings.Contains(log.String(), "backward") {
		t.Errorf("the log:\n%s", log)
	}
}

func TestMetrics(t *testing.T) {
	t.Parallel()
	m, registry := newMachine(), prometheus.NewRegistry()
	c, err := newClock(m, m.kernel, registry, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	m.wrong, m.synchronized = -90*time.Second, false
	c.Observe(m.pass(time.Second))
	want := `
		# HELP latpush_clock_step_seconds By how much the wall clock was stepped last, below zero when backward; 0 before the first step.
		# TYPE latpush_clock_step_seconds gauge
		latpush_clock_step_seconds -90
		# HELP latpush_clock_steps_total Steps of the wall clock by more than half a second.
		# TYPE latpush_clock_steps_total counter
		latpush_clock_steps_total{direction="backward"} 1
		latpush_clock_steps_total{direction="forward"} 0
		# HELP latpush_clock_synchronized Whether the kernel says that the wall clock is synchronised.
		# TYPE latpush_clock_synchronized gauge
		latpush_clock_synchronized 0
	`
	if err := testutil.GatherAndCompare(registry, strings.NewReader(want)); err != nil {
		t.Error(err)
	}
	if _, err := newClock(m, m.kernel, registry, nil); err == nil {
		t.Error("the same metrics are registered twice")
	}
}

// bubble is a machine in a synctest bubble, whose kernel says that the clock is synchronised from a moment on.
type bubble struct {
	booted time.Time
	after  time.Duration
}

func (b bubble) Now() latency.Instant {
	return latency.Instant{BootID: [16]byte{1}, Boottime: time.Since(b.booted), Wall: time.Now()}
}

func TestWaitSync(t *testing.T) {
	t.Parallel()
	const never = 1000 * time.Hour
	tests := []struct {
		name   string
		after  time.Duration // when the clock is synchronised
		limit  time.Duration
		ended  time.Duration // when ctx ends
		want   time.Duration
		waited bool
		logged string
	}{
		{name: "synchronised", limit: time.Minute, ended: never},
		{name: "synchronised later", after: 10 * time.Second, limit: time.Minute, ended: never, want: 10 * time.Second, waited: true},
		{name: "never", after: never, limit: time.Minute, ended: never, want: time.Minute, waited: true, logged: "still not synchronised"},
		{name: "no limit to wait for", after: never, ended: never},
		{name: "stopped", after: never, limit: time.Minute, ended: 3500 * time.Millisecond, want: 3500 * time.Millisecond, waited: true},
	}
	for _, tt := range tests {
		synctest.Test(t, func(t *testing.T) {
			b := bubble{booted: time.Now(), after: tt.after}
			kernel := func() (bool, error) { return time.Since(b.booted) >= b.after, nil }
			log := new(bytes.Buffer)
			c, err := newClock(b, kernel, prometheus.NewRegistry(), slog.New(slog.NewTextHandler(log, nil)))
			if err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithTimeout(t.Context(), tt.ended)
			defer cancel()
			waited := c.WaitSync(ctx, tt.limit)
			if passed := time.Since(b.booted); passed != tt.want || waited != tt.waited {
				t.Errorf("%s: waited %v for %v, want %v for %v", tt.name, waited, passed, tt.waited, tt.want)
			}
			if !strings.Contains(log.String(), tt.logged) || (log.Len() > 0) != tt.waited {
				t.Errorf("%s: the log:\n%s", tt.name, log)
			}
			// The limit counts from the first call: who comes later does not wait as long again.
			before := time.Now()
			c.WaitSync(t.Context(), tt.limit)
			if passed := time.Since(before); tt.ended == never && passed > 0 {
				t.Errorf("%s: the second call waited %v", tt.name, passed)
			}
		})
	}
}

// In a bubble it is the year 2000, when latpush cannot have run, until the clock is stepped.
func TestWaitSet(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name        string
		set, ended  time.Duration // when the clock is set, when ctx ends
		want        bool
		waited      time.Duration
		loggedTimes int
	}{
		{name: "set", set: -time.Second, ended: -time.Second, want: true},
		{name: "set later", set: 90 * time.Second, ended: time.Hour, want: true, waited: 90 * time.Second, loggedTimes: 1},
		{name: "stopped", set: time.Hour, ended: 3500 * time.Millisecond, waited: 3500 * time.Millisecond, loggedTimes: 1},
	}
	for _, tt := range tests {
		synctest.Test(t, func(t *testing.T) {
			b := setLater{booted: time.Now(), after: tt.set}
			log := new(bytes.Buffer)
			c, err := newClock(b, func() (bool, error) { return false, nil }, prometheus.NewRegistry(), slog.New(slog.NewTextHandler(log, nil)))
			if err != nil {
				t.Fatal(err)
			}
			log.Reset()
			ctx, cancel := context.WithTimeout(t.Context(), tt.ended)
			defer cancel()
			if set := c.WaitSet(ctx); set != tt.want || time.Since(b.booted) != tt.waited {
				t.Errorf("%s: %v after %v, want %v after %v", tt.name, set, time.Since(b.booted), tt.want, tt.waited)
			}
			if n := strings.Count(log.String(), "is not set"); n != tt.loggedTimes {
				t.Errorf("%s: logged %d times, want %d:\n%s", tt.name, n, tt.loggedTimes, log)
			}
		})
	}
}

// setLater is a machine in a synctest bubble, whose clock is set to the present some time after it booted.
type setLater struct {
	booted time.Time
	after  time.Duration
}

func (s setLater) Now() latency.Instant {
	now := latency.Instant{BootID: [16]byte{1}, Boottime: time.Since(s.booted), Wall: time.Now()}
	if now.Boottime >= s.after {
		now.Wall = now.Wall.AddDate(26, 0, 0)
	}
	return now
}

func TestKernelThatDoesNotTell(t *testing.T) {
	t.Parallel()
	m := newMachine()
	m.synchronized, m.err = false, errors.New("operation not permitted")
	c, log := m.clock(t)
	for range 3 {
		c.Observe(m.pass(time.Second))
	}
	if c.Synchronized() {
		t.Error("the clock counts as synchronised")
	}
	if got := strings.Count(log.String(), "operation not permitted"); got != 1 {
		t.Errorf("%d lines in the log:\n%s", got, log)
	}
}

func TestAdjtimex(t *testing.T) {
	t.Parallel()
	if _, err := latency.Synchronized(); err != nil {
		t.Errorf("this kernel does not tell: %v", err)
	}
	clock, err := latency.NewSystemClock()
	if err != nil {
		t.Fatal(err)
	}
	c, err := New(clock, prometheus.NewRegistry(), slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	now := clock.Now()
	if settled := c.Settle(now, nil); !settled.Equal(now.Wall) {
		t.Errorf("the present, %v, is settled as %v", now.Wall, settled)
	}
	if apart := time.Until(c.Now()).Abs(); apart > time.Second {
		t.Errorf("Now is %v from the system's", apart)
	}
}
