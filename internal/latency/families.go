package latency

import (
	"cmp"
	"slices"
	"strings"
	"time"

	"github.com/latpush/latpush/internal/kernel"
)

// FromSamples returns the samples as families, sorted by name and label values. Start gives the CLOCK_BOOTTIME at which the counting of a
// metric began. Counts and label values are shared with the samples, and valid as long as they are.
func FromSamples(samples []kernel.Sample, start func(metric string) time.Duration) []Family {
	var families []Family
	index := map[*kernel.Metric]int{}
	starts := map[*kernel.Metric]time.Duration{}
	for i := range samples {
		s := &samples[i]
		at, known := index[s.Metric]
		if !known {
			at = len(families)
			index[s.Metric] = at
			if s.Metric.Kind != kernel.KindGauge {
				starts[s.Metric] = start(s.Metric.Name)
			}
			families = append(families, Family{
				Name: s.Metric.Name, Help: s.Metric.Help, Unit: unitOf(s.Metric.Name), Kind: kindOf(s.Metric.Kind), Bounds: s.Metric.Bounds,
				LabelNames: s.Metric.Labels,
			})
		}
		families[at].Series = append(families[at].Series, Series{
			LabelValues: s.Values, Start: cmp.Or(s.Start, starts[s.Metric]), Value: s.Value, Sum: s.SumNanoseconds, Counts: s.Counts,
		})
	}
	for i := range families {
		SortSeries(families[i].Series)
	}
	SortFamilies(families)
	return families
}

func kindOf(kind kernel.Kind) Kind {
	switch kind {
	case kernel.KindCounter:
		return Counter
	case kernel.KindGauge:
		return Gauge
	default:
		return Histogram
	}
}

// SortFamilies puts families in the order that a Snapshot has.
func SortFamilies(families []Family) {
	slices.SortFunc(families, func(a, b Family) int { return strings.Compare(a.Name, b.Name) })
}

// SortSeries puts series in the order that a Family has.
func SortSeries(series []Series) {
	slices.SortFunc(series, func(a, b Series) int { return slices.Compare(a.LabelValues, b.LabelValues) })
}

// Count returns the number of events of a histogram, which is what its `_count` and its bucket `le="+Inf"` say.
func (s *Series) Count() uint64 {
	var events uint64
	for _, count := range s.Counts {
		events += count
	}
	return events
}

// unitOf returns the OpenMetrics unit with which a metric's name ends.
func unitOf(name string) string {
	if strings.HasSuffix(name, "_seconds") {
		return "seconds"
	}
	return ""
}
