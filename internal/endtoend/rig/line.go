package rig

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.yaml.in/yaml/v3"

	"github.com/latpush/latpush/agent/sender"
	"github.com/latpush/latpush/agent/wallclock"
	"github.com/latpush/latpush/internal/latency"
	"github.com/latpush/latpush/internal/promwire"
	"github.com/latpush/latpush/internal/spool"
	"github.com/latpush/latpush/internal/spool/quarantine"
	"github.com/latpush/latpush/internal/upload"
)

const (
	receiverName    = "rig" // of the cursor
	quarantineBytes = 16 << 20
)

// LineOptions say what a line is made of.
type LineOptions struct {
	Spool spool.Options
	// Receiver is one entry of remote_write, in YAML.
	Receiver string
	// Encoder has what the agent takes from the rest of the configuration; what Receiver says is filled in.
	Encoder promwire.Options
	// Interval is the time between two snapshots.
	Interval time.Duration
	// Clock is that of the host which takes the snapshots.
	Clock latency.Clock
	// Limits bound the sender; the zero value is the agent's.
	Limits sender.Limits
	// Log gets what the rooms log. Nil: nothing is logged.
	Log *slog.Logger
}

// Line is the way from a spool to one receiver, put together as the agent does it.
type Line struct {
	Spool *spool.Spool

	registry *prometheus.Registry
	client   *upload.Client
	sender   *sender.Sender
	cancel   context.CancelFunc
	done     chan struct{} // closed when the sender has returned
	drained  bool          // what it returned
}

// OpenLine opens a line and starts to deliver.
func OpenLine(o LineOptions) (*Line, error) {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	l := &Line{registry: prometheus.NewRegistry(), done: make(chan struct{})}
	s, err := spool.Open(o.Spool, o.Log, l.registry)
	if err != nil {
		return nil, err
	}
	l.Spool = s
	if err := l.connect(o); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	ctx, cancel := context.WithCancel(context.Background())
	l.cancel = cancel
	go func() {
		defer close(l.done)
		l.drained = l.sender.Run(ctx)
	}()
	return l, nil
}

func (l *Line) connect(o LineOptions) error {
	var config upload.Config
	if err := yaml.Unmarshal([]byte(o.Receiver), &config); err != nil {
		return fmt.Errorf("parse receiver: %w", err)
	}
	config.Name = receiverName
	reader, err := l.Spool.Reader(receiverName)
	if err != nil {
		return err
	}
	encoder, err := promwire.NewEncoder(encoderOptions(o.Encoder, &config))
	if err != nil {
		return err
	}
	metrics, err := sender.NewMetrics(l.registry)
	if err != nil {
		return err
	}
	if l.client, err = upload.New(config, "test", o.Log, l.registry); err != nil {
		return err
	}
	store, err := quarantine.Open(filepath.Join(o.Spool.Directory, quarantine.Folder), quarantineBytes, o.Log, l.registry)
	if err != nil {
		return err
	}
	wall, err := wallclock.New(o.Clock, l.registry, o.Log)
	if err != nil {
		return err
	}
	l.sender = sender.New(sender.Options{
		Name: receiverName, Reader: reader, Encoder: encoder, Client: l.client, Clock: timing{wall, l.Spool}, Quarantine: store,
		Settings: sender.SettingsOf(&config, o.Interval), Limits: o.Limits, Metrics: metrics, Log: o.Log,
	})
	return nil
}

// encoderOptions adds what an entry of remote_write says.
func encoderOptions(o promwire.Options, c *upload.Config) promwire.Options {
	o.NativeInV1 = c.SendNativeHistograms && c.ProtobufMessage == promwire.V1
	o.MaxSamples, o.Relabel = c.QueueConfig.MaxSamplesPerSend, c.WriteRelabelConfigs
	o.NoNative, o.Metadata = !c.SendNativeHistograms, c.MetadataConfig.Send
	o.IdleInterval, o.StaleMarkers = time.Duration(c.IdleInterval), c.StaleMarkers
	return o
}

// Drain delivers what is in the spool, for no longer than the limit, stops and closes everything, and returns whether all was delivered.
func (l *Line) Drain(limit time.Duration) (drained bool, err error) {
	l.sender.Drain()
	late := time.AfterFunc(limit, l.cancel)
	defer late.Stop()
	<-l.done
	return l.drained, l.close()
}

// Abort stops without delivering any more, as when the process ends, and closes everything.
func (l *Line) Abort() error {
	l.cancel()
	<-l.done
	return l.close()
}

func (l *Line) close() error {
	l.cancel()
	l.client.Close()
	return l.Spool.Close()
}

// Metric returns one of the rooms' own metrics, all its label sets together; 0 when there is none.
func (l *Line) Metric(name string) (float64, error) {
	families, err := l.registry.Gather()
	if err != nil {
		return 0, fmt.Errorf("gather metrics of the line: %w", err)
	}
	sum := 0.0
	for _, family := range families {
		if family.GetName() != name {
			continue
		}
		for _, m := range family.Metric {
			sum += m.GetCounter().GetValue() + m.GetGauge().GetValue()
		}
	}
	return sum, nil
}
