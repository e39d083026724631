package promwire_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/metadata"
	"github.com/prometheus/prometheus/prompb"

	"github.com/latpush/latpush/internal/latency"
	"github.com/latpush/latpush/internal/promwire"
)

func describedSnapshot() *latency.Snapshot {
	counter := latency.Family{Name: "a_total", Help: "Counts.", Kind: latency.Counter, Series: []latency.Series{{Value: 1}}}
	described := histogram(exp2(1), func(int, *latency.Series) {}, "read")
	described.Help, described.Unit = "Latency \xff.", "seconds"
	return snapshot(t0, counter, gauge("b", nil, nil), described)
}

// With 2.0, each series has the type, help and unit of its family: _bucket, _sum and _count those of the histogram.
func TestMetadataOfSeries(t *testing.T) {
	t.Parallel()
	for _, send := range []bool{true, false} {
		want := map[string]metadata.Metadata{
			"a_total": {Type: model.MetricTypeCounter, Help: "Counts."}, "b": {Type: model.MetricTypeGauge},
			"nfs_latency_seconds": {Type: model.MetricTypeHistogram, Help: "Latency \uFFFD.", Unit: "seconds"},
		}
		for _, h := range []promwire.Histogram{promwire.Classic, promwire.Custom} {
			e := newEncoder(t, promwire.Options{Metadata: send, Histograms: func(string) promwire.Histogram { return h }})
			got := encode(t, e, promwire.V2, describedSnapshot()).metadata
			if n := map[promwire.Histogram]int{promwire.Classic: 6, promwire.Custom: 3}[h]; len(got) != n {
				t.Errorf("%d series, want %d", len(got), n)
			}
			for name, md := range got {
				family := name[:strings.Index(name, "{")]
				for _, suffix := range []string{"_bucket", "_sum", "_count"} {
					family = strings.TrimSuffix(family, suffix)
				}
				w := want[family]
				if !send {
					w = metadata.Metadata{Type: model.MetricTypeUnknown}
				}
				if md != w {
					t.Errorf("%s has %v, want %v", name, md, w)
				}
			}
		}
	}
}

// A new help text or unit is no new shape, and the next request has it.
func TestMetadataChanges(t *testing.T) {
	t.Parallel()
	e := newEncoder(t, promwire.Options{Metadata: true})
	for i := range 3 {
		f := gauge("g", nil, nil)
		f.Help, f.Unit = fmt.Sprint("Help ", i), fmt.Sprint("unit", i)
		if md := encode(t, e, promwire.V2, snapshot(t0+int64(i), f)).metadata["g{}"]; md.Help != f.Help || md.Unit != f.Unit {
			t.Errorf("step %d: %v", i, md)
		}
		if n := e.CachedFamilies(); n != 1 {
			t.Errorf("step %d: %d families", i, n)
		}
	}
}

func TestMetadataRequests(t *testing.T) {
	t.Parallel()
	all := []prompb.MetricMetadata{
		{Type: prompb.MetricMetadata_COUNTER, MetricFamilyName: "a_total", Help: "Counts."},
		{Type: prompb.MetricMetadata_GAUGE, MetricFamilyName: "b"},
		{Type: prompb.MetricMetadata_HISTOGRAM, MetricFamilyName: "nfs_latency_seconds", Help: "Latency \uFFFD.", Unit: "seconds"},
	}
	for _, c := range []struct {
		name     string
		o        promwire.Options
		requests int
	}{
		{"without metadata", promwire.Options{}, 0},
		{"all in one", promwire.Options{Metadata: true}, 1},
		{"bounded in entries", promwire.Options{Metadata: true, MaxSamples: 2}, 2},
		{"bounded in bytes", promwire.Options{Metadata: true, MaxBytes: 20}, 3},
	} {
		e := newEncoder(t, c.o)
		if requests, err := e.MetadataRequests(); err != nil || len(requests) > 0 {
			t.Errorf("%s: %d requests before there was a family, %v", c.name, len(requests), err)
		}
		samples, err := e.Encode(promwire.V1, describedSnapshot())
		if err != nil {
			t.Fatal(err)
		}
		before := len(receive(t, samples))
		requests, err := e.MetadataRequests()
		if err != nil || len(requests) != c.requests {
			t.Fatalf("%s: %d requests, want %d, %v", c.name, len(requests), c.requests, err)
		}
		var got []prompb.MetricMetadata
		for _, r := range requests {
			if r.Samples+r.Histograms+r.Series > 0 || r.Protocol != promwire.V1 || r.ContentType != "application/x-protobuf" || r.Version != "0.1.0" || !r.Oldest.IsZero() {
				t.Errorf("%s: %+v", c.name, r)
			}
			got = append(got, decode(t, r).Metadata...)
		}
		if c.requests > 0 && fmt.Sprint(got) != fmt.Sprint(all) {
			t.Errorf("%s: got %v, want %v", c.name, got, all)
		}
		if after := len(receive(t, samples)); after != before {
			t.Errorf("%s: the samples' requests were overwritten", c.name)
		}
		if c.requests == 1 {
			halves, err := e.Halve(requests[0])
			if err != nil || len(halves) != 2 || len(decode(t, halves[0]).Metadata)+len(decode(t, halves[1]).Metadata) != len(all) {
				t.Errorf("%s: %d halves, %v", c.name, len(halves), err)
			}
		}
	}
}
