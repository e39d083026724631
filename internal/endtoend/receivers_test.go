package endtoend

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/prometheus/client_golang/api"
	v1 "github.com/prometheus/client_golang/api/prometheus/v1"
	"github.com/prometheus/common/model"

	"github.com/latpush/latpush/internal/receiver"
	"github.com/latpush/latpush/internal/receivers"
)

// server is a receiver with Prometheus's query API.
type server struct {
	t   *testing.T
	url string
	api v1.API
	now func() time.Time // when queries are evaluated
}

func (s *server) writeURL() string { return s.url + "/api/v1/write" }

func newServer(t *testing.T, url string) *server {
	t.Helper()
	client, err := api.NewClient(api.Config{Address: url})
	if err != nil {
		t.Fatal(err)
	}
	return &server{t: t, url: url, api: v1.NewAPI(client), now: time.Now}
}

// embedded starts the receiver of `make run`.
func embedded(t *testing.T) *server {
	t.Helper()
	return embeddedWith(t, receiver.Options{})
}

func embeddedWith(t *testing.T, o receiver.Options) *server {
	t.Helper()
	o.Listen = "127.0.0.1:0"
	r, err := receiver.Start(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = r.Close() })
	return newServer(t, r.URL())
}

// real starts a receiver that hosts push to.
func real(t *testing.T, p receivers.Program, o receivers.Options) *server {
	t.Helper()
	return newServer(t, receivers.Start(t, p, o).URL)
}

func debianPrometheus(t *testing.T) *server {
	t.Helper()
	return real(t, receivers.DebianPrometheus, receivers.Options{})
}

func freeAddress(t *testing.T) string {
	t.Helper()
	return receivers.FreeAddress(t)
}

// at asks the same server about another moment.
func (s *server) at(moment time.Time) *server {
	other := *s
	other.now = func() time.Time { return moment }
	return &other
}

// query returns the instant vector of a query.
func (s *server) query(query string) (model.Vector, error) {
	ctx, cancel := context.WithTimeout(s.t.Context(), 10*time.Second)
	defer cancel()
	value, _, _, err := s.api.Query(ctx, query, s.now())
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
	s.expectWithin(limit, query, want)
}

func (s *server) expectWithin(limit time.Duration, query string, want float64) {
	s.t.Helper()
	eventually(s.t, limit, func() error {
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

// stream returns what is stored of the one series that a selector finds.
func (s *server) stream(selector string, span time.Duration) *model.SampleStream {
	s.t.Helper()
	value, _, _, err := s.api.Query(s.t.Context(), fmt.Sprintf("%s[%ds]", selector, int(span.Seconds())), s.now())
	if err != nil {
		s.t.Fatal(err)
	}
	matrix, ok := value.(model.Matrix)
	if !ok || len(matrix) != 1 {
		s.t.Fatalf("%s: %d series in %T, want one", selector, len(matrix), value)
	}
	return matrix[0]
}

// raw returns its samples.
func (s *server) raw(selector string, span time.Duration) []model.SamplePair {
	s.t.Helper()
	return s.stream(selector, span).Values
}
