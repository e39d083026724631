package kernel

import (
	"fmt"

	"github.com/cilium/ebpf/btf"

	"github.com/latpush/latpush/bpf/objects"
)

// Description says what a source is, whatever the kernel.
type Description struct {
	Name    string
	Default bool // whether it is in the default set
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
		d := Description{Name: s.name, Default: s.standard}
		spec, err := objects.Load(s.name)
		if err != nil {
			return nil, err
		}
		for _, m := range s.metrics {
			labels := m.labels
			if m.values == nil {
				key, ok := spec.Maps[m.mapName()].Key.(*btf.Struct)
				if !ok {
					return nil, fmt.Errorf("read key of map %s: it is no struct", m.mapName())
				}
				layout, err := newKeyLayout(key)
				if err != nil {
					return nil, err
				}
				labels = layout.labels()
			}
			d.Metrics = append(d.Metrics, MetricDescription{Name: m.name, Kind: m.kind, Help: m.help, Labels: labels})
		}
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
