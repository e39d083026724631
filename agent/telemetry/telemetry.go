// Package telemetry is what latpush says about itself.
//
// What enters are counters and gauges that the agent and its rooms keep in a private Prometheus registry, and what the kernel room reports
// about its sources; what leaves are metric families of the same form as the histograms, so that they travel in the same snapshot. What can
// go wrong: a collector cannot read its values; its metrics are then missing from that snapshot and the error says which.
package telemetry

import (
	"runtime"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/collectors/version"
)

// The stages of a tick, values of the label `stage` of latpush_tick_errors_total.
const (
	StageRead   = "read"   // reading the kernel's maps
	StageGather = "gather" // reading the agent's own metrics
	StageAppend = "append" // writing the snapshot to the spool
)

// Metrics are the run loop's own metrics and the registry that all rooms share. It is safe for concurrent use.
type Metrics struct {
	Ticks            prometheus.Counter
	TicksSkipped     prometheus.Counter
	TickDuration     prometheus.Gauge       // seconds, of the last tick
	TickErrors       *prometheus.CounterVec // by stage
	ReloadSuccessful prometheus.Gauge       // 1 or 0
	ReloadTime       prometheus.Gauge       // Unix seconds of the last successful load

	registry *prometheus.Registry
	start    time.Duration
}

// New makes the registry. Start is the CLOCK_BOOTTIME at which the process started: all counters were zero then.
func New(start time.Duration) *Metrics {
	m := &Metrics{
		Ticks: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "latpush_ticks_total", Help: "Snapshots taken.",
		}),
		TicksSkipped: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "latpush_ticks_skipped_total", Help: "Ticks left out because they were late.",
		}),
		TickDuration: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "latpush_tick_duration_seconds", Help: "Time from the start of the last tick until its snapshot was in the spool.",
		}),
		TickErrors: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "latpush_tick_errors_total", Help: "Ticks in which a stage had an error.",
		}, []string{"stage"}),
		ReloadSuccessful: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "latpush_config_last_reload_successful", Help: "Whether the last load of the configuration succeeded.",
		}),
		ReloadTime: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "latpush_config_last_reload_success_timestamp_seconds", Help: "When the configuration in force was loaded.",
		}),
		registry: prometheus.NewRegistry(),
		start:    start,
	}
	for _, stage := range []string{StageRead, StageGather, StageAppend} {
		m.TickErrors.WithLabelValues(stage)
	}
	m.registry.MustRegister(
		m.Ticks, m.TicksSkipped, m.TickDuration, m.TickErrors, m.ReloadSuccessful, m.ReloadTime,
		version.NewCollector("latpush"), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}), goroutines(),
	)
	return m
}

// Registerer is where the rooms register their metrics.
func (m *Metrics) Registerer() prometheus.Registerer { return m.registry }

// goroutines stands in for the Go collector, which would add thirty families to every push of a metered link.
func goroutines() prometheus.Collector {
	return prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "go_goroutines", Help: "Number of goroutines that currently exist.",
	}, func() float64 { return float64(runtime.NumGoroutine()) })
}
