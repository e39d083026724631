package agent

import (
	"time"

	"github.com/latpush/latpush/agent/telemetry"
	"github.com/latpush/latpush/internal/kernel"
	"github.com/latpush/latpush/internal/latency"
)

// tick reads everything once and appends it to the spool, which wakes the senders. No error stops the sampling: what could be read is kept.
func (a *Agent) tick() {
	taken := a.clock.Now()
	a.metrics.Ticks.Inc()
	a.wall.Observe(taken)
	snapshot := &latency.Snapshot{Taken: taken, Families: a.families()}
	a.ratchet()
	a.outcome(telemetry.StageAppend, "snapshot is lost, the spool does not take it", a.spool.Append(snapshot))
	a.metrics.TickDuration.Set((a.clock.Now().Boottime - taken.Boottime).Seconds())
}

// families returns the histograms of all sources and the agent's own metrics, sorted by name.
func (a *Agent) families() []latency.Family {
	samples, losses, err := a.kernel.Read()
	a.outcome(telemetry.StageRead, "sources cannot be read completely", err)
	statuses := a.kernel.Sources()
	families := latency.FromSamples(samples, starts(statuses))
	families = append(families, telemetry.Sources(statuses, losses)...)
	families = append(families, a.confinementStatus().Families()...)
	own, err := a.metrics.Families()
	a.outcome(telemetry.StageGather, "own metrics cannot be read completely", err)
	families = append(families, own...)
	latency.SortFamilies(families)
	return families
}

// starts returns the CLOCK_BOOTTIME since when a metric is counted.
func starts(statuses []kernel.Status) func(metric string) time.Duration {
	loaded := make(map[string]time.Duration)
	for _, status := range statuses {
		for _, metric := range status.Metrics {
			loaded[metric] = status.Loaded
		}
	}
	return func(metric string) time.Duration { return loaded[metric] }
}

// outcome counts the error of a stage and logs it once: again only when the text changes, and when the stage works again.
func (a *Agent) outcome(stage, message string, err error) {
	last := a.stageErrors[stage]
	switch {
	case err == nil && last != "":
		delete(a.stageErrors, stage)
		a.log.Info("tick works again", "stage", stage)
	case err != nil:
		a.metrics.TickErrors.WithLabelValues(stage).Inc()
		if text := err.Error(); text != last {
			a.stageErrors[stage] = text
			a.log.Error(message, "stage", stage, "err", err)
		}
	}
}
