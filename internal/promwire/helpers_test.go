package promwire_test

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/prometheus/prometheus/model/value"
	"github.com/prometheus/prometheus/prompb"

	"github.com/latpush/latpush/internal/latency"
	"github.com/latpush/latpush/internal/promwire"
)

const t0 = int64(1_763_800_000_000) // Unix milliseconds

func newEncoder(t testing.TB, o promwire.Options) *promwire.Encoder {
	t.Helper()
	e, err := promwire.NewEncoder(o)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

// exp2 gives n bounds, powers of two from 1 us.
func exp2(n int) []uint64 {
	var bounds []uint64
	for i := range n {
		bounds = append(bounds, 1_000<<i)
	}
	return bounds
}

func snapshot(ms int64, families ...latency.Family) *latency.Snapshot {
	return &latency.Snapshot{Taken: latency.Instant{Wall: time.UnixMilli(ms)}, Families: families}
}

// histogram is a family with one label, "operation", and a series for each of its values.
func histogram(bounds []uint64, each func(i int, s *latency.Series), operations ...string) latency.Family {
	f := latency.Family{Name: "nfs_latency_seconds", Kind: latency.Histogram, Bounds: bounds, LabelNames: []string{"operation"}}
	for i, o := range operations {
		s := latency.Series{LabelValues: []string{o}, Counts: make([]uint64, len(bounds)+1)}
		each(i, &s)
		f.Series = append(f.Series, s)
	}
	return f
}

// gauge is a family with the given label names and a series for each row of values; series i has the value i+1.
func gauge(name string, names []string, rows ...[]string) latency.Family {
	f := latency.Family{Name: name, Kind: latency.Gauge, LabelNames: names}
	for i, values := range rows {
		f.Series = append(f.Series, latency.Series{LabelValues: values, Value: float64(i + 1)})
	}
	return f
}

// sample is one value of a series.
type sample struct {
	ms    int64
	value float64
}

// received is what a receiver has stored: samples by series, the series written as in an exposition.
type received map[string][]sample

// checkLabels holds a label set against the protocol's rules and writes it as in an exposition.
func checkLabels(t testing.TB, labels []prompb.Label) string {
	t.Helper()
	name, rest := "", []string{}
	for i, l := range labels {
		if l.Name == "" || l.Value == "" || !utf8.ValidString(l.Name) || !utf8.ValidString(l.Value) {
			t.Errorf("invalid label %q=%q", l.Name, l.Value)
		}
		if i > 0 && labels[i-1].Name >= l.Name {
			t.Errorf("label %q after %q", l.Name, labels[i-1].Name)
		}
		if l.Name == "__name__" {
			name = l.Value
			continue
		}
		rest = append(rest, fmt.Sprintf("%s=%q", l.Name, l.Value))
	}
	if name == "" {
		t.Errorf("no name in %v", labels)
	}
	return name + "{" + strings.Join(rest, ",") + "}"
}

func wantReceived(t testing.TB, got, want received) {
	t.Helper()
	for series, samples := range want {
		if !slices.EqualFunc(got[series], samples, sameSample) {
			t.Errorf("%s: got %v, want %v", series, got[series], samples)
		}
	}
	for series, samples := range got {
		if _, ok := want[series]; !ok {
			t.Errorf("unexpected %s: %v", series, samples)
		}
	}
}

// sameSample takes all NaN for equal, except for the one that is a stale marker.
func sameSample(a, b sample) bool {
	return a.ms == b.ms && (a.value == b.value || math.IsNaN(a.value) && math.IsNaN(b.value) && value.IsStaleNaN(a.value) == value.IsStaleNaN(b.value))
}
