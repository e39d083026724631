package telemetry

import (
	"slices"
	"time"

	"github.com/latpush/latpush/internal/kernel"
	"github.com/latpush/latpush/internal/latency"
)

// Sources reports what the kernel room has loaded and attached, what that costs, and which events it could not count.
func Sources(statuses []kernel.Status, losses []kernel.Loss) []latency.Family {
	lost := latency.Family{
		Name: "latpush_events_lost_total", Help: "Events of a source that could not be counted in a histogram, for one reason.",
		Kind: latency.Counter, LabelNames: []string{"source", "reason"},
	}
	attached := latency.Family{
		Name: "latpush_hook_attached", Help: "Whether a hook of a source is attached, and how.",
		Kind: latency.Gauge, LabelNames: []string{"source", "hook", "how"},
	}
	up := latency.Family{
		Name: "latpush_source_up", Help: "Whether a source counts, or will as soon as the module that it needs is loaded.",
		Kind: latency.Gauge, LabelNames: []string{"source"},
	}
	memory := latency.Family{
		Name: "latpush_source_map_bytes", Help: "Kernel memory of a source's maps when they were made.", Unit: "bytes",
		Kind: latency.Gauge, LabelNames: []string{"source"},
	}
	sets := latency.Family{
		Name: "latpush_label_sets", Help: "Label sets of a metric whose label sets are bounded by max_label_sets.",
		Kind: latency.Gauge, LabelNames: []string{"metric"},
	}
	loaded := make(map[string]time.Duration, len(statuses))
	for _, status := range statuses {
		loaded[status.Source] = status.Loaded
		up.Series = append(up.Series, latency.Series{LabelValues: []string{status.Source}, Value: truth(runs(&status))})
		memory.Series = append(memory.Series, latency.Series{LabelValues: []string{status.Source}, Value: float64(status.Memory)})
		for metric, n := range status.LabelSets {
			sets.Series = append(sets.Series, latency.Series{LabelValues: []string{metric}, Value: float64(n)})
		}
		for _, hook := range status.Hooks {
			attached.Series = append(attached.Series, latency.Series{
				LabelValues: []string{status.Source, hook.Name, hook.How}, Value: truth(hook.Attached()),
			})
		}
	}
	for _, loss := range losses {
		lost.Series = append(lost.Series, latency.Series{
			LabelValues: []string{loss.Source, loss.Reason}, Start: loaded[loss.Source], Value: float64(loss.Events),
		})
	}
	families := append([]latency.Family{lost, attached, memory, up, sets}, costs(statuses)...)
	for i := range families {
		latency.SortSeries(families[i].Series)
	}
	return families
}

// runs tells whether a source counts, or will as soon as its module is loaded.
func runs(status *kernel.Status) bool {
	waits := func(h kernel.HookStatus) bool { return h.How == kernel.Waiting }
	return status.Err == nil && (status.Attached() || slices.ContainsFunc(status.Hooks, waits))
}

func truth(is bool) float64 {
	if is {
		return 1
	}
	return 0
}
