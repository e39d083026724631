package telemetry

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/latpush/latpush/internal/kernel"
	"github.com/latpush/latpush/internal/latency"
)

const start = 90 * time.Second

func families(t *testing.T, m *Metrics) map[string]latency.Family {
	t.Helper()
	all, err := m.Families()
	if err != nil {
		t.Fatal(err)
	}
	byName := make(map[string]latency.Family)
	for _, family := range all {
		byName[family.Name] = family
	}
	if len(byName) != len(all) {
		t.Error("a family is there twice")
	}
	if !slices.IsSortedFunc(all, func(a, b latency.Family) int { return strings.Compare(a.Name, b.Name) }) {
		t.Error("families are not sorted by name")
	}
	return byName
}

func TestOwnMetricsOfTheRunLoop(t *testing.T) {
	t.Parallel()
	m := New(start)
	m.Ticks.Add(3)
	m.TicksSkipped.Inc()
	m.TickDuration.Set(0.25)
	m.TickErrors.WithLabelValues(StageAppend).Add(2)
	m.ReloadSuccessful.Set(1)
	got := families(t, m)

	want := map[string]latency.Family{
		"latpush_ticks_total": {
			Help: "Snapshots taken.", Kind: latency.Counter,
			Series: []latency.Series{{LabelValues: []string{}, Start: start, Value: 3}},
		},
		"latpush_ticks_skipped_total": {
			Help: "Ticks left out because they were late.", Kind: latency.Counter,
			Series: []latency.Series{{LabelValues: []string{}, Start: start, Value: 1}},
		},
		"latpush_tick_duration_seconds": {
			Help: "Time from the start of the last tick until its snapshot was in the spool.", Kind: latency.Gauge,
			Series: []latency.Series{{LabelValues: []string{}, Value: 0.25}},
		},
		"latpush_tick_errors_total": {
			Help: "Ticks in which a stage had an error.", Kind: latency.Counter, LabelNames: []string{"stage"},
			Series: []latency.Series{
				{LabelValues: []string{"append"}, Start: start, Value: 2},
				{LabelValues: []string{"gather"}, Start: start},
				{LabelValues: []string{"read"}, Start: start},
			},
		},
		"latpush_config_last_reload_successful": {
			Help: "Whether the last load of the configuration succeeded.", Kind: latency.Gauge,
			Series: []latency.Series{{LabelValues: []string{}, Value: 1}},
		},
	}
	for name, family := range want {
		family.Name = name
		if diff := cmp.Diff(family, got[name]); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
}

func TestOwnMetricsOfTheProcess(t *testing.T) {
	t.Parallel()
	got := families(t, New(start))
	for name, kind := range map[string]latency.Kind{
		"latpush_build_info": latency.Gauge, "go_goroutines": latency.Gauge, "process_cpu_seconds_total": latency.Counter,
		"process_resident_memory_bytes": latency.Gauge, "process_open_fds": latency.Gauge, "process_start_time_seconds": latency.Gauge,
	} {
		family, found := got[name]
		if !found || len(family.Series) != 1 || family.Kind != kind {
			t.Errorf("%s is %+v, want one series of kind %d", name, family, kind)
		}
		delete(got, name)
	}
	for name := range got {
		if !strings.HasPrefix(name, "latpush_") {
			t.Errorf("%s is pushed and nobody asked for it", name)
		}
	}
	if goroutines := families(t, New(start))["go_goroutines"].Series[0].Value; goroutines < 1 {
		t.Errorf("%v goroutines run this test", goroutines)
	}
}

// Label sets of one family may differ: an absent label is an empty value.
func TestConvertFillsAbsentLabels(t *testing.T) {
	t.Parallel()
	m := New(start)
	for _, labels := range []prometheus.Labels{{"receiver": "b"}, {"code": "500", "receiver": "a"}} {
		g := prometheus.NewGauge(prometheus.GaugeOpts{Name: "latpush_some", Help: "Some.", ConstLabels: labels})
		g.Set(float64(len(labels)))
		// One name with different label names is refused by a registry, so each comes from a registry of its own.
		if err := m.registry.Register(unchecked{g}); err != nil {
			t.Fatal(err)
		}
	}
	got := families(t, m)["latpush_some"]
	want := latency.Family{
		Name: "latpush_some", Help: "Some.", Kind: latency.Gauge, LabelNames: []string{"code", "receiver"},
		Series: []latency.Series{{LabelValues: []string{"", "b"}, Value: 1}, {LabelValues: []string{"500", "a"}, Value: 2}},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// unchecked hides the description of a collector from the registry.
type unchecked struct{ prometheus.Collector }

func (unchecked) Describe(chan<- *prometheus.Desc) {}

// broken fails to collect.
type broken struct{ err error }

func (b broken) Describe(chan<- *prometheus.Desc) {}

func (b broken) Collect(ch chan<- prometheus.Metric) {
	ch <- prometheus.NewInvalidMetric(prometheus.NewDesc("latpush_broken", "Broken.", nil, nil), b.err)
}

func TestFamiliesKeepsWhatCouldBeGathered(t *testing.T) {
	t.Parallel()
	m := New(start)
	cause := errors.New("the counter is gone")
	m.registry.MustRegister(broken{cause})
	all, err := m.Families()
	if err == nil || !strings.Contains(err.Error(), cause.Error()) {
		t.Errorf("got error %v, want one with %q", err, cause)
	}
	if !slices.ContainsFunc(all, func(f latency.Family) bool { return f.Name == "latpush_ticks_total" }) {
		t.Error("the other metrics are missing")
	}
}

func TestFamiliesRefusesClientHistograms(t *testing.T) {
	t.Parallel()
	m := New(start)
	m.registry.MustRegister(prometheus.NewHistogram(prometheus.HistogramOpts{Name: "latpush_histogram_seconds", Help: "Not a kernel's."}))
	all, err := m.Families()
	if err == nil || !strings.Contains(err.Error(), "metric latpush_histogram_seconds is a histogram") {
		t.Errorf("got error %v", err)
	}
	if !slices.ContainsFunc(all, func(f latency.Family) bool { return f.Name == "latpush_ticks_total" }) {
		t.Error("the other metrics are missing")
	}
}

func TestSources(t *testing.T) {
	t.Parallel()
	missing := errors.New("not permitted")
	got := Sources([]kernel.Status{
		{Source: "nfs", Loaded: 5 * time.Second, Hooks: []kernel.HookStatus{
			{Name: "nfs_file_read", How: kernel.Waiting, Err: errors.New("waiting for module nfs")},
		}},
		{Source: "block", Loaded: 7 * time.Second, Memory: 1 << 20, Cost: kernel.Cost{Seconds: 2.5, Share: 0.02, PerEvent: 150}, Detached: map[string]time.Duration{
			kernel.ReasonBudget: 3 * time.Minute,
		}, LabelSets: map[string]int{"block_io_latency_seconds": 5, "block_io_queue_seconds": 4}, Hooks: []kernel.HookStatus{
			{Name: "block_rq", How: kernel.TpBTF},
			{Name: "other", How: kernel.Missing, Err: missing},
		}},
		{Source: "softirq", Err: missing},
		{Source: "syscalls", Loaded: 8 * time.Second, Cost: kernel.Cost{Seconds: 1.5, Err: missing}, Hooks: []kernel.HookStatus{{Name: "syscalls", How: kernel.Missing, Err: missing}}},
	}, []kernel.Loss{
		{Source: "nfs", Reason: "no_start", Events: 2},
		{Source: "block", Reason: "histograms_full", Events: 1 << 40},
	})
	want := []latency.Family{
		{
			Name: "latpush_events_lost_total", Help: "Events of a source that could not be counted in a histogram, for one reason.",
			Kind: latency.Counter, LabelNames: []string{"source", "reason"},
			Series: []latency.Series{
				{LabelValues: []string{"block", "histograms_full"}, Start: 7 * time.Second, Value: 1 << 40},
				{LabelValues: []string{"nfs", "no_start"}, Start: 5 * time.Second, Value: 2},
			},
		},
		{
			Name: "latpush_hook_attached", Help: "Whether a hook of a source is attached, and how.",
			Kind: latency.Gauge, LabelNames: []string{"source", "hook", "how"},
			Series: []latency.Series{
				{LabelValues: []string{"block", "block_rq", "tp_btf"}, Value: 1},
				{LabelValues: []string{"block", "other", "missing"}},
				{LabelValues: []string{"nfs", "nfs_file_read", "waiting"}},
				{LabelValues: []string{"syscalls", "syscalls", "missing"}},
			},
		},
		{
			Name: "latpush_source_map_bytes", Help: "Kernel memory of a source's maps when they were made.", Unit: "bytes",
			Kind: latency.Gauge, LabelNames: []string{"source"},
			Series: []latency.Series{
				{LabelValues: []string{"block"}, Value: 1 << 20},
				{LabelValues: []string{"nfs"}},
				{LabelValues: []string{"softirq"}},
				{LabelValues: []string{"syscalls"}},
			},
		},
		{
			Name: "latpush_source_up", Help: "Whether a source counts, or will as soon as the module that it needs is loaded.",
			Kind: latency.Gauge, LabelNames: []string{"source"},
			Series: []latency.Series{
				{LabelValues: []string{"block"}, Value: 1},
				{LabelValues: []string{"nfs"}, Value: 1},
				{LabelValues: []string{"softirq"}},
				{LabelValues: []string{"syscalls"}},
			},
		},
		{
			Name: "latpush_label_sets", Help: "Label sets of a metric whose label sets are bounded by max_label_sets.",
			Kind: latency.Gauge, LabelNames: []string{"metric"},
			Series: []latency.Series{
				{LabelValues: []string{"block_io_latency_seconds"}, Value: 5},
				{LabelValues: []string{"block_io_queue_seconds"}, Value: 4},
			},
		},
		{
			Name: "latpush_source_cpu_seconds_total", Kind: latency.Counter, LabelNames: []string{"source"},
			Help: "CPU time of a source's programs in the kernel, extrapolated from short windows in which the kernel measures it.",
			Series: []latency.Series{
				{LabelValues: []string{"block"}, Start: 7 * time.Second, Value: 2.5},
				{LabelValues: []string{"nfs"}, Start: 5 * time.Second},
				{LabelValues: []string{"syscalls"}, Start: 8 * time.Second, Value: 1.5}, // from before it was not known
			},
		},
		{
			Name: "latpush_source_cpu_ratio", Kind: latency.Gauge, LabelNames: []string{"source"},
			Help:   "Share of one CPU that a source's programs took in the last window in which the kernel measured it.",
			Series: []latency.Series{{LabelValues: []string{"block"}, Value: 0.02}, {LabelValues: []string{"nfs"}}},
		},
		{
			Name: "latpush_source_event_seconds", Kind: latency.Gauge, LabelNames: []string{"source"},
			Help:   "CPU time for each event that a source's programs saw in the last window in which they saw one.",
			Series: []latency.Series{{LabelValues: []string{"block"}, Value: 150e-9}},
		},
		{
			Name: "latpush_source_cpu_measured", Kind: latency.Gauge, LabelNames: []string{"source"},
			Help: "Whether the kernel measures what a source costs, so that max_cpu bounds it.",
			Series: []latency.Series{
				{LabelValues: []string{"block"}, Value: 1}, {LabelValues: []string{"nfs"}, Value: 1}, {LabelValues: []string{"syscalls"}},
			},
		},
		{
			Name: "latpush_source_detached_seconds_total", Kind: latency.Counter, LabelNames: []string{"source", "reason"},
			Help:   "Time a source's programs were detached: because they took more of the CPU than max_cpu (budget), or went with an agent that was killed (restart).",
			Series: []latency.Series{{LabelValues: []string{"block", "budget"}, Start: 7 * time.Second, Value: 180}},
		},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}
