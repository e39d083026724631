package telemetry

import (
	"github.com/latpush/latpush/internal/capability"
	"github.com/latpush/latpush/internal/confine"
	"github.com/latpush/latpush/internal/latency"
)

// The metrics and their labels by which `latpush status` finds them.
const (
	ConfinementMetric = "latpush_confinement"
	CapabilityMetric  = "latpush_capability_held"
)

// Confinement is what the process may not do any more, and which capabilities it still has.
type Confinement struct {
	State   confine.State
	Reasons map[capability.Set]string // by single capability: what it is kept for, empty for nothing
}

// Families reports a confinement, sorted by name. There are none for nil.
func (c *Confinement) Families() []latency.Family {
	if c == nil {
		return nil
	}
	held := latency.Family{
		Name: CapabilityMetric, Help: "1 for each capability that the process has, and what it is kept for.",
		Kind: latency.Gauge, LabelNames: []string{"capability", "reason"},
	}
	for one, reason := range c.Reasons {
		held.Series = append(held.Series, latency.Series{LabelValues: []string{one.String(), reason}, Value: 1})
	}
	force := latency.Family{
		Name: ConfinementMetric, Help: "Whether a part of the confinement is in force.", Kind: latency.Gauge, LabelNames: []string{"kind"},
		Series: []latency.Series{
			{LabelValues: []string{"capabilities"}, Value: truth(c.State.Capabilities)},
			{LabelValues: []string{"landlock"}, Value: truth(c.State.Landlock)},
			{LabelValues: []string{"no_new_privs"}, Value: truth(c.State.NoNewPrivileges)},
			{LabelValues: []string{"seccomp"}, Value: truth(c.State.Seccomp)},
		},
	}
	latency.SortSeries(held.Series)
	return []latency.Family{held, force}
}
