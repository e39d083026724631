package telemetry

import (
	"github.com/latpush/latpush/internal/kernel"
	"github.com/latpush/latpush/internal/latency"
)

// costs reports what the programs of the sources take of the CPU, and how long they were detached. A source of which nothing is known, and never was,
// has no cost.
func costs(statuses []kernel.Status) []latency.Family {
	const seconds, ratio, event, measured, detached = 0, 1, 2, 3, 4
	source := []string{"source"}
	families := []latency.Family{
		seconds: {
			Name: "latpush_source_cpu_seconds_total", Kind: latency.Counter, LabelNames: source,
			Help: "CPU time of a source's programs in the kernel, extrapolated from short windows in which the kernel measures it.",
		},
		ratio: {
			Name: "latpush_source_cpu_ratio", Kind: latency.Gauge, LabelNames: source,
			Help: "Share of one CPU that a source's programs took in the last window in which the kernel measured it.",
		},
		event: {
			Name: "latpush_source_event_seconds", Kind: latency.Gauge, LabelNames: source,
			Help: "CPU time for each event that a source's programs saw in the last window in which they saw one.",
		},
		measured: {
			Name: "latpush_source_cpu_measured", Kind: latency.Gauge, LabelNames: source,
			Help: "Whether the kernel measures what a source costs, so that max_cpu bounds it.",
		},
		detached: {
			Name: "latpush_source_detached_seconds_total", Kind: latency.Counter, LabelNames: []string{"source", "reason"},
			Help: "Time a source's programs were detached: because they took more of the CPU than max_cpu (budget), or went with an agent that was killed (restart).",
		},
	}
	add := func(family int, series latency.Series) {
		families[family].Series = append(families[family].Series, series)
	}
	for _, status := range statuses {
		if status.Err != nil {
			continue
		}
		labels := []string{status.Source}
		add(measured, latency.Series{LabelValues: labels, Value: truth(status.Cost.Err == nil)})
		if status.Cost.Err == nil || status.Cost.Seconds > 0 {
			add(seconds, latency.Series{LabelValues: labels, Start: status.Loaded, Value: status.Cost.Seconds})
		}
		if status.Cost.Err == nil {
			add(ratio, latency.Series{LabelValues: labels, Value: float64(status.Cost.Share)})
		}
		if status.Cost.PerEvent > 0 {
			add(event, latency.Series{LabelValues: labels, Value: status.Cost.PerEvent.Seconds()})
		}
		for reason, length := range status.Detached {
			add(detached, latency.Series{LabelValues: []string{status.Source, reason}, Start: status.Loaded, Value: length.Seconds()})
		}
	}
	return families
}
