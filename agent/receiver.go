package agent

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"sync"
	"time"

	"github.com/latpush/latpush/agent/config"
	"github.com/latpush/latpush/agent/sender"
	"github.com/latpush/latpush/internal/promwire"
	"github.com/latpush/latpush/internal/upload"
)

// receiver is one entry of remote_write with the sender that serves it.
type receiver struct {
	config upload.Config
	labels []promwire.Label
	client Client
	sender *sender.Sender

	cancel context.CancelFunc // nil until the sender runs
	done   chan struct{}      // closed when the sender has returned
	// drained says that nothing was left in the spool; it may be read when done is closed.
	drained bool
}

// prepare makes the receivers that are new or changed in a configuration. Nothing of it is in force yet.
func (a *Agent) prepare(loaded *config.Config) ([]*receiver, error) {
	labels := externalLabels(loaded)
	var prepared []*receiver
	for _, c := range loaded.RemoteWrite {
		if old, running := a.receivers[c.Name]; running && reflect.DeepEqual(old.config, c) && slices.Equal(old.labels, labels) {
			continue
		}
		r, err := a.newReceiver(c, labels)
		if err != nil {
			for _, unused := range prepared {
				unused.client.Close()
			}
			return nil, fmt.Errorf("prepare receiver %s: %w", c.Name, err)
		}
		prepared = append(prepared, r)
	}
	return prepared, nil
}

func (a *Agent) newReceiver(c upload.Config, labels []promwire.Label) (*receiver, error) {
	encoder, err := a.rooms.NewEncoder(promwire.Options{Labels: labels, MaxSamples: c.QueueConfig.MaxSamplesPerSend})
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
	client, err := a.rooms.NewClient(c)
	if err != nil {
		return nil, err
	}
	log := a.log.With("receiver", c.Name)
	return &receiver{
		config: c, labels: labels, client: client,
		sender: sender.New(c.Name, cursor, encoder, client, sender.Options{}, a.senderMetrics, log),
	}, nil
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
	name := r.config.Name
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
	if err := a.spool.Close(); err != nil {
		errs = append(errs, fmt.Errorf("close spool: %w", err))
	}
	a.log.Info("stopped")
	return errors.Join(errs...)
}
