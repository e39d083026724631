package latency

import (
	"testing"
	"time"

	"github.com/latpush/latpush/internal/kernel"
)

func TestFromSamples(t *testing.T) {
	t.Parallel()
	nfs := &kernel.Metric{Name: "nfs_latency_seconds", Help: "NFS.", Labels: []string{"operation"}, Bounds: []uint64{1000, 2000}}
	queue := &kernel.Metric{Name: "block_io_queue_seconds", Help: "Queue.", Labels: []string{"device", "operation"}, Bounds: []uint64{1000}}
	samples := []kernel.Sample{
		{Metric: nfs, Values: []string{"write"}, SumNanoseconds: 3500, Counts: []uint64{1, 0, 1}},
		{Metric: queue, Values: []string{"sdb", "read"}, SumNanoseconds: 10, Counts: []uint64{1, 0}},
		{Metric: nfs, Values: []string{"read"}, SumNanoseconds: 0, Counts: []uint64{0, 0, 0}},
		{Metric: queue, Values: []string{"sda", "write"}, SumNanoseconds: 1500, Counts: []uint64{0, 1}},
	}
	families := FromSamples(samples, func(metric string) time.Duration { return time.Duration(len(metric)) })
	if len(families) != 2 || families[0].Name != "block_io_queue_seconds" || families[1].Name != "nfs_latency_seconds" {
		t.Fatalf("families are %+v", families)
	}
	f := families[1]
	if f.Kind != Histogram || f.Unit != "seconds" || f.Help != "NFS." || len(f.Bounds) != 2 {
		t.Errorf("family is %+v", f)
	}
	if f.Series[0].LabelValues[0] != "read" || f.Series[1].LabelValues[0] != "write" {
		t.Errorf("series are not sorted: %+v", f.Series)
	}
	write := f.Series[1]
	if write.Count() != 2 || write.Sum != 3500 || write.Start != time.Duration(len("nfs_latency_seconds")) {
		t.Errorf("series is %+v", write)
	}
	if first := families[0].Series[0].LabelValues; first[0] != "sda" || first[1] != "write" {
		t.Errorf("first series of two labels is %v", first)
	}
}

// Counters have a start like histograms, gauges have none.
func TestFromSamplesOfOtherKinds(t *testing.T) {
	t.Parallel()
	samples := []kernel.Sample{
		{Metric: &kernel.Metric{Name: "tcp_retransmits_total", Kind: kernel.KindCounter, Labels: []string{"family"}}, Values: []string{"ipv4"}, Value: 7},
		{Metric: &kernel.Metric{Name: "nfs_inflight", Kind: kernel.KindGauge, Labels: []string{"operation"}}, Values: []string{"read"}, Value: 2},
	}
	families := FromSamples(samples, func(string) time.Duration { return time.Second })
	gauge, counter := families[0], families[1]
	samples[0].Start = 5 * time.Second // a label set that began later than its metric
	if later := FromSamples(samples, func(string) time.Duration { return time.Second })[1]; later.Series[0].Start != 5*time.Second {
		t.Errorf("counter that began later is %+v", later)
	}
	if counter.Kind != Counter || counter.Unit != "" || counter.Series[0].Value != 7 || counter.Series[0].Start != time.Second || counter.Series[0].Counts != nil {
		t.Errorf("counter is %+v", counter)
	}
	if gauge.Kind != Gauge || gauge.Series[0].Value != 2 || gauge.Series[0].Start != 0 {
		t.Errorf("gauge is %+v", gauge)
	}
}
