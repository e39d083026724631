package agent

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"sync"
	"time"

	"github.com/latpush/latpush/agent/budget"
	"github.com/latpush/latpush/agent/config"
	"github.com/latpush/latpush/agent/sender"
	"github.com/latpush/latpush/internal/promwire"
	"github.com/latpush/latpush/internal/upload"
)

// receiver is one entry of remote_write with the sender that serves it.
type receiver struct {
	plan   plan
	client Client
	sender *sender.Sender

	cancel context.CancelFunc // nil until the sender runs
	done   chan struct{}      // closed when the sender has returned
	// drained says that nothing was left in the spool; it may be read when done is closed.
	drained bool
}

// plan is all that a configuration says about one receiver. While it stays the same, a reload does not touch the receiver.
type plan struct {
	Config     upload.Config
	Labels     []promwire.Label
	Interval   time.Duration
	Histograms map[string]promwire.Histogram // by metric, of those that are not classic
}

// plans returns what a configuration says about each receiver.
func plans(loaded *config.Config) []plan {
	labels, histograms := externalLabels(loaded), histogramsOf(loaded)
	all := make([]plan, len(loaded.RemoteWrite))
	for i, c := range loaded.RemoteWrite {
		all[i] = plan{Config: c, Labels: labels, Interval: time.Duration(loaded.Interval), Histograms: histograms}
	}
	return all
}

// histogramsOf returns how the histograms of a configuration's sources are sent.
func histogramsOf(loaded *config.Config) map[string]promwire.Histogram {
	histograms := make(map[string]promwire.Histogram)
	for i := range loaded.Sources {
		source := &loaded.Sources[i]
		for _, metric := range source.Metrics() {
			if form := promwire.Histogram(source.Histogram); form == promwire.Custom || form == promwire.Exponential {
				histograms[metric] = form
			}
		}
	}
	return histograms
}

// wire returns how the receiver's requests are encoded.
func (p *plan) wire() promwire.Options {
	c := &p.Config
	return promwire.Options{
		Labels: p.Labels, MaxSamples: c.QueueConfig.MaxSamplesPerSend, Relabel: c.WriteRelabelConfigs,
		Histograms: func(family string) promwire.Histogram { return cmp.Or(p.Histograms[family], promwire.Classic) },
		NoNative:   !c.SendNativeHistograms,
		// A receiver that was configured for 1.0 is one that the user knows. To one that fell back to it, classic lines are the safe choice.
		NativeInV1: c.SendNativeHistograms && c.ProtobufMessage == promwire.V1,
		Metadata:   c.MetadataConfig.Send, StaleMarkers: c.StaleMarkers, IdleInterval: time.Duration(c.IdleInterval),
	}
}

// prepare makes the receivers that are new or changed in a configuration. Nothing of it is in force yet.
func (a *Agent) prepare(loaded *config.Config) ([]*receiver, error) {
	var prepared []*receiver
	for _, p := range plans(loaded) {
		if old, running := a.receivers[p.Config.Name]; running && reflect.DeepEqual(old.plan, p) {
			continue
		}
		r, err := a.newReceiver(p)
		if err != nil {
			for _, unused := range prepared {
				unused.client.Close()
			}
			return nil, fmt.Errorf("prepare receiver %s: %w", p.Config.Name, err)
		}
		prepared = append(prepared, r)
	}
	return prepared, nil
}

func (a *Agent) newReceiver(p plan) (*receiver, error) {
	c := &p.Config
	encoder, err := a.rooms.NewEncoder(p.wire())
	if err != nil {
		return nil, err
	}
	cursor, open := a.cursors[c.Name]
	if !open {
		if cursor, err = a.spool.Reader(c.Name); err != nil {
			return nil, fmt.Errorf("open cursor: %w", err)
		}
		a.cursors[c.Name] = cursor
	}
	client, err := a.rooms.NewClient(*c)
	if err != nil {
		return nil, err
	}
	return &receiver{
		plan: p, client: client,
		sender: sender.New(sender.Options{
			Name: c.Name, Reader: cursor, Encoder: encoder, Client: client, Clock: a.time, Quarantine: a.quarantine,
			NewBudget: a.budgetOf(c), Settings: sender.SettingsOf(c, p.Interval), Metrics: a.senderMetrics, Log: a.log.With("receiver", c.Name),
		}),
	}, nil
}

// budgetOf returns what makes the budget of a metered link, nil for one that is not.
func (a *Agent) budgetOf(c *upload.Config) func(from budget.State) sender.Budget {
	limits := budget.Options{MaxBytesPerDay: c.MaxBytesPerDay, MaxBytesPerSecond: c.MaxBytesPerSecond}
	if limits == (budget.Options{}) {
		return nil
	}
	return func(from budget.State) sender.Budget { return budget.New(limits, a.clock, a.wall.Synchronized, from) }
}

// externalLabels returns the labels of every series, sorted by name.
func externalLabels(loaded *config.Config) []promwire.Label {
	labels := make([]promwire.Label, 0, len(loaded.ExternalLabels))
	for _, name := range slices.Sorted(maps.Keys(loaded.ExternalLabels)) {
		labels = append(labels, promwire.Label{Name: name, Value: loaded.ExternalLabels[name]})
	}
	return labels
}

// install puts a prepared receiver in the place of the one with its name, if there is one. Its sender is started by start.
func (a *Agent) install(r *receiver) {
	name := r.plan.Config.Name
	if _, running := a.receivers[name]; running {
		a.retire(name)
	}
	a.receivers[name] = r
}

// start starts the senders that do not run yet. The first time is after the first tick, so that the phase spreads a fleet's backlogs too.
func (a *Agent) start() {
	for _, r := range a.receivers {
		if r.cancel != nil {
			continue
		}
		// Not the context of Run: when that ends, the sender still has to deliver the last snapshot.
		ctx, cancel := context.WithCancel(context.Background())
		r.cancel, r.done = cancel, make(chan struct{})
		go func() {
			defer close(r.done)
			r.drained = r.sender.Run(ctx)
		}()
	}
}

// retire stops the sender of a receiver at once. What it had not delivered stays in the spool.
func (a *Agent) retire(name string) {
	r := a.receivers[name]
	if r.cancel != nil {
		r.cancel()
		<-r.done
	}
	r.client.Close()
	delete(a.receivers, name)
}

// forget stops the receivers that a configuration does not have and removes their cursors, for nobody would ever take away what they hold
// back. A receiver that was only renamed has a new cursor by now, which starts at the oldest snapshot that the old one left.
func (a *Agent) forget(loaded *config.Config) {
	wanted := make(map[string]bool)
	for _, c := range loaded.RemoteWrite {
		wanted[c.Name] = true
	}
	for _, name := range a.spool.Readers() {
		if wanted[name] {
			continue
		}
		if _, running := a.receivers[name]; running {
			a.retire(name)
		}
		var err error
		if cursor, open := a.cursors[name]; open {
			err = cursor.Close()
			delete(a.cursors, name)
		}
		if err = errors.Join(err, a.spool.Forget(name)); err != nil {
			a.log.Warn("cursor of a receiver that is no longer configured is not removed", "receiver", name, "err", err)
			continue
		}
		a.log.Info("receiver is no longer configured, its cursor is removed", "receiver", name)
	}
}

// drain lets all senders deliver what is left in the spool, for no longer than the bound, and stops them.
func (a *Agent) drain(bound time.Duration) {
	a.start()
	var stopped sync.WaitGroup
	for name, r := range a.receivers {
		r.sender.Drain()
		late := time.AfterFunc(bound, r.cancel)
		stopped.Go(func() {
			<-r.done
			late.Stop()
			r.cancel()
			if !r.drained {
				a.log.Warn("snapshots are left in the spool for the next start", "receiver", name, "shutdown_timeout", bound)
			}
		})
	}
	stopped.Wait()
}

// stop takes a last snapshot, removes the programs, delivers what it can within shutdown_timeout and closes the spool.
func (a *Agent) stop() error {
	a.log.Info("stopping", "shutdown_timeout", time.Duration(a.config.ShutdownTimeout))
	a.tick()
	var errs []error
	// The programs go before the senders drain: nothing reads their maps any more, and a receiver that hangs must not keep them attached.
	if err := a.kernel.Close(); err != nil {
		errs = append(errs, fmt.Errorf("remove programs: %w", err))
	}
	a.drain(time.Duration(a.config.ShutdownTimeout))
	a.quarantine.Close()
	if err := a.spool.Close(); err != nil {
		errs = append(errs, fmt.Errorf("close spool: %w", err))
	}
	a.log.Info("stopped")
	return errors.Join(errs...)
}
