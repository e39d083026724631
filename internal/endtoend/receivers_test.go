package endtoend

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/prometheus/client_golang/api"
	v1 "github.com/prometheus/client_golang/api/prometheus/v1"
	"github.com/prometheus/common/model"

	"github.com/latpush/latpush/internal/receiver"
)

// server is a receiver with Prometheus's query API.
type server struct {
	t   *testing.T
	url string
	api v1.API
}

func (s *server) writeURL() string { return s.url + "/api/v1/write" }

func newServer(t *testing.T, url string) *server {
	t.Helper()
	client, err := api.NewClient(api.Config{Address: url})
	if err != nil {
		t.Fatal(err)
	}
	return &server{t: t, url: url, api: v1.NewAPI(client)}
}

// embedded starts the receiver of `make run`.
func embedded(t *testing.T) *server {
	t.Helper()
	r, err := receiver.Start(t.Context(), receiver.Options{Listen: "127.0.0.1:0"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = r.Close() })
	return newServer(t, r.URL())
}

// debianPrometheus starts the distribution's Prometheus.
func debianPrometheus(t *testing.T) *server {
	t.Helper()
	path, err := exec.LookPath("prometheus")
	if err != nil {
		if os.Getenv("CI") != "" {
			t.Fatal("no prometheus on this machine (apt-get install prometheus)")
		}
		t.Skip("no prometheus on this machine (apt-get install prometheus)")
	}
	folder := t.TempDir()
	config := filepath.Join(folder, "prometheus.yml")
	if err := os.WriteFile(config, []byte("global: {}\nstorage: {tsdb: {out_of_order_time_window: 1h}}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	address := freeAddress(t)
	command := exec.Command(path, "--config.file", config, "--storage.tsdb.path", filepath.Join(folder, "data"), "--web.listen-address", address,
		"--web.enable-remote-write-receiver", "--log.level=warn")
	log := &lockedBuffer{}
	command.Stdout, command.Stderr = log, log
	if err := command.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = command.Process.Kill()
		_ = command.Wait()
		if t.Failed() {
			t.Logf("log of Prometheus:\n%s", log)
		}
	})
	eventually(t, 30*time.Second, func() error {
		response, err := http.Get("http://" + address + "/-/ready")
		if err != nil {
			return err
		}
		defer response.Body.Close()
		if response.StatusCode != http.StatusOK {
			return fmt.Errorf("prometheus is not ready: %s", response.Status)
		}
		return nil
	})
	return newServer(t, "http://"+address)
}

// freeAddress returns a loopback address that nobody listens on.
func freeAddress(t *testing.T) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	return listener.Addr().String()
}

// query returns the instant vector of a query.
func (s *server) query(query string) (model.Vector, error) {
	ctx, cancel := context.WithTimeout(s.t.Context(), 10*time.Second)
	defer cancel()
	value, _, _, err := s.api.Query(ctx, query, time.Now())
	if err != nil {
		return nil, fmt.Errorf("query %s: %w", query, err)
	}
	vector, ok := value.(model.Vector)
	if !ok {
		return nil, fmt.Errorf("query %s: it gives a %s", query, value.Type())
	}
	return vector, nil
}

// value returns the single value of a query.
func (s *server) value(query string) (float64, error) {
	vector, err := s.query(query)
	if err != nil {
		return 0, err
	}
	if len(vector) != 1 {
		return 0, fmt.Errorf("query %s: %d series, want 1", query, len(vector))
	}
	return float64(vector[0].Value), nil
}

// expect waits until a query gives a value.
func (s *server) expect(query string, want float64) {
	s.t.Helper()
	eventually(s.t, 20*time.Second, func() error {
		got, err := s.value(query)
		if err != nil {
			return err
		}
		if got != want {
			return fmt.Errorf("query %s: %v, want %v", query, got, want)
		}
		return nil
	})
}
