package promwire_test

import (
	"bytes"
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/golang/snappy"
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

// receive decodes requests as a receiver does, holds every one against the rules of the protocol and against its own description, and gives what is stored.
func receive(t testing.TB, requests []promwire.Request) received {
	t.Helper()
	got := received{}
	for i, r := range requests {
		message := decode(t, r)
		if r.ContentType != "application/x-protobuf" || r.Version != "0.1.0" {
			t.Errorf("request %d: content type %q, version %q", i, r.ContentType, r.Version)
		}
		seen := map[string]bool{}
		samples, oldest, newest := 0, int64(math.MaxInt64), int64(math.MinInt64)
		for _, ts := range message.Timeseries {
			name := checkLabels(t, ts.Labels)
			if seen[name] {
				t.Errorf("request %d has the series %s twice", i, name)
			}
			seen[name] = true
			samples += len(ts.Samples)
			if len(ts.Samples) == 0 {
				t.Errorf("request %d: no sample in %s", i, name)
			}
			for _, s := range ts.Samples {
				if old := got[name]; len(old) > 0 && old[len(old)-1].ms >= s.Timestamp {
					t.Errorf("request %d: %s at %d after %d", i, name, s.Timestamp, old[len(old)-1].ms)
				}
				got[name] = append(got[name], sample{s.Timestamp, s.Value})
				oldest, newest = min(oldest, s.Timestamp), max(newest, s.Timestamp)
			}
		}
		if r.Samples != samples || r.Series != len(message.Timeseries) || r.Oldest.UnixMilli() != oldest || r.Newest.UnixMilli() != newest {
			t.Errorf("request %d says %d samples of %d series from %d to %d, holds %d of %d from %d to %d", i,
				r.Samples, r.Series, r.Oldest.UnixMilli(), r.Newest.UnixMilli(), samples, len(message.Timeseries), oldest, newest)
		}
	}
	return got
}

// decode decodes a request and demands that its bytes are exactly those that prompb makes of the same message.
func decode(t testing.TB, r promwire.Request) *prompb.WriteRequest {
	t.Helper()
	raw, err := snappy.Decode(nil, r.Body)
	if err != nil {
		t.Fatal(err)
	}
	var message prompb.WriteRequest
	if err := message.Unmarshal(raw); err != nil {
		t.Fatal(err)
	}
	again, err := message.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(raw, again) {
		t.Errorf("the message is\n%x\nprompb marshals it as\n%x", raw, again)
	}
	return &message
}

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

func sameSample(a, b sample) bool {
	return a.ms == b.ms && (a.value == b.value || math.IsNaN(a.value) && math.IsNaN(b.value))
}
