package promwire_test

import (
	"maps"
	"math"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/golang/snappy"
	model "github.com/prometheus/prometheus/model/histogram"
	"github.com/prometheus/prometheus/model/relabel"
	"go.yaml.in/yaml/v3"

	prommodel "github.com/prometheus/common/model"

	"github.com/latpush/latpush/internal/latency"
	"github.com/latpush/latpush/internal/promwire"
)

// rules reads relabelling rules as a configuration file has them.
func rules(text string) []*relabel.Config {
	var all []*relabel.Config
	if err := yaml.Unmarshal([]byte(text), &all); err != nil {
		panic(err)
	}
	for _, rule := range all {
		if err := rule.Validate(prommodel.UTF8Validation); err != nil {
			panic(err)
		}
	}
	return all
}

// exponential gives n bounds of a schema.
func exponential(schema, first int32, n int) []uint64 {
	var bounds []uint64
	for i := range int32(n) {
		bounds = append(bounds, latency.ExponentialBound(schema, first<<schema+i))
	}
	return bounds
}

func (m *reference) wantStored(t testing.TB, p promwire.Protocol, got, want stored) {
	t.Helper()
	wantReceived(t, got.samples, want.samples)
	for name, starts := range want.starts {
		if !slices.Equal(got.starts[name], starts) {
			t.Errorf("%s: starts %v, want %v", name, got.starts[name], starts)
		}
	}
	for name := range maps.Keys(got.histograms) {
		if want.histograms[name] == nil {
			t.Errorf("unexpected histograms %s: %v", name, got.histograms[name])
		}
	}
	for name, histograms := range want.histograms {
		if !slices.EqualFunc(got.histograms[name], histograms, sameNative) {
			t.Errorf("%s: got\n%v\nwant\n%v", name, got.histograms[name], histograms)
		}
	}
	for name, md := range got.metadata {
		if full := md.Type != "" && md.Type != prommodel.MetricTypeUnknown; full != (m.o.Metadata && p == promwire.V2) {
			t.Errorf("%s has the metadata %v", name, md)
		}
	}
}

// sameNative compares what Prometheus reads in two histograms; they may have their buckets in other spans.
func sameNative(a, b native) bool {
	return a.ms == b.ms && a.start == b.start && a.Schema == b.Schema && a.ZeroThreshold == b.ZeroThreshold && a.ZeroCount == b.ZeroCount && a.Count == b.Count &&
		math.Float64bits(a.Sum) == math.Float64bits(b.Sum) && slices.Equal(a.CustomValues, b.CustomValues) && maps.Equal(buckets(a.Histogram), buckets(b.Histogram)) &&
		len(a.NegativeSpans) == len(b.NegativeSpans)
}

// buckets gives the counts by upper bound, without empty ones.
func buckets(h *model.Histogram) map[float64]uint64 {
	counts := map[float64]uint64{}
	for it := h.PositiveBucketIterator(); it.Next(); {
		if b := it.At(); b.Count > 0 {
			counts[b.Upper] = b.Count
		}
	}
	return counts
}

// checkSizes holds requests against the bounds. One histogram at one timestamp may be larger.
func checkSizes(t testing.TB, o promwire.Options, requests []promwire.Request) {
	t.Helper()
	const lines = 8 + 1 + 2 // of the largest histogram
	for i, r := range requests {
		one := r.Oldest.Equal(r.Newest) && r.Samples+r.Histograms <= lines
		size, err := snappy.DecodedLen(r.Body)
		if err != nil {
			t.Fatal(err)
		}
		if n := r.Samples + r.Histograms; n > o.MaxSamples && !one || n == 0 {
			t.Errorf("request %d of at most %d samples has %d", i, o.MaxSamples, n)
		}
		if o.MaxBytes > 0 && size > o.MaxBytes && !one {
			t.Errorf("request %d of at most %d bytes has %d", i, o.MaxBytes, size)
		}
	}
}

// halveAll halves requests until none can be halved, and demands that what arrives is the same.
func halveAll(t testing.TB, e *promwire.Encoder, requests []promwire.Request) {
	t.Helper()
	var leaves []promwire.Request
	var halve func(r promwire.Request)
	halve = func(r promwire.Request) {
		halves, err := e.Halve(r)
		if err != nil {
			t.Fatal(err)
		}
		switch len(halves) {
		case 0:
			if !r.Oldest.Equal(r.Newest) {
				t.Errorf("a request from %v to %v is not halved", r.Oldest, r.Newest)
			}
			leaves = append(leaves, r)
		case 2:
			halve(halves[0])
			halve(halves[1])
		default:
			t.Fatalf("%d halves", len(halves))
		}
	}
	for _, r := range requests {
		halve(r)
	}
	whole, parts := receiveAll(t, requests), receiveAll(t, leaves)
	wantReceived(t, parts.samples, whole.samples)
	if !reflect.DeepEqual(parts.starts, whole.starts) || !reflect.DeepEqual(parts.metadata, whole.metadata) {
		t.Error("the halves have other starts or other metadata")
	}
	if !maps.EqualFunc(parts.histograms, whole.histograms, func(a, b []native) bool { return slices.EqualFunc(a, b, sameNative) }) {
		t.Errorf("the halves have the histograms\n%v\nthe whole has\n%v", parts.histograms, whole.histograms)
	}
}

// The table of symbols counts for the bound in bytes.
func TestMaxBytesCountsSymbols(t *testing.T) {
	t.Parallel()
	f := gauge("g", []string{"l"})
	for i := range 100 {
		f.Series = append(f.Series, latency.Series{LabelValues: []string{strings.Repeat("x", 300) + strconv.Itoa(i)}, Value: 1})
	}
	for _, p := range []promwire.Protocol{promwire.V1, promwire.V2} {
		o := promwire.Options{MaxBytes: 5_000, MaxSamples: 1_000}
		requests, err := newEncoder(t, o).Encode(p, snapshot(t0, f))
		if err != nil {
			t.Fatal(err)
		}
		if n := len(receive(t, requests)); n != 100 || len(requests) > 10 {
			t.Errorf("%d series in %d requests", n, len(requests))
		}
		for i, r := range requests {
			if size, err := snappy.DecodedLen(r.Body); err != nil || size > o.MaxBytes {
				t.Errorf("request %d has %d bytes, %v", i, size, err)
			}
		}
	}
}
