// Package agent wires the rooms of latpush together and runs them.
//
// What enters is a configuration; what leaves is one snapshot per tick in the spool, and from there requests to every receiver. The loop
// ticks on a fixed grid, each tick reads the kernel and the agent's own metrics and appends them to the spool; each receiver has a sender
// with a cursor of its own. What can go wrong at the start (the spool cannot be opened, no source can run) is returned before anything is
// attached; what goes wrong later is counted and logged, and sampling goes on.
package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/latpush/latpush/agent/config"
	"github.com/latpush/latpush/agent/identity"
	"github.com/latpush/latpush/agent/schedule"
	"github.com/latpush/latpush/agent/sender"
	"github.com/latpush/latpush/agent/telemetry"
	"github.com/latpush/latpush/agent/wallclock"
	"github.com/latpush/latpush/internal/kernel"
	"github.com/latpush/latpush/internal/latency"
)

// Options are what an agent is made from. All fields are needed.
type Options struct {
	// Load reads and validates the configuration: at the start and at every reload.
	Load func() (*config.Config, error)
	// Host is the host's identity.
	Host identity.Host
	// Clock tells when a snapshot was taken and when the next one is due.
	Clock latency.Clock
	// Rooms opens the kernel, the spool and the receivers.
	Rooms Rooms
	// Metrics are the agent's own metrics, which the rooms share.
	Metrics *telemetry.Metrics
	Log     *slog.Logger
}

// Agent is the running whole. All its fields are owned by the goroutine that calls New and Run.
type Agent struct {
	load    func() (*config.Config, error)
	host    identity.Host
	clock   latency.Clock
	rooms   Rooms
	metrics *telemetry.Metrics
	log     *slog.Logger

	config        *config.Config
	schedule      schedule.Schedule
	kernel        Kernel
	spool         Spool
	quarantine    Quarantine
	wall          *wallclock.Clock
	time          *timing
	senderMetrics *sender.Metrics
	receivers     map[string]*receiver // by name: the senders that deliver
	cursors       map[string]Cursor    // by name: the open cursors
	stageErrors   map[string]string    // by stage: the text of the last tick's error
	confinement   Confinement          // nil until Confine
	ratchetStuck  bool                 // capabilities could not be given up, which was said once
}

// New loads the configuration and opens the rooms. The kernel comes last, so that nothing is attached when anything else is wrong.
func New(ctx context.Context, o Options) (*Agent, error) {
	a := &Agent{
		load: o.Load, host: o.Host, clock: o.Clock, rooms: o.Rooms, metrics: o.Metrics, log: o.Log,
		receivers: make(map[string]*receiver), cursors: make(map[string]Cursor), stageErrors: make(map[string]string),
	}
	loaded, err := a.load()
	if err != nil {
		return nil, err
	}
	a.adopt(loaded)
	if a.senderMetrics, err = sender.NewMetrics(a.metrics.Registerer()); err != nil {
		return nil, fmt.Errorf("register sender metrics: %w", err)
	}
	if a.wall, err = wallclock.New(a.clock, a.metrics.Registerer(), a.log); err != nil {
		return nil, fmt.Errorf("register metrics of the clock: %w", err)
	}
	if a.spool, err = a.rooms.OpenSpool(loaded.Spool.Options); err != nil {
		return nil, err
	}
	if err := a.open(ctx); err != nil {
		return nil, errors.Join(err, a.spool.Close())
	}
	return a, nil
}

// open prepares the receivers and loads the sources.
func (a *Agent) open(ctx context.Context) error {
	var err error
	a.time = &timing{clock: a.clock, wall: a.wall, spool: a.spool, limit: time.Duration(a.config.ClockSyncTimeout)}
	if a.quarantine, err = a.rooms.OpenQuarantine(a.config.Spool.Quarantine(), int64(a.config.Spool.QuarantineMaxSize)); err != nil {
		return err
	}
	prepared, err := a.prepare(a.config)
	if err != nil {
		return err
	}
	for _, r := range prepared {
		a.install(r)
	}
	if a.kernel, err = a.rooms.OpenKernel(ctx, a.config.Sources, a.config.PinPath); err != nil {
		return fmt.Errorf("open kernel: %w", err)
	}
	a.forget(a.config)
	return nil
}

// adopt makes a configuration the one in force.
func (a *Agent) adopt(loaded *config.Config) {
	a.config = loaded
	// The instance tells hosts apart that have neither a name nor a machine id of their own.
	a.schedule = schedule.New(time.Duration(loaded.Interval), a.host.Key()+"/"+loaded.ExternalLabels["instance"])
	a.metrics.ReloadSuccessful.Set(1)
	a.metrics.ReloadTime.Set(float64(a.clock.Now().Wall.Unix()))
}

// Run ticks until ctx ends, and then stops in order: a last snapshot, the programs, the senders within shutdown_timeout, the spool.
// Each value received from reload makes it load the configuration again.
func (a *Agent) Run(ctx context.Context, reload <-chan struct{}) error {
	a.started()
	due := a.schedule.After(a.clock.Now().Boottime)
	for {
		select {
		case <-ctx.Done():
			return a.stop()
		case <-reload:
			before := a.schedule
			a.reload(ctx)
			if a.schedule != before {
				due = a.schedule.After(a.clock.Now().Boottime)
			}
		case <-time.After(due - a.clock.Now().Boottime):
			due = a.turn(due)
		}
	}
}

// turn runs the tick that is due, unless it is too late for it, and returns the next deadline.
func (a *Agent) turn(due time.Duration) time.Duration {
	now := a.clock.Now().Boottime
	if now < due {
		return due // the timer and CLOCK_BOOTTIME drift apart; wait for the rest
	}
	missed := a.schedule.Missed(due, now)
	latest := due + time.Duration(missed-1)*a.schedule.Interval()
	if !a.schedule.TooLate(latest, now) {
		a.tick()
		a.start()
		now = a.clock.Now().Boottime
		missed += a.schedule.Missed(latest+a.schedule.Interval(), now) - 1
	}
	if missed > 0 {
		a.metrics.TicksSkipped.Add(float64(missed))
		a.log.Warn("ticks skipped because they were late", "skipped", missed)
	}
	return a.schedule.After(now)
}

func (a *Agent) started() {
	attached, missing := 0, 0
	for _, status := range a.kernel.Sources() {
		for _, hook := range status.Hooks {
			switch {
			case hook.Attached():
				attached++
			case hook.How == kernel.Missing:
				missing++
			}
		}
	}
	a.log.Info("agent started", "interval", a.schedule.Interval(), "phase", a.schedule.Phase(),
		"instance", a.config.ExternalLabels["instance"], "receivers", len(a.receivers), "hooks_attached", attached, "hooks_missing", missing)
}
