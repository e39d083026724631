package kernel

import (
	"strings"

	"github.com/cilium/ebpf"
)

// The ways to attach a hook, as they are reported, cheapest first for each kind of hook.
const (
	Fentry        = "fentry"
	Kprobe        = "kprobe"
	TpBTF         = "tp_btf"
	RawTracepoint = "raw_tracepoint"
	Tracepoint    = "tracepoint"
)

// source describes one source: what it counts and which hooks its programs need.
type source struct {
	name       string
	standard   bool // in the default set: it costs little
	metrics    []metric
	inFlight   *inFlight // nil: its operations cannot hang
	hooks      []hook
	openLabels bool     // the label sets are not a fixed list: max_label_sets sizes the maps
	labels     []string // that the configuration can ask for; without them their members of the keys are zero
	allowList  bool     // the configuration key allow is for this source
	mounts     bool     // the configuration key filesystems is for this source: it chooses the modules of its hooks
	configure  func(spec *ebpf.CollectionSpec, config *SourceConfig, e *environment) error
	label      func(value string) string // makes a label value of what the kernel wrote; nil: as it is
}

// metric describes one map of a source, of histograms or of counters.
type metric struct {
	name     string // of the metric; the map has the same name without the unit, or without the "total"
	kind     Kind
	help     string
	fromZero bool                                // label sets are reported before their first event
	labels   []string                            // of an array; a hash map's are the members of its key
	values   func(config *SourceConfig) []string // of an array: the label's values in the order of the keys
}

func (m *metric) mapName() string {
	return strings.TrimSuffix(strings.TrimSuffix(m.name, "_seconds"), "_total")
}

// hook is a group of events that are attached together, all in the same way.
type hook struct {
	name      string
	events    []string // in the order of attaching: ends before starts, so that no start is left behind
	ways      []way
	module    string // where the events live, unless they are built in
	anchor    string // the function that is there if the module is built in; empty: the first event
	absent    string // why it is no fault that a kernel does not have the events; empty: it is one
	insteadOf string // the function of which the presence makes the hook needless; empty: there is none
}

// isFunction returns whether the hook is on a function, and not on tracepoints.
func (h *hook) isFunction() bool { return h.ways[0].how == Fentry }

// symbol is what the kernel's list of symbols has if it has the hook's first event.
func (h *hook) symbol() string {
	if h.isFunction() {
		return h.events[0]
	}
	return "__tracepoint_" + h.events[0]
}

// way is one way to attach a hook: the program of an event is the event's name and the suffix.
type way struct {
	how      string
	suffixes []string // a function has one event and several programs, in the order of attaching
}

// programs returns the names of the programs that attach the hook in one of its ways, in the order of attaching.
func (h *hook) programs(how string) []string {
	var names []string
	for _, w := range h.ways {
		if w.how != how {
			continue
		}
		for _, suffix := range w.suffixes {
			for _, event := range h.events {
				names = append(names, event+"_"+suffix)
			}
		}
	}
	return names
}

// tracepoints describes a hook on kernel tracepoints. With classic set, the programs read the formatted records as well.
func tracepoints(name string, classic bool, events ...string) hook {
	ways := []way{{TpBTF, []string{"tp_btf"}}, {RawTracepoint, []string{"raw_tp"}}}
	if classic {
		ways = append(ways, way{Tracepoint, []string{"tracepoint"}})
	}
	return hook{name: name, events: events, ways: ways}
}

// inModule describes a hook of which the events live in a module.
func inModule(module string, h hook) hook {
	h.module = module
	return h
}

// function describes a hook on the entry and the return of a function of a module, or of the kernel itself if module is empty.
func function(module, name, absent string) hook {
	return hook{
		name: name, events: []string{name}, module: module, absent: absent,
		ways: []way{{Fentry, []string{"fexit", "fentry"}}, {Kprobe, []string{"kretprobe", "kprobe"}}},
	}
}

// returnOf describes a hook on the return of a function of the kernel itself.
func returnOf(name string) hook {
	return hook{name: name, events: []string{name}, ways: []way{{Fentry, []string{"fexit"}}, {Kprobe, []string{"kretprobe"}}}}
}
