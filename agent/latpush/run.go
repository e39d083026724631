package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/latpush/latpush/agent"
	"github.com/latpush/latpush/agent/config"
	"github.com/latpush/latpush/agent/identity"
	"github.com/latpush/latpush/agent/telemetry"
	"github.com/latpush/latpush/internal/confine"
	"github.com/latpush/latpush/internal/latency"
)

// gcPercent is how much garbage is allowed beside what is in use, in percent, unless GOGC in the environment says otherwise.
const gcPercent = 25

// run counts and pushes until a signal ends it.
func (c *command) run() error {
	// Collecting garbage early costs about a millisecond at each tick, and less memory is what a host notices. What loading leaves between the few
	// things that stay is less, too.
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(gcPercent)
	}
	clock, err := latency.NewSystemClock()
	if err != nil {
		return err
	}
	metrics := telemetry.New(clock.Now().Boottime)
	host := identity.Read()

	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	reload := make(chan struct{}, 1)
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, unix.SIGINT, unix.SIGTERM, unix.SIGHUP)
	defer signal.Stop(signals)
	go c.watch(signals, cancel, reload)

	a, err := agent.New(ctx, agent.Options{
		Load:    func() (*config.Config, error) { return config.Load(c.configFile, identity.Read()) },
		Host:    host,
		Clock:   clock,
		Rooms:   agent.NewRooms(c.log, metrics.Registerer()),
		Metrics: metrics,
		Log:     c.log,
	})
	if err != nil {
		return err
	}
	debug.FreeOSMemory() // loading needed the kernel's type information, many times what the agent holds from now on, a few MiB
	a.Confine(new(confine.Process), c.configFile)
	if err := releaseCode(); err != nil {
		c.log.Debug("pages that are not needed any more stay in memory", "err", err)
	}
	return a.Run(ctx, reload)
}

// sameSignal is how soon after the first one a signal is taken for the same: timeout(1), and shells that pass signals on to their group,
// deliver one twice.
const sameSignal = 500 * time.Millisecond

// watch turns signals into what they mean: reload, stop, and the second time exit at once.
func (c *command) watch(signals <-chan os.Signal, stop context.CancelFunc, reload chan<- struct{}) {
	var stopped time.Time
	for s := range signals {
		switch {
		case s == unix.SIGHUP:
			select {
			case reload <- struct{}{}:
			default: // one that has not begun yet reads the same file
			}
		case stopped.IsZero():
			stopped = time.Now()
			c.log.Info("signal received", "signal", s.String())
			stop()
		case time.Since(stopped) >= sameSignal:
			c.log.Warn("second signal, exiting at once", "signal", s.String())
			os.Exit(128 + int(s.(syscall.Signal)))
		}
	}
}

// check validates the configuration.
func (c *command) check() error {
	loaded, err := config.Load(c.configFile, identity.Read())
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(c.stdout, "%s is valid (interval: %v, sources: %d, receivers: %d)\n",
		c.configFile, loaded.Interval, len(loaded.Sources), len(loaded.RemoteWrite))
	return err
}
