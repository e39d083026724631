package promwire_test

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"math"
	"net/http"
	"net/http/httptest"
	"testing"

	remoteapi "github.com/prometheus/client_golang/exp/api/remote"
	"github.com/prometheus/client_golang/prometheus"
	model "github.com/prometheus/prometheus/model/histogram"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/value"
	"github.com/prometheus/prometheus/promql"
	"github.com/prometheus/prometheus/promql/parser/posrange"
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/storage/remote"
	"github.com/prometheus/prometheus/tsdb"
	"github.com/prometheus/prometheus/tsdb/chunkenc"

	"github.com/latpush/latpush/internal/latency"
	"github.com/latpush/latpush/internal/promwire"
)

// Prometheus's own handler takes every message whole, and its database has the same histograms, stale markers too.
func TestPrometheusStoresAll(t *testing.T) {
	t.Parallel()
	for _, s := range sendings {
		t.Run(s.name, func(t *testing.T) {
			t.Parallel()
			o := tsdb.DefaultOptions()
			o.EnableSTStorage, o.EnableHistogramSTEncoding, o.FloatChunkEncoding = true, true, chunkenc.EncXOR2
			db, err := tsdb.Open(t.TempDir(), slog.New(slog.DiscardHandler), nil, o, nil)
			if err != nil {
				t.Fatal(err)
			}
			defer db.Close()
			messages := remoteapi.MessageTypes{remoteapi.WriteV1MessageType, remoteapi.WriteV2MessageType}
			handler := remote.NewWriteHandler(slog.New(slog.DiscardHandler), prometheus.NewRegistry(), db, messages, false, false)

			e := newEncoder(t, benchOptions(s.histogram))
			snaps := work(s.histogram, 40, 3)
			snaps[2].Families[0].Series = snaps[2].Families[0].Series[1:] // the first label set ends
			var all []promwire.Request
			for _, batch := range [][]*latency.Snapshot{snaps[:1], snaps[1:]} {
				requests, err := e.Encode(s.protocol, batch...)
				if err != nil {
					t.Fatal(err)
				}
				for _, r := range requests {
					post(t, handler, r)
				}
				all = append(all, copyRequests(requests)...)
				e.Accept()
			}
			want := receiveAll(t, all)
			querier, err := db.Querier(0, math.MaxInt64)
			if err != nil {
				t.Fatal(err)
			}
			defer querier.Close()
			wantSelected(t, querier, want)
		})
	}
}

// post gives a request to a handler and demands that it was written whole.
func post(t *testing.T, handler http.Handler, r promwire.Request) {
	t.Helper()
	request := httptest.NewRequest(http.MethodPost, "/", bytes.NewReader(r.Body))
	request.Header.Set("Content-Encoding", "snappy")
	request.Header.Set("Content-Type", r.ContentType)
	request.Header.Set("X-Prometheus-Remote-Write-Version", r.Version)
	answer := httptest.NewRecorder()
	handler.ServeHTTP(answer, request)
	if answer.Code != http.StatusNoContent {
		t.Fatalf("status %d: %s", answer.Code, answer.Body)
	}
	if r.Protocol == promwire.V1 {
		return
	}
	for name, want := range map[string]int{"Samples": r.Samples, "Histograms": r.Histograms} {
		if got := answer.Header().Get("X-Prometheus-Remote-Write-" + name + "-Written"); got != fmt.Sprint(want) {
			t.Errorf("%s of %d %s are written", got, want, name)
		}
	}
}

func copyRequests(requests []promwire.Request) []promwire.Request {
	copies := make([]promwire.Request, len(requests))
	for i, r := range requests {
		r.Body = bytes.Clone(r.Body)
		copies[i] = r
	}
	return copies
}

func wantSelected(t *testing.T, querier storage.Querier, want stored) {
	t.Helper()
	got := stored{samples: received{}, histograms: map[string][]native{}}
	set := querier.Select(context.Background(), true, nil, labels.MustNewMatcher(labels.MatchRegexp, "__name__", ".+"))
	for set.Next() {
		name := exposedName(set.At().Labels())
		for it := set.At().Iterator(nil); ; {
			kind := it.Next()
			if kind == chunkenc.ValNone {
				break
			}
			if kind == chunkenc.ValFloat {
				ms, v := it.At()
				got.samples[name] = append(got.samples[name], sample{ms, v})
				continue
			}
			ms, h := it.AtHistogram(nil)
			got.histograms[name] = append(got.histograms[name], native{ms, 0, h})
		}
	}
	if err := set.Err(); err != nil {
		t.Fatal(err)
	}
	wantReceived(t, got.samples, want.samples)
	if len(got.histograms) != len(want.histograms) {
		t.Errorf("%d native histograms are stored, want %d", len(got.histograms), len(want.histograms))
	}
	for name, all := range want.histograms {
		if len(got.histograms[name]) != len(all) {
			t.Errorf("%s: %d histograms are stored, want %d", name, len(got.histograms[name]), len(all))
			continue
		}
		for i, h := range all {
			stale := value.IsStaleNaN(h.Sum)
			if h.start = 0; stale != value.IsStaleNaN(got.histograms[name][i].Sum) || !stale && !sameNative(got.histograms[name][i], h) {
				t.Errorf("%s: stored %v, want %v", name, got.histograms[name][i], h)
			}
		}
	}
}

// What Prometheus computes of native histograms is what the counts say; above the last bound, an exponential one knows nothing and a custom one as much as a
// classic one.
func TestQuantilesOfNativeHistograms(t *testing.T) {
	t.Parallel()
	second := uint64(1_000_000_000)
	for _, c := range []struct {
		name      string
		histogram promwire.Histogram
		bounds    []uint64
		counts    []uint64
		q, want   float64
	}{
		{"in the middle of a custom bucket", promwire.Custom, []uint64{second, 3 * second}, []uint64{0, 10, 0}, 0.5, 2},
		{"first custom bucket", promwire.Custom, []uint64{second, 3 * second}, []uint64{10, 0, 0}, 0.5, 0.5},
		{"above the last custom bound", promwire.Custom, []uint64{second, 3 * second}, []uint64{1, 0, 9}, 0.5, 3},
		{"without any bound", promwire.Custom, nil, []uint64{4}, 0.5, math.Inf(1)},
		{"in the middle of an exponential bucket", promwire.Exponential, []uint64{second, 2 * second, 4 * second}, []uint64{0, 0, 10, 0}, 0.5, 2 * math.Sqrt2},
		{"zero bucket", promwire.Exponential, []uint64{second, 2 * second}, []uint64{10, 1, 0}, 10. / 22, 0.5},
		{"above the last exponential bound", promwire.Exponential, []uint64{second, 2 * second}, []uint64{1, 0, 9}, 0.5, math.Inf(1)},
		{"below an exponential overflow", promwire.Exponential, []uint64{second, 2 * second, 4 * second}, []uint64{0, 0, 10, 10}, 0.25, 2 * math.Sqrt2},
		{"bounds of no schema", promwire.Exponential, []uint64{second, 3 * second}, []uint64{0, 10, 0}, 0.5, 2},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			h := encodeOne(t, c.histogram, c.bounds, c.counts)
			got, _ := promql.HistogramQuantile(c.q, h.ToFloat(nil), "", posrange.PositionRange{})
			if math.IsNaN(got) || got != c.want && math.Abs(got-c.want) > 1e-9 {
				t.Errorf("quantile %g is %g, want %g, of %v", c.q, got, c.want, h)
			}
		})
	}
}

// encodeOne gives what arrives of one native histogram.
func encodeOne(t *testing.T, as promwire.Histogram, bounds, counts []uint64) *model.Histogram {
	t.Helper()
	e := newEncoder(t, promwire.Options{Histograms: func(string) promwire.Histogram { return as }})
	requests, err := e.Encode(promwire.V2, snapshot(t0, histogram(bounds, func(_ int, s *latency.Series) { copy(s.Counts, counts) }, "read")))
	if err != nil {
		t.Fatal(err)
	}
	all := receiveAll(t, requests).histograms[`nfs_latency_seconds{operation="read"}`]
	if len(all) != 1 {
		t.Fatalf("%d histograms", len(all))
	}
	return all[0].Histogram
}

// Up to two empty buckets in a row are sent as such, more of them as a gap between spans; leading and trailing ones not at all.
func TestSpans(t *testing.T) {
	t.Parallel()
	h := encodeOne(t, promwire.Custom, exp2(12), []uint64{0, 4, 0, 0, 5, 0, 0, 0, 6, 0, 0, 0, 0})
	if fmt.Sprint(h.PositiveSpans) != "[{1 4} {3 1}]" || fmt.Sprint(h.PositiveBuckets) != "[4 -4 0 5 1]" {
		t.Errorf("spans %v, buckets %v", h.PositiveSpans, h.PositiveBuckets)
	}
	if h := encodeOne(t, promwire.Custom, exp2(3), []uint64{0, 0, 0, 0}); len(h.PositiveSpans)+len(h.PositiveBuckets) > 0 || h.Count != 0 {
		t.Errorf("an empty histogram is %v", h)
	}
}
