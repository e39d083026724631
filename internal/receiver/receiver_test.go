package receiver_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/golang/snappy"
	"github.com/prometheus/prometheus/prompb"
	writev2 "github.com/prometheus/prometheus/prompb/io/prometheus/write/v2"
	"github.com/prometheus/prometheus/promql"

	"github.com/latpush/latpush/internal/receiver"
)

// start runs a receiver on a free port for the time of one test.
func start(t *testing.T, o receiver.Options) *receiver.Receiver {
	t.Helper()
	if o.Listen == "" {
		o.Listen = "127.0.0.1:0"
	}
	r, err := receiver.Start(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := r.Close(); err != nil {
			t.Errorf("close receiver: %v", err)
		}
	})
	return r
}

// answer is what the write endpoint said.
type answer struct {
	status int
	header http.Header
	body   string
}

func post(t *testing.T, url string, header map[string]string, message []byte) answer {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, url+"/api/v1/write", bytes.NewReader(snappy.Encode(nil, message)))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Encoding", "snappy")
	for k, v := range header {
		req.Header.Set(k, v)
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

func push1(t *testing.T, r *receiver.Receiver, request prompb.WriteRequest) answer {
	t.Helper()
	message, err := request.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	return post(t, r.URL(), map[string]string{
		"Content-Type": "application/x-protobuf", "X-Prometheus-Remote-Write-Version": "0.1.0",
	}, message)
}

func push2(t *testing.T, r *receiver.Receiver, request writev2.Request) answer {
	t.Helper()
	message, err := request.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	return post(t, r.URL(), map[string]string{
		"Content-Type":                      "application/x-protobuf;proto=io.prometheus.write.v2.Request",
		"X-Prometheus-Remote-Write-Version": "2.0.0",
	}, message)
}

func wantStatus(t *testing.T, a answer, status int) {
	t.Helper()
	if a.status != status {
		t.Fatalf("status %d (%s), want %d", a.status, strings.TrimSpace(a.body), status)
	}
}

// scalar evaluates a query that has one result.
func scalar(t *testing.T, r *receiver.Receiver, query string, at time.Time) float64 {
	t.Helper()
	value, err := r.Query(t.Context(), query, at)
	if err != nil {
		t.Fatal(err)
	}
	vector, ok := value.(promql.Vector)
	if !ok || len(vector) != 1 {
		t.Fatalf("query %s gave %v, want one series", query, value)
	}
	return vector[0].F
}

// labels1 makes sorted labels from name, value, name, value, ... given in order.
func labels1(pairs ...string) []prompb.Label {
	var labels []prompb.Label
	for i := 0; i < len(pairs); i += 2 {
		labels = append(labels, prompb.Label{Name: pairs[i], Value: pairs[i+1]})
	}
	return labels
}

func TestQueryErrorNamesTheQuery(t *testing.T) {
	t.Parallel()
	r := start(t, receiver.Options{})
	if _, err := r.Query(t.Context(), "sum(", time.Now()); err == nil || !strings.Contains(err.Error(), `parse query "sum("`) {
		t.Errorf("got %v, want an error that names the query", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := r.Query(ctx, "sum(up)", time.Now()); err == nil || !strings.Contains(err.Error(), `run query "sum(up)"`) {
		t.Errorf("got %v, want an error that names the query", err)
	}
}

func TestCloseRemovesTheTemporaryFolder(t *testing.T) {
	parent := t.TempDir()
	t.Setenv("TMPDIR", parent)
	r, err := receiver.Start(t.Context(), receiver.Options{Listen: "127.0.0.1:0"})
	if err != nil {
		t.Fatal(err)
	}
	wantStatus(t, push1(t, r, prompb.WriteRequest{Timeseries: classic("op_latency_seconds", "read", time.Now(), 1, 1, 2, 3)}), 204)
	if entries := list(t, parent); len(entries) != 1 {
		t.Errorf("while running: %v, want one temporary folder", entries)
	}
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	if err := r.Close(); err != nil {
		t.Errorf("second close: %v", err)
	}
	select {
	case <-r.Done():
	default:
		t.Error("still serving after Close")
	}
	if entries := list(t, parent); len(entries) != 0 {
		t.Errorf("after Close: %v, want nothing", entries)
	}
}

func TestPortInUseIsOneClearError(t *testing.T) {
	parent := t.TempDir()
	t.Setenv("TMPDIR", parent)
	first := start(t, receiver.Options{})
	address := strings.TrimPrefix(first.URL(), "http://")
	_, err := receiver.Start(t.Context(), receiver.Options{Listen: address})
	if !errors.Is(err, syscall.EADDRINUSE) || !strings.Contains(err.Error(), "listen on "+address) || strings.Contains(err.Error(), "\n") {
		t.Errorf("got %v, want one line that names %s", err, address)
	}
	if entries := list(t, parent); len(entries) != 1 {
		t.Errorf("left behind %v, want the first receiver's folder only", entries)
	}
}

func list(t *testing.T, folder string) []string {
	t.Helper()
	entries, err := filepath.Glob(filepath.Join(folder, "*"))
	if err != nil {
		t.Fatal(err)
	}
	return entries
}

func TestGivenFolderIsKept(t *testing.T) {
	t.Parallel()
	folder := filepath.Join(t.TempDir(), "data")
	now := time.Now()
	first, err := receiver.Start(t.Context(), receiver.Options{Listen: "127.0.0.1:0", Directory: folder})
	if err != nil {
		t.Fatal(err)
	}
	for i := range 2 {
		at := now.Add(time.Duration(i-1) * 10 * time.Second)
		wantStatus(t, push1(t, first, prompb.WriteRequest{Timeseries: classic("op_latency_seconds", "read", at, 1, 1, 2, 3)}), 204)
	}
	if _, err := receiver.Start(t.Context(), receiver.Options{Listen: "127.0.0.1:0", Directory: folder}); err == nil ||
		!strings.Contains(err.Error(), "open storage in "+folder) {
		t.Errorf("second receiver on one folder: %v, want an error that names it", err)
	}
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	second := start(t, receiver.Options{Directory: folder})
	if got := scalar(t, second, `op_latency_seconds_count`, now); got != 3 {
		t.Errorf("after a restart: %v, want 3", got)
	}
	summary, err := second.Summary(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if len(summary.Histograms) != 1 || summary.Histograms[0].StepSeconds != 10 || summary.Histograms[0].Series != 1 {
		t.Errorf("after a restart the summary knows %+v, want one histogram with a sample every 10 s", summary.Histograms)
	}
}

func TestValidate(t *testing.T) {
	t.Parallel()
	for listen, want := range map[string]string{
		"":               "",
		"127.0.0.1:0":    "",
		"[::1]:9099":     "",
		"localhost:9099": "",
		"127.9.9.9:1":    "",
		":9099":          "not loopback",
		"0.0.0.0:9099":   "not loopback",
		"10.1.2.3:9099":  "not loopback",
		"[::]:9099":      "not loopback",
		"example:9099":   "not loopback",
		"9099":           "want host:port",
	} {
		err := receiver.Options{Listen: listen}.Validate()
		switch {
		case want == "" && err != nil:
			t.Errorf("%q: %v, want no error", listen, err)
		case want != "" && (err == nil || !strings.Contains(err.Error(), want)):
			t.Errorf("%q: %v, want %q", listen, err, want)
		}
	}
	if _, err := receiver.Start(t.Context(), receiver.Options{Listen: "0.0.0.0:0"}); !errors.Is(err, receiver.ErrNotLoopback) {
		t.Errorf("start on all interfaces: %v, want ErrNotLoopback", err)
	}
}

func TestUnusableFolder(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := receiver.Start(t.Context(), receiver.Options{Listen: "127.0.0.1:0", Directory: file}); err == nil ||
		!strings.Contains(err.Error(), file) {
		t.Errorf("got %v, want an error that names %s", err, file)
	}
}
