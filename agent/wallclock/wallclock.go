// Package wallclock says when a snapshot was really taken, on hosts whose clock is wrong for a while.
//
// What enters are readings of the clocks, one at each tick, and what the spool knows of earlier boots; what leaves are wall times for snapshots,
// metrics and a log line when the clock was stepped, and the moment from which on the clock can be believed. What can go wrong: the kernel does
// not tell whether the clock is synchronised (a system call filter; it then counts as not synchronised), and a clock that nobody ever set
// leaves only guesses, which keep the order of time but not its date.
//
// CLOCK_REALTIME and CLOCK_BOOTTIME are slewed together, so the difference between them changes only when the clock is stepped, and within a boot
// that difference is all there is to correct.
package wallclock

import (
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/latpush/latpush/internal/latency"
)

const (
	// tolerance is how far a wall time may be from what CLOCK_BOOTTIME says of it. Both are read one after the other, so a process that is not
	// scheduled in between makes a difference; and corrections below it are no steps.
	tolerance = 500 * time.Millisecond

	// jitter is what is taken for such a difference between two readings, so that settled times do not change from one call to the next.
	jitter = 50 * time.Millisecond
)

// Clock is the wall clock of this host and what is known about its errors. It is safe for concurrent use.
type Clock struct {
	clock        latency.Clock
	kernel       func() (synchronized bool, err error)
	log          *slog.Logger
	step         prometheus.Gauge
	steps        *prometheus.CounterVec
	synchronized prometheus.Gauge

	mu       sync.Mutex // guards the rest
	began    time.Time  // wall clock at CLOCK_BOOTTIME 0 of this boot, as it is believed now
	trusted  bool       // the kernel said since the last step that the clock is synchronised
	earliest time.Time  // end of the boots before this one, as far as they were seen while the clock was not trusted
	deadline time.Time  // until when WaitSync waits at most; zero before its first call
	silent   bool       // that the kernel does not tell was logged
}

// The values of the label `direction` of latpush_clock_steps_total.
const (
	forward  = "forward"
	backward = "backward"
)

// New makes the Clock of this host. The error is that of the registry.
func New(clock latency.Clock, reg prometheus.Registerer, log *slog.Logger) (*Clock, error) {
	return newClock(clock, latency.Synchronized, reg, log)
}

func newClock(clock latency.Clock, kernel func() (bool, error), reg prometheus.Registerer, log *slog.Logger) (*Clock, error) {
	c := &Clock{
		clock: clock, kernel: kernel, log: log,
		step: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "latpush_clock_step_seconds", Help: "By how much the wall clock was stepped last, below zero when backward; 0 before the first step.",
		}),
		steps: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "latpush_clock_steps_total", Help: "Steps of the wall clock by more than half a second.",
		}, []string{"direction"}),
		synchronized: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "latpush_clock_synchronized", Help: "Whether the kernel says that the wall clock is synchronised.",
		}),
	}
	for _, direction := range []string{forward, backward} {
		c.steps.WithLabelValues(direction)
	}
	for _, collector := range []prometheus.Collector{c.step, c.steps, c.synchronized} {
		if err := reg.Register(collector); err != nil {
			return nil, fmt.Errorf("register metrics of the clock: %w", err)
		}
	}
	c.began = beginning(clock.Now())
	c.Synchronized()
	return c, nil
}

// beginning returns the wall clock at CLOCK_BOOTTIME 0, by one reading.
func beginning(now latency.Instant) time.Time { return now.Wall.Add(-now.Boottime) }

// Now returns the present wall time.
func (c *Clock) Now() time.Time { return c.clock.Now().Wall }

// Observe takes in a reading of the clocks; call it at each tick. It finds steps.
func (c *Clock) Observe(now latency.Instant) {
	c.mu.Lock()
	c.follow(now)
	c.mu.Unlock()
	c.Synchronized()
}

// follow brings began to a reading that was just made. The caller holds mu.
func (c *Clock) follow(now latency.Instant) {
	if distance(beginning(now), c.began) > tolerance {
		now = c.clock.Now() // so that one bad reading, or one from before a step that is known already, is not taken for a step
	}
	moved := beginning(now).Sub(c.began)
	switch {
	case moved.Abs() <= jitter:
		return
	case moved.Abs() > tolerance:
		c.stepped(moved)
	}
	c.began = beginning(now)
}

// stepped reports a step.
func (c *Clock) stepped(by time.Duration) {
	direction := forward
	if by < 0 {
		direction = backward
	}
	c.step.Set(by.Seconds())
	c.steps.WithLabelValues(direction).Inc()
	// Whoever stepped the clock knows better. Whether it is right now, the kernel has to say again.
	c.earliest, c.trusted = time.Time{}, false
	c.log.Info("wall clock was stepped, snapshots of this boot are sent with corrected times", "step", by, "direction", direction)
}

func distance(a, b time.Time) time.Duration { return a.Sub(b).Abs() }
