package telemetry

import (
	"fmt"
	"slices"
	"strings"
	"time"

	dto "github.com/prometheus/client_model/go"

	"github.com/latpush/latpush/internal/latency"
)

// pushed names the families of the process collector that are worth their bytes on a metered link. Its others stay on the host.
func pushed(name string) bool {
	if !strings.HasPrefix(name, "process_") {
		return true
	}
	switch name {
	case "process_cpu_seconds_total", "process_resident_memory_bytes", "process_start_time_seconds", "process_open_fds":
		return true
	}
	return false
}

// Families gathers the registry, sorted by name. The families that could be gathered are returned beside an error too.
func (m *Metrics) Families() ([]latency.Family, error) {
	gathered, err := m.registry.Gather()
	families := make([]latency.Family, 0, len(gathered))
	for _, family := range gathered {
		if !pushed(family.GetName()) {
			continue
		}
		converted, convertErr := convert(family, m.start)
		if convertErr != nil {
			if err == nil {
				err = convertErr
			}
			continue
		}
		families = append(families, converted)
	}
	if err != nil {
		return families, fmt.Errorf("gather own metrics: %w", err)
	}
	return families, nil
}

// convert turns a gathered family into the form of a snapshot. Start is the CLOCK_BOOTTIME since when its counters count.
func convert(from *dto.MetricFamily, start time.Duration) (latency.Family, error) {
	to := latency.Family{Name: from.GetName(), Help: from.GetHelp(), Unit: from.GetUnit(), LabelNames: labelNames(from)}
	switch from.GetType() {
	case dto.MetricType_COUNTER:
		to.Kind = latency.Counter
	case dto.MetricType_GAUGE, dto.MetricType_UNTYPED:
		to.Kind, start = latency.Gauge, 0
	default:
		return to, fmt.Errorf("metric %s is a %s (only counters and gauges are pushed)", to.Name, strings.ToLower(from.GetType().String()))
	}
	for _, metric := range from.GetMetric() {
		to.Series = append(to.Series, latency.Series{
			LabelValues: labelValues(metric, to.LabelNames),
			Start:       start,
			Value:       metric.GetCounter().GetValue() + metric.GetGauge().GetValue() + metric.GetUntyped().GetValue(), // one of them is set
		})
	}
	latency.SortSeries(to.Series)
	return to, nil
}

// labelNames returns the names of all labels that a metric of the family has, sorted.
func labelNames(family *dto.MetricFamily) []string {
	var names []string
	for _, metric := range family.GetMetric() {
		for _, label := range metric.GetLabel() {
			if at, found := slices.BinarySearch(names, label.GetName()); !found {
				names = slices.Insert(names, at, label.GetName())
			}
		}
	}
	return names
}

// labelValues returns the values of the named labels, empty for a label that the metric does not have.
func labelValues(metric *dto.Metric, names []string) []string {
	values := make([]string, len(names))
	for _, label := range metric.GetLabel() {
		values[slices.Index(names, label.GetName())] = label.GetValue()
	}
	return values
}
