package kernel

import (
	"github.com/cilium/ebpf"

	"github.com/latpush/latpush/bpf/objects"
)

// Description says what a source is, whatever the kernel.
type Description struct {
	Name    string
	Default bool     // whether it is in the default set
	Labels  []string // that its metrics have if the configuration asks for them
	Metrics []MetricDescription
	Hooks   []HookDescription
}

// MetricDescription says what a metric of a source is.
type MetricDescription struct {
	Name   string
	Kind   Kind
	Help   string
	Labels []string
}

// HookDescription says what a hook of a source is on, and the ways to attach it in the order in which they are tried.
type HookDescription struct {
	Name   string
	Events []string
	Module string // where the events live, unless they are built in
	Ways   []string
}

// Describe describes all sources, sorted by name. It asks the compiled programs, not the running kernel; an error means that they do not fit this code.
func Describe() ([]Description, error) {
	var all []Description
	for _, s := range catalogue() {
		d := Description{Name: s.name, Default: s.standard, Labels: s.labels}
		spec, err := objects.Load(s.name)
		if err != nil {
			return nil, err
		}
		for _, m := range s.metrics {
			labels := m.labels
			if m.values == nil {
				layout, err := layoutOf(spec, m.mapName())
				if err != nil {
					return nil, err
				}
				layout.hide(s.labels)
				labels = layout.labels()
			}
			d.Metrics = append(d.Metrics, MetricDescription{Name: m.name, Kind: m.kind, Help: m.help, Labels: labels})
		}
		gauges, err := s.describeGauges(spec)
		if err != nil {
			return nil, err
		}
		d.Metrics = append(d.Metrics, gauges...)
		for _, h := range s.hooks {
			hook := HookDescription{Name: h.name, Events: h.events, Module: h.module}
			for _, w := range h.ways {
				hook.Ways = append(hook.Ways, w.how)
			}
			d.Hooks = append(d.Hooks, hook)
		}
		all = append(all, d)
	}
	return all, nil
}

func (s *source) describeGauges(spec *ebpf.CollectionSpec) ([]MetricDescription, error) {
	if s.inFlight == nil {
		return nil, nil
	}
	var all []MetricDescription
	for _, g := range s.inFlight.gauges {
		layout, err := layoutOf(spec, g.name)
		if err != nil {
			return nil, err
		}
		all = append(all,
			MetricDescription{Name: g.name, Kind: KindGauge, Help: g.help, Labels: layout.labels()},
			MetricDescription{Name: g.oldestName(), Kind: KindGauge, Help: g.oldest, Labels: layout.labels()})
	}
	return all, nil
}
