package receiver_test

import (
	"encoding/json"
	"io"
	"net/http"
	"net/url"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/prometheus/prompb"
	writev2 "github.com/prometheus/prometheus/prompb/io/prometheus/write/v2"

	"github.com/latpush/latpush/internal/receiver"
)

// described is the metadata of op_latency_seconds as the API answers it.
const described = `"op_latency_seconds":[{"type":"histogram","help":"Time of operations.","unit":"seconds"}]`

func get(t *testing.T, r *receiver.Receiver, path string) answer {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, r.URL()+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	response, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return answer{status: response.StatusCode, header: response.Header, body: string(body)}
}

// getJSON decodes an answer with status 200.
func getJSON[T any](t *testing.T, r *receiver.Receiver, path string) T {
	t.Helper()
	a := get(t, r, path)
	wantStatus(t, a, 200)
	var v T
	if err := json.Unmarshal([]byte(a.body), &v); err != nil {
		t.Fatalf("%s: %v in %s", path, err, a.body)
	}
	return v
}

// pushMinutes pushes a classic histogram every 15 s for the last minutes: per push 30 reads in each of the two lower buckets and 15 writes
// above all bounds.
func pushMinutes(t *testing.T, r *receiver.Receiver, end time.Time, minutes int) {
	t.Helper()
	for i := range minutes*4 + 1 {
		n := float64(i)
		at := end.Add(-time.Duration(minutes*4-i) * 15 * time.Second)
		request := prompb.WriteRequest{Timeseries: append(
			classic("op_latency_seconds", "read", at, n*60*0.001, n*30, n*60, n*60),
			classic("op_latency_seconds", "write", at, n*15*3, 0, 0, n*15)...)}
		request.Metadata = []prompb.MetricMetadata{{
			Type: prompb.MetricMetadata_HISTOGRAM, MetricFamilyName: "op_latency_seconds", Help: "Time of operations.", Unit: "seconds",
		}}
		wantStatus(t, push1(t, r, request), 204)
	}
}

func TestPrometheusAPI(t *testing.T) {
	t.Parallel()
	r := start(t, receiver.Options{})
	now := time.Now().Truncate(15 * time.Second)
	pushMinutes(t, r, now, 2)
	at := now.Format(time.RFC3339)
	for path, want := range map[string]string{
		"/api/v1/query?time=" + at + "&query=" + url.QueryEscape(`op_latency_seconds_count{operation="read"}`): `"480"`,
		"/api/v1/query_range?step=60&start=" + now.Add(-time.Minute).Format(time.RFC3339) + "&end=" + at +
			"&query=round(sum(rate(op_latency_seconds_count[1m])))": `"5"`,
		"/api/v1/series?match[]=op_latency_seconds_sum": `"operation":"write"`,
		"/api/v1/labels":                                         `["__name__","le","operation"]`,
		"/api/v1/label/operation/values":                         `["read","write"]`,
		"/api/v1/status/buildinfo":                               `"version":"3.`,
		"/api/v1/status/runtimeinfo":                             `"goroutineCount"`,
		"/api/v1/status/tsdb":                                    `"numSeries":10`,
		"/api/v1/status/tsdb/blocks":                             `"success"`,
		"/api/v1/metadata":                                       described,
		"/api/v1/metadata?metric=other":                          `"data":{}`,
		"/api/v1/query_exemplars?query=op_latency_seconds_count": `"success"`,
		"/api/v1/rules":                                          `"groups":[]`,
		"/api/v1/alerts":                                         `"alerts":[]`,
		"/api/v1/targets":                                        `"activeTargets":[]`,
		"/api/v1/alertmanagers":                                  `"activeAlertmanagers":[]`,
		"/metrics":                                               "prometheus_tsdb_head_series 10\n",
	} {
		if a := get(t, r, path); a.status != 200 || !strings.Contains(a.body, want) {
			t.Errorf("GET %s: %d %s, want %s in it", path, a.status, a.body, want)
		}
	}
	if a := get(t, r, "/api/v1/query?query=sum("); a.status != 400 || !strings.Contains(a.body, `"errorType":"bad_data"`) {
		t.Errorf("bad query: %d %s", a.status, a.body)
	}
}

// TestPrometheusVersion holds the version that Grafana is told against the module that is built in.
func TestPrometheusVersion(t *testing.T) {
	t.Parallel()
	module, err := os.ReadFile("../../go.mod")
	if err != nil {
		t.Fatal(err)
	}
	m := regexp.MustCompile(`github\.com/prometheus/prometheus v0\.(\d)(\d\d)\.(\d+)`).FindSubmatch(module)
	if m == nil {
		t.Fatal("go.mod has no version of github.com/prometheus/prometheus")
	}
	want := string(m[1]) + "." + strings.TrimPrefix(string(m[2]), "0") + "." + string(m[3])
	r := start(t, receiver.Options{})
	if a := get(t, r, "/api/v1/status/buildinfo"); !strings.Contains(a.body, `"version":"`+want+`"`) {
		t.Errorf("%s, want version %s", a.body, want)
	}
}

func TestMetadataOfWrite2(t *testing.T) {
	t.Parallel()
	r := start(t, receiver.Options{})
	wantStatus(t, push2(t, r, request2(writev2.TimeSeries{
		Histograms: []writev2.Histogram{custom(time.Now(), 1)}, Metadata: writev2.Metadata{Type: writev2.Metadata_METRIC_TYPE_HISTOGRAM},
	}, "__name__", "op_latency_seconds")), 204)
	if a := get(t, r, "/api/v1/metadata"); !strings.Contains(a.body, described) {
		t.Errorf("%s, want %s", a.body, described)
	}
}

func TestWriteRefusesOtherSites(t *testing.T) {
	t.Parallel()
	r := start(t, receiver.Options{})
	wantStatus(t, post(t, r.URL(), map[string]string{"Sec-Fetch-Site": "cross-site", "Content-Type": "application/x-protobuf"}, nil), 403)
	wantStatus(t, post(t, r.URL(), map[string]string{"Content-Type": "text/plain"}, nil), 415)
	wantStatus(t, post(t, r.URL(), map[string]string{"Content-Type": "application/x-protobuf"}, []byte{0xff}), 400)
}

// picture is what a test reads of /api/heatmap.
type picture struct {
	Metric, Kind, Help string
	Labels             map[string][]string
	Start, End, Step   float64
	Edges              []string
	Columns            []struct {
		T         float64
		Cells     [][]float64
		Rate      float64
		Mean      string
		Quantiles []string
		Rows      []float64
	}
	Total *struct {
		Rate      float64
		Mean      string
		Quantiles []string
	}
}

func TestHeatmap(t *testing.T) {
	t.Parallel()
	r := start(t, receiver.Options{})
	now := time.Now().Truncate(15 * time.Second)
	pushMinutes(t, r, now, 2)
	end := "&end=" + unixSeconds(now)

	h := getJSON[picture](t, r, "/api/heatmap?metric=op_latency_seconds&range=5m"+end)
	if h.Kind != "classic" || h.Help != "Time of operations." || h.Step != 15 || len(h.Columns) != 21 {
		t.Fatalf("%+v, want 21 columns of 15 s", h)
	}
	if want := []string{"0", "1 ms", "2 ms", "+Inf"}; !slices.Equal(h.Edges, want) {
		t.Errorf("edges %q, want %q", h.Edges, want)
	}
	if !slices.Equal(h.Labels["operation"], []string{"read", "write"}) || len(h.Labels) != 1 {
		t.Errorf("labels %v, want those of operation only", h.Labels)
	}
	if first := h.Columns[0]; first.Cells != nil {
		t.Errorf("before the first sample: %v, want null", first.Cells)
	}
	last := h.Columns[20]
	if want := [][]float64{{0, 1, 2}, {1, 2, 2}, {2, 3, 1}}; !slices.EqualFunc(last.Cells, want, slices.Equal) || last.T != h.End {
		t.Errorf("last column %+v, want %v", last, want)
	}
	if last.Rate != 5 || last.Mean != "601 ms" || !slices.Equal(last.Quantiles, []string{"1.25 ms", "2 ms", "2 ms"}) {
		t.Errorf("last column %+v", last)
	}
	if !slices.Equal(last.Rows, []float64{1.25, 2, 2}) {
		t.Errorf("quantiles lie at rows %v", last.Rows)
	}
	if h.Total == nil || h.Total.Mean != "601 ms" || len(h.Total.Quantiles) != 3 {
		t.Errorf("total %+v", h.Total)
	}

	h = getJSON[picture](t, r, "/api/heatmap?metric=op_latency_seconds&range=5m&label.operation=write"+end)
	if want := [][]float64{{2, 3, 1}}; !slices.EqualFunc(h.Columns[20].Cells, want, slices.Equal) {
		t.Errorf("writes only: %v, want %v", h.Columns[20].Cells, want)
	}
	if len(h.Labels["operation"]) != 2 {
		t.Errorf("writes only: labels %v, want still all values", h.Labels)
	}
	h = getJSON[picture](t, r, "/api/heatmap?metric=op_latency_seconds&label.operation=rename"+end)
	if h.Total != nil || len(h.Edges) != 0 {
		t.Errorf("nothing chosen: %+v, want no data", h)
	}
}

// unixSeconds is a moment as the API takes it.
func unixSeconds(at time.Time) string {
	return strconv.FormatFloat(float64(at.UnixMilli())/1000, 'f', 3, 64)
}

func TestHeatmapSurvivesACounterReset(t *testing.T) {
	t.Parallel()
	r := start(t, receiver.Options{})
	now := time.Now().Truncate(15 * time.Second)
	for i, n := range []float64{1000, 1015, 1030, 0, 15, 30} { // the sender restarts after the third
		at := now.Add(time.Duration(i-5) * 15 * time.Second)
		wantStatus(t, push1(t, r, prompb.WriteRequest{Timeseries: classic("op_latency_seconds", "read", at, n, n, n, n)}), 204)
	}
	h := getJSON[picture](t, r, "/api/heatmap?metric=op_latency_seconds&range=1m&end="+unixSeconds(now))
	for _, c := range h.Columns {
		if c.Cells == nil || c.Rate < 0 || c.Rate > 1.01 {
			t.Errorf("column %+v, want at most 1 event/s and no hole", c)
		}
	}
}

func TestHeatmapOfNativeHistograms(t *testing.T) {
	t.Parallel()
	r := start(t, receiver.Options{})
	now := time.Now().Truncate(15 * time.Second)
	for i := range 3 {
		at := now.Add(time.Duration(i-2) * 15 * time.Second)
		wantStatus(t, push2(t, r, request2(writev2.TimeSeries{Histograms: []writev2.Histogram{custom(at, int64(i+1)*15)}}, "__name__", "op_seconds")), 204)
	}
	h := getJSON[picture](t, r, "/api/heatmap?metric=op_seconds&kind=custom&range=1m&end="+unixSeconds(now))
	if want := []string{"0", "1 ms", "2 ms", "4 ms", "+Inf"}; !slices.Equal(h.Edges, want) {
		t.Errorf("edges %q, want %q", h.Edges, want)
	}
	last := h.Columns[len(h.Columns)-1]
	if want := [][]float64{{0, 1, 1}, {1, 2, 2}, {2, 3, 1}, {3, 4, 1}}; !slices.EqualFunc(last.Cells, want, slices.Equal) || last.Mean != "6 ms" {
		t.Errorf("last column %+v, want %v with a mean of 6 ms", last, want)
	}
}

func TestHeatmapRefusesBadRequests(t *testing.T) {
	t.Parallel()
	r := start(t, receiver.Options{})
	pushMinutes(t, r, time.Now(), 0)
	for query, want := range map[string]int{
		"":                                                     404,
		"metric=other":                                         404,
		"metric=op_latency_seconds&kind=native":                404,
		"metric=op_latency_seconds&range=soon":                 400,
		"metric=op_latency_seconds&range=0s":                   400,
		"metric=op_latency_seconds&end=now":                    400,
		"metric=op_latency_seconds&end=NaN":                    400,
		"metric=op_latency_seconds&range=100y&end=1e9":         200,
		"metric=op_latency_seconds&label.a%22b=%22}%20or%20up": 200,
	} {
		if a := get(t, r, "/api/heatmap?"+query); a.status != want {
			t.Errorf("%s: %d %s, want %d", query, a.status, a.body, want)
		}
	}
}

func TestSummary(t *testing.T) {
	t.Parallel()
	r := start(t, receiver.Options{})
	empty := getJSON[receiver.Summary](t, r, "/api/summary")
	if empty.Histograms == nil || len(empty.Histograms) != 0 || empty.Samples != 0 || empty.URL != r.URL() {
		t.Errorf("before the first push: %+v", empty)
	}
	pushMinutes(t, r, time.Now(), 2)
	s := getJSON[receiver.Summary](t, r, "/api/summary")
	if s.Samples != 90 || s.Metrics != 3 || len(s.Histograms) != 1 {
		t.Fatalf("%+v, want 90 samples of one histogram", s)
	}
	h := s.Histograms[0]
	if h.Name != "op_latency_seconds" || h.Kind != "classic" || h.Series != 2 || h.Samples != 90 || h.StepSeconds != 15 || h.Unit != "seconds" {
		t.Errorf("%+v", h)
	}
	if h.Events == nil || *h.Events != 600 || h.EventRate == nil || !near(*h.EventRate, 5) {
		t.Errorf("events %v at %v/s, want 600 at 5/s", value(h.Events), value(h.EventRate))
	}
	if h.P50Text != "1.25 ms" || h.P99Text != "2 ms" || h.AgeSeconds < 0 || h.AgeSeconds > 60 {
		t.Errorf("%+v", h)
	}
}

func value(v *float64) any {
	if v == nil {
		return nil
	}
	return *v
}

func TestPageNeedsNothingFromElsewhere(t *testing.T) {
	t.Parallel()
	r := start(t, receiver.Options{})
	page := get(t, r, "/")
	wantStatus(t, page, 200)
	if policy := page.header.Get("Content-Security-Policy"); !strings.HasPrefix(policy, "default-src 'self'") {
		t.Errorf("content security policy %q", policy)
	}
	links := regexp.MustCompile(`(?:src|href)="([^"]+)"|from "\./([^"]+)"`)
	todo, seen := []string{""}, map[string]bool{}
	for len(todo) > 0 {
		name := todo[0]
		todo = todo[1:]
		a := get(t, r, "/"+name)
		if a.status != 200 || strings.Contains(a.body, "//cdn") || regexp.MustCompile(`(src|href|from|url)[=( ]*["']?https?:`).MatchString(a.body) {
			t.Errorf("/%s: %d, or it loads from elsewhere", name, a.status)
		}
		for _, m := range links.FindAllStringSubmatch(a.body, -1) {
			if link := m[1] + m[2]; !seen[link] {
				seen[link] = true
				todo = append(todo, link)
			}
		}
	}
	for _, file := range []string{"page.js", "heatmap.js", "colour.js", "format.js", "style.css", "icon.svg"} {
		if !seen[file] {
			t.Errorf("the page does not use %s", file)
		}
	}
	wantStatus(t, get(t, r, "/nothing"), 404)
}
