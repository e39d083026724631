package promwire_test

import (
	"bytes"
	"math"
	"testing"

	"github.com/golang/snappy"
	model "github.com/prometheus/prometheus/model/histogram"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/metadata"
	"github.com/prometheus/prometheus/prompb"
	writev2 "github.com/prometheus/prometheus/prompb/io/prometheus/write/v2"

	"github.com/latpush/latpush/internal/promwire"
)

// stored is all that a receiver has of requests, by series.
type stored struct {
	samples    received
	histograms map[string][]native
	starts     map[string][]int64 // of the samples, Unix milliseconds, 0 for none
	metadata   map[string]metadata.Metadata
}

// native is a native histogram as Prometheus understands it.
type native struct {
	ms, start int64
	*model.Histogram
}

// receive gives the floats of requests that hold nothing else.
func receive(t testing.TB, requests []promwire.Request) received {
	t.Helper()
	got := receiveAll(t, requests)
	if len(got.histograms) > 0 {
		t.Errorf("native histograms arrived: %v", got.histograms)
	}
	return got.samples
}

// receiveAll decodes requests as a receiver does, holds every one against the rules of the protocol and against its own description, and gives what is stored.
func receiveAll(t testing.TB, requests []promwire.Request) stored {
	t.Helper()
	got := stored{received{}, map[string][]native{}, map[string][]int64{}, map[string]metadata.Metadata{}}
	for i, r := range requests {
		want := promwire.Request{Oldest: r.Oldest, Newest: r.Newest}
		oldest, newest := int64(math.MaxInt64), int64(math.MinInt64)
		times := func(series string, previous, ms int64) {
			if previous >= ms {
				t.Errorf("request %d: %s at %d after %d", i, series, ms, previous)
			}
			oldest, newest = min(oldest, ms), max(newest, ms)
		}
		seen := map[string]bool{}
		for _, ts := range seriesOf(t, r) {
			if seen[ts.name] {
				t.Errorf("request %d has the series %s twice", i, ts.name)
			}
			seen[ts.name] = true
			want.Series++
			if (len(ts.samples) == 0) == (len(ts.histograms) == 0) {
				t.Errorf("request %d: %d samples and %d histograms in %s", i, len(ts.samples), len(ts.histograms), ts.name)
			}
			for j, s := range ts.samples {
				times(ts.name, last(got.samples[ts.name], func(s sample) int64 { return s.ms }), s.ms)
				got.samples[ts.name] = append(got.samples[ts.name], s)
				got.starts[ts.name] = append(got.starts[ts.name], ts.starts[j])
				want.Samples++
			}
			for _, h := range ts.histograms {
				times(ts.name, last(got.histograms[ts.name], func(h native) int64 { return h.ms }), h.ms)
				if err := h.Validate(); err != nil {
					t.Errorf("request %d: histogram %s: %v", i, ts.name, err)
				}
				if h.CounterResetHint != model.UnknownCounterReset {
					t.Errorf("request %d: histogram %s has the reset hint %v", i, ts.name, h.CounterResetHint)
				}
				got.histograms[ts.name] = append(got.histograms[ts.name], h)
				want.Histograms++
			}
			got.metadata[ts.name] = ts.metadata
		}
		if r.Samples != want.Samples || r.Histograms != want.Histograms || r.Series != want.Series || r.Oldest.UnixMilli() != oldest || r.Newest.UnixMilli() != newest {
			t.Errorf("request %d says %d samples and %d histograms of %d series from %d to %d, holds %d and %d of %d from %d to %d", i, r.Samples, r.Histograms, r.Series,
				r.Oldest.UnixMilli(), r.Newest.UnixMilli(), want.Samples, want.Histograms, want.Series, oldest, newest)
		}
	}
	return got
}

func last[T any](all []T, at func(T) int64) int64 {
	if len(all) == 0 {
		return math.MinInt64
	}
	return at(all[len(all)-1])
}

// timeSeries is one TimeSeries of either protocol.
type timeSeries struct {
	name       string
	samples    []sample
	starts     []int64
	histograms []native
	metadata   metadata.Metadata
}

// seriesOf decodes a request with Prometheus's code.
func seriesOf(t testing.TB, r promwire.Request) (all []timeSeries) {
	t.Helper()
	if r.Protocol == promwire.V2 {
		return seriesOf2(t, r)
	}
	if r.ContentType != "application/x-protobuf" || r.Version != "0.1.0" || r.Protocol != promwire.V1 {
		t.Errorf("content type %q, version %q, protocol %q", r.ContentType, r.Version, r.Protocol)
	}
	for _, ts := range decode(t, r).Timeseries {
		one := timeSeries{name: checkLabels(t, ts.Labels)}
		for _, s := range ts.Samples {
			one.samples, one.starts = append(one.samples, sample{s.Timestamp, s.Value}), append(one.starts, 0)
		}
		for _, h := range ts.Histograms {
			one.histograms = append(one.histograms, native{h.Timestamp, 0, h.ToIntHistogram()})
		}
		all = append(all, one)
	}
	return all
}

func seriesOf2(t testing.TB, r promwire.Request) (all []timeSeries) {
	t.Helper()
	if r.ContentType != "application/x-protobuf;proto=io.prometheus.write.v2.Request" || r.Version != "2.0.0" {
		t.Errorf("content type %q, version %q", r.ContentType, r.Version)
	}
	message := decode2(t, r)
	builder := labels.NewScratchBuilder(0)
	for _, ts := range message.Timeseries {
		var set []prompb.Label // in the order of the message; ToLabels would sort them
		for i := 0; i < len(ts.LabelsRefs); i += 2 {
			set = append(set, prompb.Label{Name: message.Symbols[ts.LabelsRefs[i]], Value: message.Symbols[ts.LabelsRefs[i+1]]})
		}
		one := timeSeries{name: checkLabels(t, set)}
		if _, err := ts.ToLabels(&builder, message.Symbols); err != nil {
			t.Error(err)
		}
		var err error
		if one.metadata, err = ts.ToMetadata(message.Symbols); err != nil {
			t.Error(err)
		}
		for _, s := range ts.Samples {
			one.samples, one.starts = append(one.samples, sample{s.Timestamp, s.Value}), append(one.starts, s.StartTimestamp)
		}
		for _, h := range ts.Histograms {
			one.histograms = append(one.histograms, native{h.Timestamp, h.StartTimestamp, h.ToIntHistogram()})
		}
		all = append(all, one)
	}
	return all
}

// decode decodes a request and demands that its bytes are exactly those that prompb makes of the same message.
func decode(t testing.TB, r promwire.Request) *prompb.WriteRequest {
	t.Helper()
	var message prompb.WriteRequest
	roundTrip(t, r, &message)
	return &message
}

// decode2 does the same for 2.0, and holds the symbols against the protocol's rules: the first is empty, none is there twice, and each is used.
func decode2(t testing.TB, r promwire.Request) *writev2.Request {
	t.Helper()
	var message writev2.Request
	roundTrip(t, r, &message)
	used := map[uint32]bool{0: true}
	for _, ts := range message.Timeseries {
		for _, ref := range append([]uint32{ts.Metadata.HelpRef, ts.Metadata.UnitRef}, ts.LabelsRefs...) {
			used[ref] = true
			if int(ref) >= len(message.Symbols) {
				t.Fatalf("reference %d of %d symbols", ref, len(message.Symbols))
			}
		}
	}
	if len(used) != len(message.Symbols) {
		t.Errorf("%d of %d symbols are used", len(used), len(message.Symbols))
	}
	seen := map[string]bool{}
	for i, s := range message.Symbols {
		if seen[s] || (s == "") != (i == 0) {
			t.Errorf("symbol %d is %q, which is there twice or in the wrong place", i, s)
		}
		seen[s] = true
	}
	return &message
}

func roundTrip(t testing.TB, r promwire.Request, message interface {
	Unmarshal(raw []byte) error
	Marshal() ([]byte, error)
},
) {
	t.Helper()
	raw, err := snappy.Decode(nil, r.Body)
	if err != nil {
		t.Fatal(err)
	}
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
}
