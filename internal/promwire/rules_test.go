package promwire_test

import (
	"encoding/binary"
	"math"
	"slices"
	"sort"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/golang/snappy"
	writev2 "github.com/prometheus/prometheus/prompb/io/prometheus/write/v2"
	"google.golang.org/protobuf/encoding/protowire"

	"github.com/latpush/latpush/internal/latency"
	"github.com/latpush/latpush/internal/promwire"
)

// TestSenderRules holds the messages against what the specifications of remote write 1.0 and 2.0 (rc.4) say that a sender must or should do with them, rule by
// rule. What they say about headers beyond the two that a Request names, and about answers, is package upload's.
func TestSenderRules(t *testing.T) {
	t.Parallel()
	both := []promwire.Protocol{promwire.V1, promwire.V2}
	second := []promwire.Protocol{promwire.V2}
	for _, rule := range []struct {
		rule      string
		protocols []promwire.Protocol
		check     func(t *testing.T, m message)
	}{
		{"MUST: the body is a protobuf message in one snappy block, not in snappy's framing", both, func(t *testing.T, m message) {
			if _, err := snappy.Decode(nil, m.request.Body); err != nil || string(m.request.Body[:4]) == "\xff\x06\x00\x00" {
				t.Error("no snappy block")
			}
		}},
		{"MUST: the content type names the message; 1.0 has none to name", both, func(t *testing.T, m message) {
			want := map[promwire.Protocol]string{promwire.V1: "application/x-protobuf", promwire.V2: "application/x-protobuf;proto=io.prometheus.write.v2.Request"}
			if m.request.ContentType != want[m.request.Protocol] {
				t.Error(m.request.ContentType)
			}
		}},
		{"MUST: version 0.1.0 to a 1.x receiver; SHOULD: the newest one that is spoken to others", both, func(t *testing.T, m message) {
			if want := map[promwire.Protocol]string{promwire.V1: "0.1.0", promwire.V2: "2.0.0"}; m.request.Version != want[m.request.Protocol] {
				t.Error(m.request.Version)
			}
		}},
		{"the fields 1 to 3 of a 2.0 request are never used, so that a 1.0 receiver reads nothing", second, func(t *testing.T, m message) {
			for rest := m.raw; len(rest) > 0; {
				number, _, n := protowire.ConsumeField(rest)
				if n < 0 || number <= 3 {
					t.Fatalf("field %d", number)
				}
				rest = rest[n:]
			}
		}},
		{"MUST: symbols are there, the first one empty, none twice", second, func(t *testing.T, m message) {
			sorted := slices.Sorted(slices.Values(m.v2.Symbols))
			if len(sorted) == 0 || m.v2.Symbols[0] != "" || len(slices.Compact(sorted)) != len(m.v2.Symbols) {
				t.Error(m.v2.Symbols)
			}
		}},
		{"MUST: references point into the symbols, in pairs", second, func(t *testing.T, m message) {
			for _, ts := range m.v2.Timeseries {
				if len(ts.LabelsRefs) == 0 || len(ts.LabelsRefs)%2 > 0 || int(slices.Max(ts.LabelsRefs)) >= len(m.v2.Symbols) {
					t.Error(ts.LabelsRefs)
				}
			}
		}},
		{"MUST: a series has samples or histograms, at least one, never both", both, func(t *testing.T, m message) {
			for _, ts := range m.series {
				if (len(ts.samples) > 0) == (len(ts.histograms) > 0) {
					t.Errorf("%s: %d samples, %d histograms", ts.name, len(ts.samples), len(ts.histograms))
				}
			}
		}},
		{"MUST: the complete label set, names sorted, none twice, no name or value empty, all of it UTF-8", both, func(t *testing.T, m message) {
			for _, set := range m.labels {
				names := make([]string, 0, len(set))
				for _, l := range set {
					if names = append(names, l[0]); l[0] == "" || l[1] == "" || !utf8.ValidString(l[0]) || !utf8.ValidString(l[1]) {
						t.Errorf("%q", l)
					}
				}
				if !sort.StringsAreSorted(names) || len(slices.Compact(names)) != len(set) {
					t.Errorf("%v", set)
				}
			}
		}},
		{"SHOULD: there is a __name__, and no other label that begins with two underscores", both, func(t *testing.T, m message) {
			for _, set := range m.labels {
				n := 0
				for _, l := range set {
					if len(l[0]) > 1 && l[0][:2] == "__" {
						n++
						if l[0] != "__name__" {
							t.Error(l[0])
						}
					}
				}
				if n != 1 {
					t.Errorf("%d reserved labels in %v", n, set)
				}
			}
		}},
		{"MUST: timestamps are milliseconds since 1970, ascending in a series", both, func(t *testing.T, m message) {
			for _, ts := range m.series {
				if !slices.IsSortedFunc(ts.samples, func(a, b sample) int { return int(a.ms - b.ms) }) ||
					!slices.IsSortedFunc(ts.histograms, func(a, b native) int { return int(a.ms - b.ms) }) {
					t.Errorf("%s is not sorted", ts.name)
				}
			}
			if at := time.UnixMilli(t0); m.request.Oldest.Before(at) || m.request.Newest.After(at.Add(time.Hour)) {
				t.Error(m.request.Oldest, m.request.Newest)
			}
		}},
		{"MUST: a series that is seen to end is ended with the NaN 0x7ff0000000000002", both, func(t *testing.T, m message) {
			if m.ends != m.shouldEnd {
				t.Errorf("%d series end, want %d", m.ends, m.shouldEnd)
			}
		}},
		{"MUST: that NaN is never used for anything else", both, func(t *testing.T, m message) {
			for _, ts := range m.series {
				for _, s := range ts.samples {
					if math.Float64bits(s.value) == math.Float64bits(stale) && s.ms != m.endedAt {
						t.Errorf("%s at %d", ts.name, s.ms)
					}
				}
			}
		}},
		{"SHOULD: counters and histograms have start timestamps, MUST NOT be 0 for one", second, func(t *testing.T, m message) {
			for _, ts := range m.series {
				counts := ts.metadata.Type != "gauge"
				for i, s := range ts.samples {
					if ended := s.ms == m.endedAt && math.IsNaN(s.value); (ts.starts[i] != 0) != (counts && !ended) {
						t.Errorf("%s at %d starts at %d", ts.name, s.ms, ts.starts[i])
					}
				}
				for _, h := range ts.histograms {
					if (h.start != 0) == math.IsNaN(h.Sum) {
						t.Errorf("%s at %d starts at %d", ts.name, h.ms, h.start)
					}
				}
			}
		}},
		{"SHOULD: type, help and unit are there", second, func(t *testing.T, m message) {
			for _, ts := range m.series {
				if ts.metadata.Type == "unknown" || ts.metadata.Help == "" || ts.metadata.Unit == "" {
					t.Errorf("%s has %v", ts.name, ts.metadata)
				}
			}
		}},
		{"native histograms are valid by Prometheus's own rules, with integer counts and the reset hint unknown", both, func(t *testing.T, m message) {
			for _, ts := range m.series {
				for _, h := range ts.histograms {
					if err := h.Validate(); err != nil || h.CounterResetHint != 0 {
						t.Error(ts.name, err, h.CounterResetHint)
					}
				}
			}
		}},
		{"a request has no series twice", both, func(t *testing.T, m message) {
			seen := map[string]bool{}
			for _, ts := range m.series {
				if seen[ts.name] {
					t.Error(ts.name)
				}
				seen[ts.name] = true
			}
		}},
	} {
		t.Run(rule.rule, func(t *testing.T) {
			t.Parallel()
			for _, p := range rule.protocols {
				for _, h := range []promwire.Histogram{promwire.Classic, promwire.Custom, promwire.Exponential} {
					rule.check(t, newMessage(t, p, h))
				}
			}
		})
	}
}

// message is a request and what is in it.
type message struct {
	request         promwire.Request
	raw             []byte
	v2              writev2.Request
	series          []timeSeries
	labels          [][][2]string
	ends, shouldEnd int
	endedAt         int64
}

// newMessage gives a request that has a bit of everything: all kinds, labels of any bytes, values of any bits, several ticks, and a label set that ends.
func newMessage(t *testing.T, p promwire.Protocol, h promwire.Histogram) message {
	t.Helper()
	e := newEncoder(t, promwire.Options{
		Labels: []promwire.Label{{"job", "latpush"}, {"Zone", "\xff"}, {"empty", ""}}, Metadata: true, StaleMarkers: true, NativeInV1: true,
		Histograms: func(string) promwire.Histogram { return h },
	})
	at := func(ms int64, operations ...string) *latency.Snapshot {
		values := gauge("g", []string{"_a", "l\xc3"}, []string{"", "x"})
		values.Series[0].Value = stale
		counter := latency.Family{Name: "c_total", Kind: latency.Counter, Series: []latency.Series{{Value: float64(ms)}}}
		f := histogram(exponential(0, -20, 27), func(_ int, s *latency.Series) { s.Counts[0], s.Counts[5], s.Counts[27], s.Sum = 1, 7, 2, 9<<40 }, operations...)
		s := snapshot(t0+ms, counter, values, f)
		s.Taken.Boottime = time.Hour
		for i := range s.Families {
			s.Families[i].Help, s.Families[i].Unit = "Help.", "seconds"
		}
		return s
	}
	requests, err := e.Encode(p, at(15_000, "read", "write"), at(0, "read", "write"), at(30_000, "read"))
	if err != nil || len(requests) != 1 {
		t.Fatalf("%d requests, %v", len(requests), err)
	}
	m := message{request: requests[0], series: seriesOf(t, requests[0]), endedAt: t0 + 30_000, shouldEnd: 30}
	if m.raw, err = snappy.Decode(nil, requests[0].Body); err != nil {
		t.Fatal(err)
	}
	if p == promwire.V2 {
		m.v2 = *decode2(t, requests[0])
		for _, ts := range m.v2.Timeseries {
			var set [][2]string
			for i := 0; i < len(ts.LabelsRefs); i += 2 {
				set = append(set, [2]string{m.v2.Symbols[ts.LabelsRefs[i]], m.v2.Symbols[ts.LabelsRefs[i+1]]})
			}
			m.labels = append(m.labels, set)
		}
	} else {
		for _, ts := range decode(t, requests[0]).Timeseries {
			var set [][2]string
			for _, l := range ts.Labels {
				set = append(set, [2]string{l.Name, l.Value})
			}
			m.labels = append(m.labels, set)
		}
	}
	marker := binary.LittleEndian.AppendUint64(nil, math.Float64bits(stale))
	for i := 0; i+8 <= len(m.raw); i++ {
		if slices.Equal(m.raw[i:i+8], marker) {
			m.ends++
		}
	}
	if h == promwire.Exponential || h == promwire.Custom && p == promwire.V2 {
		m.shouldEnd = 1
	}
	return m
}
