package receivers

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/golang/snappy"
	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/prompb"
)

// Each receiver stores what a remote write 1.0 request says, and answers queries with it. Stopped and started again it still has it.
func TestReceiversStoreAndAnswer(t *testing.T) {
	if testing.Short() {
		t.Skip("builds receivers")
	}
	t.Parallel()
	for _, p := range []Program{Prometheus, DebianPrometheus, VictoriaMetrics} {
		t.Run(p.String(), func(t *testing.T) {
			t.Parallel()
			o := Options{Directory: t.TempDir(), Address: FreeAddress(t)}
			s := Start(t, p, o)
			now := time.Now()
			write(t, s, now, 42)
			wantValue(t, s, now, 42)
			if p == VictoriaMetrics {
				return // it says 204 before it has written to disk
			}
			s.Stop()
			wantValue(t, Start(t, p, o), now, 42)
		})
	}
}

func write(t *testing.T, s *Server, at time.Time, value float64) {
	t.Helper()
	message := prompb.WriteRequest{Timeseries: []prompb.TimeSeries{{
		Labels:  []prompb.Label{{Name: "__name__", Value: "answer"}},
		Samples: []prompb.Sample{{Value: value, Timestamp: at.UnixMilli()}},
	}}}
	body, err := message.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	request, err := http.NewRequestWithContext(t.Context(), http.MethodPost, s.WriteURL(), bytes.NewReader(snappy.Encode(nil, body)))
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("Content-Encoding", "snappy")
	request.Header.Set("Content-Type", "application/x-protobuf")
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	if said, _ := io.ReadAll(response.Body); response.StatusCode != http.StatusNoContent {
		t.Fatalf("%s: %s", response.Status, said)
	}
}

func wantValue(t *testing.T, s *Server, at time.Time, want float64) {
	t.Helper()
	deadline := time.Now().Add(30 * time.Second)
	for {
		got, _, _, err := s.API.Query(t.Context(), "answer", at)
		if vector, ok := got.(model.Vector); err == nil && ok && len(vector) == 1 && float64(vector[0].Value) == want {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("got %v and %v, want %v", got, err, want)
		}
		time.Sleep(pollInterval)
	}
}

// A folder that is locked is waited for, a build that fails leaves nothing behind that looks like a program.
func TestBuildThatFails(t *testing.T) {
	cache := t.TempDir()
	t.Setenv(CacheVariable, cache)
	t.Setenv("GOPROXY", "off")
	m := module{command: "github.com/latpush/none/no-such-program", version: "v1.0.0"}
	folder := filepath.Join(cache, "no-such-program-v1.0.0")

	unlock, err := lock(t.Context(), folder+".lock")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	if _, err := m.path(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("while another one builds: %v", err)
	}
	unlock()

	if _, err := m.path(t.Context()); err == nil || !strings.Contains(err.Error(), m.command) {
		t.Errorf("got %v, want an error that names %s", err, m.command)
	}
	if left, err := os.ReadDir(folder); err != nil || len(left) != 0 {
		t.Errorf("the cache has %v (%v)", left, err)
	}

	// What is there is not built.
	binary := filepath.Join(folder, "no-such-program")
	if err := os.WriteFile(binary, nil, 0o755); err != nil {
		t.Fatal(err)
	}
	if got, err := m.path(t.Context()); err != nil || got != binary {
		t.Errorf("got %q and %v, want %s", got, err, binary)
	}
}
