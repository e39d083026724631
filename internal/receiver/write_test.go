package receiver_test

import (
	"testing"
	"time"

	"github.com/prometheus/prometheus/model/histogram"
	"github.com/prometheus/prometheus/prompb"
	writev2 "github.com/prometheus/prometheus/prompb/io/prometheus/write/v2"
	"github.com/prometheus/prometheus/promql"

	"github.com/latpush/latpush/internal/receiver"
)

// classic is one push of a classic histogram with the bounds 1 ms, 2 ms and +Inf, given the cumulative counts.
func classic(name, operation string, at time.Time, sum float64, counts ...float64) []prompb.TimeSeries {
	sample := func(v float64) []prompb.Sample { return []prompb.Sample{{Value: v, Timestamp: at.UnixMilli()}} }
	var lines []prompb.TimeSeries
	for i, le := range []string{"0.001", "0.002", "+Inf"} {
		labels := labels1("__name__", name+"_bucket", "le", le, "operation", operation)
		lines = append(lines, prompb.TimeSeries{Labels: labels, Samples: sample(counts[i])})
	}
	return append(lines,
		prompb.TimeSeries{Labels: labels1("__name__", name+"_sum", "operation", operation), Samples: sample(sum)},
		prompb.TimeSeries{Labels: labels1("__name__", name+"_count", "operation", operation), Samples: sample(counts[2])})
}

func TestWrite1IsQueried(t *testing.T) {
	t.Parallel()
	r := start(t, receiver.Options{})
	now := time.Now()
	for i := range 5 {
		n := float64(i * 60)
		at := now.Add(time.Duration(i-4) * 15 * time.Second)
		wantStatus(t, push1(t, r, prompb.WriteRequest{Timeseries: classic("op_latency_seconds", "read", at, n*0.0015, n/2, n, n)}), 204)
	}
	for query, want := range map[string]float64{
		`op_latency_seconds_count{operation="read"}`:                                  240,
		`op_latency_seconds_bucket{le="0.001"}`:                                       120,
		`increase(op_latency_seconds_count[1m])`:                                      240,
		`rate(op_latency_seconds_sum[1m]) / rate(op_latency_seconds_count[1m])`:       0.0015,
		`histogram_quantile(0.75, sum by (le) (rate(op_latency_seconds_bucket[1m])))`: 0.0015,
	} {
		if got := scalar(t, r, query, now); !near(got, want) {
			t.Errorf("%s = %v, want %v", query, got, want)
		}
	}
}

func near(got, want float64) bool {
	return got == want || (got-want)/want < 1e-9 && (want-got)/want < 1e-9
}

// request2 is a remote write 2.0 request for one series.
func request2(series writev2.TimeSeries, labels ...string) writev2.Request {
	symbols := writev2.NewSymbolTable()
	for _, s := range labels {
		series.LabelsRefs = append(series.LabelsRefs, symbols.Symbolize(s))
	}
	series.Metadata.HelpRef = symbols.Symbolize("Time of operations.")
	series.Metadata.UnitRef = symbols.Symbolize("seconds")
	return writev2.Request{Symbols: symbols.Symbols(), Timeseries: []writev2.TimeSeries{series}}
}

func TestWrite2IsQueried(t *testing.T) {
	t.Parallel()
	r := start(t, receiver.Options{})
	now := time.Now()
	began := now.Add(-50 * time.Second)
	a := push2(t, r, request2(writev2.TimeSeries{
		Samples:  []writev2.Sample{{Value: 30, Timestamp: now.UnixMilli(), StartTimestamp: began.UnixMilli()}},
		Metadata: writev2.Metadata{Type: writev2.Metadata_METRIC_TYPE_COUNTER},
	}, "__name__", "ticks_total"))
	wantStatus(t, a, 204)
	if got := a.header.Get("X-Prometheus-Remote-Write-Samples-Written"); got != "1" {
		t.Errorf("samples written header is %q, want 1", got)
	}
	if got := a.header.Get("X-Prometheus-Remote-Write-Histograms-Written"); got != "0" {
		t.Errorf("histograms written header is %q, want 0", got)
	}
	if got := scalar(t, r, "ticks_total", now); got != 30 {
		t.Errorf("ticks_total = %v, want 30", got)
	}
	if got := scalar(t, r, "start_timestamp(ticks_total)", now); got != float64(began.UnixMilli())/1000 {
		t.Errorf("start timestamp = %v, want %v", got, began.UnixMilli())
	}
}

func TestFirstIncreaseCountsFromTheStartTimestamp(t *testing.T) {
	t.Parallel()
	r := start(t, receiver.Options{})
	now := time.Now()
	began := now.Add(-50 * time.Second)
	for i := range 2 {
		wantStatus(t, push2(t, r, request2(writev2.TimeSeries{
			Samples: []writev2.Sample{{
				Value: 30, Timestamp: now.Add(time.Duration(i-1) * 15 * time.Second).UnixMilli(), StartTimestamp: began.UnixMilli(),
			}},
		}, "__name__", "ticks_total")), 204)
	}
	if got := scalar(t, r, "increase(ticks_total[1m])", now); !near(got, 30) {
		t.Errorf("increase since the start = %v, want 30", got)
	}
}

// custom is a native histogram with custom bounds and n, 2n, n and n events in its four buckets, the last above all bounds.
func custom(at time.Time, n int64) writev2.Histogram {
	return writev2.FromIntHistogram(0, at.UnixMilli(), &histogram.Histogram{
		Schema: histogram.CustomBucketsSchema, Count: uint64(5 * n), Sum: 0.03 * float64(n), CustomValues: []float64{0.001, 0.002, 0.004},
		PositiveSpans: []histogram.Span{{Offset: 0, Length: 4}}, PositiveBuckets: []int64{n, n, -n, 0},
	})
}

func TestCustomBucketsAreStored(t *testing.T) {
	t.Parallel()
	r := start(t, receiver.Options{})
	now := time.Now()
	a := push2(t, r, request2(writev2.TimeSeries{Histograms: []writev2.Histogram{custom(now, 10)}}, "__name__", "op_latency_seconds"))
	wantStatus(t, a, 204)
	if got := a.header.Get("X-Prometheus-Remote-Write-Histograms-Written"); got != "1" {
		t.Errorf("histograms written header is %q, want 1", got)
	}
	value, err := r.Query(t.Context(), "op_latency_seconds", now)
	if err != nil {
		t.Fatal(err)
	}
	stored := value.(promql.Vector)[0].H
	if !stored.UsesCustomBuckets() || len(stored.CustomValues) != 3 || stored.CustomValues[2] != 0.004 {
		t.Errorf("stored %v, want custom bounds up to 0.004", stored)
	}
	for query, want := range map[string]float64{
		`histogram_count(op_latency_seconds)`:                  50,
		`histogram_fraction(0.001, 0.002, op_latency_seconds)`: 0.4,
		`histogram_quantile(0.2, op_latency_seconds)`:          0.001,
	} {
		if got := scalar(t, r, query, now); !near(got, want) {
			t.Errorf("%s = %v, want %v", query, got, want)
		}
	}
}

func TestOutOfOrder(t *testing.T) {
	t.Parallel()
	now := time.Now()
	for name, c := range map[string]struct {
		window time.Duration
		age    time.Duration
		want   int
	}{
		"within the default window":   {age: 50 * time.Minute, want: 204},
		"older than the window":       {age: 70 * time.Minute, want: 400},
		"within a longer window":      {window: 3 * time.Hour, age: 170 * time.Minute, want: 204},
		"without a window":            {window: -1, age: time.Minute, want: 400},
		"a second value for one time": {age: 0, want: 400},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := start(t, receiver.Options{OutOfOrderWindow: c.window})
			push := func(at time.Time, v float64) answer {
				return push1(t, r, prompb.WriteRequest{Timeseries: []prompb.TimeSeries{{
					Labels: labels1("__name__", "x_total"), Samples: []prompb.Sample{{Timestamp: at.UnixMilli(), Value: v}},
				}}})
			}
			wantStatus(t, push(now, 10), 204)
			old := now.Add(-c.age)
			wantStatus(t, push(old, 5), c.want)
			if c.want == 204 {
				if got := scalar(t, r, "x_total", old); got != 5 {
					t.Errorf("x_total = %v, want the late sample 5", got)
				}
			}
			if got := scalar(t, r, "x_total", now); got != 10 {
				t.Errorf("x_total = %v, want 10", got)
			}
		})
	}
}
