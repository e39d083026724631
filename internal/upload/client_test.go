package upload_test

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/prometheus/common/config"

	"github.com/latpush/latpush/internal/upload"
)

// A request has exactly the headers of the protocol, the user's, and no others; the body arrives as it is.
func TestSendRequest(t *testing.T) {
	t.Parallel()
	var got *http.Request
	var body []byte
	server := serve(t, func(w http.ResponseWriter, r *http.Request) {
		got = r
		body, _ = io.ReadAll(r.Body)
		w.WriteHeader(http.StatusNoContent)
	})
	s := newSender(t, server.URL+"/api/v1/push?x=1", func(c *upload.Config) {
		c.Headers = map[string]config.Secret{"x-scope-orgid": "site-3"}
		c.HTTPClientConfig.HTTPHeaders = &config.Headers{Headers: map[string]config.Header{
			"X-More": {Values: []string{"a", "b"}, Secrets: []config.Secret{"c"}, Files: []string{writeFile(t, "d", "from a file\n")}},
		}}
	})
	a := s.Send(t.Context(), request())
	if a != (upload.Answer{Verdict: upload.Accepted, Status: 204}) {
		t.Fatalf("got %+v", a)
	}
	want := http.Header{
		"Content-Encoding": {"snappy"}, "Content-Type": {"application/x-protobuf"}, "X-Prometheus-Remote-Write-Version": {"0.1.0"},
		"User-Agent": {"latpush/1.2.3"}, "Content-Length": {"14"}, "X-Scope-Orgid": {"site-3"}, "X-More": {"a", "b", "c", "from a file"},
	}
	if !maps.EqualFunc(got.Header, want, slices.Equal) {
		t.Errorf("got the headers\n%v\nwant\n%v", got.Header, want)
	}
	if got.Method != http.MethodPost || got.RequestURI != "/api/v1/push?x=1" || string(body) != "a snappy block" || got.ContentLength != 14 {
		t.Errorf("got %s %s of %d bytes: %q", got.Method, got.RequestURI, got.ContentLength, body)
	}
}

func TestSendAnswers(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("x", 5_000)
	for _, c := range []struct {
		name   string
		status int
		header http.Header
		body   string
		want   upload.Answer
		err    string
		no429  bool
	}{
		{name: "ok", status: 200, body: "ignored", want: upload.Answer{Verdict: upload.Accepted}},
		{name: "no content", status: 204, want: upload.Answer{Verdict: upload.Accepted}},
		{name: "any 2xx", status: 299, want: upload.Answer{Verdict: upload.Accepted}},
		{
			name: "bad request", status: 400, body: " out of order sample\n", want: upload.Answer{Verdict: upload.Rejected, Message: "out of order sample"},
			err: "receive status 400 Bad Request: out of order sample",
		},
		{name: "unauthorized", status: 401, want: upload.Answer{Verdict: upload.Unauthorized}, err: "receive status 401 Unauthorized"},
		{name: "forbidden", status: 403, body: "no", want: upload.Answer{Verdict: upload.Unauthorized, Message: "no"}, err: "receive status 403 Forbidden: no"},
		{name: "not found", status: 404, want: upload.Answer{Verdict: upload.Rejected}, err: "receive status 404 Not Found"},
		{name: "proxy authentication", status: 407, want: upload.Answer{Verdict: upload.Unauthorized}, err: "receive status 407 Proxy Authentication Required"},
		{name: "conflict", status: 409, want: upload.Answer{Verdict: upload.Rejected}, err: "receive status 409 Conflict"},
		{name: "too large", status: 413, want: upload.Answer{Verdict: upload.TooLarge}, err: "receive status 413 Request Entity Too Large"},
		{name: "unsupported", status: 415, want: upload.Answer{Verdict: upload.Rejected}, err: "receive status 415 Unsupported Media Type"},
		{name: "unknown 4xx", status: 499, want: upload.Answer{Verdict: upload.Rejected}, err: "receive status 499"},
		{
			name: "throttled", status: 429, header: http.Header{"Retry-After": {"7"}}, body: "slow down",
			want: upload.Answer{Verdict: upload.Retry, RetryAfter: 7 * time.Second, Message: "slow down"}, err: "receive status 429 Too Many Requests: slow down",
		},
		{
			name: "throttled with a date", status: 429, header: http.Header{"Date": {"Mon, 02 Jan 2006 15:04:05 GMT"}, "Retry-After": {"Mon, 02 Jan 2006 15:04:35 GMT"}},
			want: upload.Answer{Verdict: upload.Retry, RetryAfter: 30 * time.Second}, err: "receive status 429 Too Many Requests",
		},
		{name: "throttled and final", status: 429, header: http.Header{"Retry-After": {"7"}}, want: upload.Answer{Verdict: upload.Rejected}, err: "receive status 429 Too Many Requests", no429: true},
		{name: "internal error", status: 500, body: "a\nb", want: upload.Answer{Verdict: upload.Retry, Message: "a\nb"}, err: "receive status 500 Internal Server Error: a\nb"},
		{name: "unavailable", status: 503, header: http.Header{"Retry-After": {"120"}}, want: upload.Answer{Verdict: upload.Retry, RetryAfter: 2 * time.Minute}, err: "receive status 503 Service Unavailable"},
		{name: "unknown 5xx", status: 599, want: upload.Answer{Verdict: upload.Retry}, err: "receive status 599"},
		{name: "wild status", status: 999, want: upload.Answer{Verdict: upload.Retry}, err: "receive status 999"},
		{name: "long words", status: 400, body: long, want: upload.Answer{Verdict: upload.Rejected, Message: long[:4096]}, err: "receive status 400 Bad Request: " + long[:4096]},
		{name: "words that are no UTF-8", status: 400, body: "a\xffb", want: upload.Answer{Verdict: upload.Rejected, Message: "a�b"}, err: "receive status 400 Bad Request: a�b"},
		{name: "not modified", status: 304, want: upload.Answer{Verdict: upload.Unauthorized}, err: "receive status 304 Not Modified"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			server := serve(t, func(w http.ResponseWriter, _ *http.Request) {
				maps.Copy(w.Header(), c.header)
				w.WriteHeader(c.status)
				_, _ = io.WriteString(w, c.body)
			})
			s := newSender(t, server.URL, func(u *upload.Config) { u.QueueConfig.RetryOnRateLimit = !c.no429 })
			got := s.Send(t.Context(), request())
			err := ""
			if got.Err != nil {
				err = got.Err.Error()
			}
			got.Err = nil
			c.want.Status = c.status
			if got != c.want || err != c.err {
				t.Errorf("got %+v, %q\nwant %+v, %q", got, err, c.want, c.err)
			}
		})
	}
}

func TestSendBoundsWordsInRunes(t *testing.T) {
	t.Parallel()
	server := serve(t, func(w http.ResponseWriter, _ *http.Request) {
		http.Error(w, "a"+strings.Repeat("€", 3_000), http.StatusBadRequest)
	})
	a := newSender(t, server.URL, nil).Send(t.Context(), request())
	if !utf8.ValidString(a.Message) || len(a.Message) > 4096+2 || len(a.Message) < 4000 {
		t.Errorf("the message has %d bytes and ends in %q", len(a.Message), a.Message[len(a.Message)-8:])
	}
}

func TestSendRedirects(t *testing.T) {
	t.Parallel()
	const password, header = "redirect-password", "redirect-header"
	var strangers atomic.Int32
	stranger := serve(t, func(http.ResponseWriter, *http.Request) { strangers.Add(1) })
	for _, c := range []struct {
		name     string
		status   int
		location string // {self} is the server, {other} another one
		follow   bool
		accepted bool
		message  string
	}{
		{"same server", 307, "/target", true, true, ""},
		{"same server, absolute", 308, "{self}/target", true, true, ""},
		{"same server, switched off", 307, "/target", false, false, "redirect to {self}/target"},
		{"the POST would become a GET", 302, "/target", true, false, "redirect to {self}/target"},
		{"moved permanently", 301, "{self}/target", true, false, "redirect to {self}/target"},
		{"other server", 307, "{other}/target", true, false, "redirect to {other}/target"},
		{"other server, login page", 302, "{other}/login?token=hush&x=", true, false, "redirect to {other}/login?token=xxxxx&x=xxxxx"},
		{"other scheme", 307, "ftp://127.0.0.1/", true, false, "redirect to ftp://127.0.0.1/"},
		{"in a circle", 307, "/", true, false, "redirect to {self}/"},
		{"nowhere", 307, "", true, false, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			var server *httptest.Server
			expand := func(s string) string {
				return strings.NewReplacer("{self}", server.URL, "{other}", stranger.URL).Replace(s)
			}
			server = serve(t, func(w http.ResponseWriter, r *http.Request) {
				body, _ := io.ReadAll(r.Body)
				user, word, _ := r.BasicAuth()
				if r.Method != http.MethodPost || string(body) != "a snappy block" || user != "edge" || word != password || r.Header.Get("X-Key") != header {
					t.Errorf("%s %s as %s with %q and key %q", r.Method, r.URL, user, body, r.Header.Get("X-Key"))
				}
				if r.URL.Path == "/target" {
					return
				}
				if c.location != "" {
					w.Header().Set("Location", expand(c.location))
				}
				w.WriteHeader(c.status)
			})
			s := newSender(t, server.URL+"/", func(u *upload.Config) {
				u.HTTPClientConfig.FollowRedirects = c.follow
				u.HTTPClientConfig.BasicAuth = &config.BasicAuth{Username: "edge", Password: password}
				u.Headers = map[string]config.Secret{"X-Key": header}
			})
			a := s.Send(t.Context(), request())
			switch {
			case c.accepted && (a.Verdict != upload.Accepted || a.Status != http.StatusOK):
				t.Errorf("got %+v", a)
			case !c.accepted && c.location != "" && (a.Verdict != upload.Unauthorized || a.Status != c.status || a.Message != expand(c.message)):
				t.Errorf("got %+v, want the message %q", a, expand(c.message))
			case c.location == "" && a.Verdict == upload.Accepted:
				t.Errorf("got %+v", a)
			}
			s.wantNoSecret(t, a, password, header, "hush")
		})
	}
	t.Cleanup(func() {
		if n := strangers.Load(); n != 0 {
			t.Errorf("%d requests went to another server", n)
		}
	})
}

// From http to https on the same host is the one change of server that is followed.
func TestSendRedirectToHTTPS(t *testing.T) {
	t.Parallel()
	ca := newAuthority(t)
	encrypted := ca.server(t, false, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) }))
	plain := serve(t, func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, encrypted.URL, http.StatusPermanentRedirect)
	})
	a := newSender(t, plain.URL, func(c *upload.Config) { c.HTTPClientConfig.TLSConfig.CAFile = ca.caFile(t) }).Send(t.Context(), request())
	if a.Verdict != upload.Accepted {
		t.Errorf("got %+v", a)
	}
	back := ca.server(t, false, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, plain.URL, http.StatusPermanentRedirect)
	}))
	a = newSender(t, back.URL, func(c *upload.Config) { c.HTTPClientConfig.TLSConfig.CAFile = ca.caFile(t) }).Send(t.Context(), request())
	if a.Verdict != upload.Unauthorized || a.Message != "redirect to "+plain.URL+"/" && a.Message != "redirect to "+plain.URL {
		t.Errorf("got %+v", a)
	}
}

// One connection serves all requests, whatever is answered.
func TestSendReusesConnections(t *testing.T) {
	t.Parallel()
	clients := map[string]bool{}
	status := http.StatusOK
	server := serve(t, func(w http.ResponseWriter, r *http.Request) {
		clients[r.RemoteAddr] = true
		_, _ = io.Copy(io.Discard, r.Body)
		w.WriteHeader(status)
		_, _ = io.WriteString(w, strings.Repeat("x", 40_000))
	})
	s := newSender(t, server.URL, nil)
	for _, status = range []int{200, 400, 500, 204, 429, 401, 200} {
		if a := s.Send(t.Context(), request()); a.Status != status {
			t.Errorf("got %+v, want status %d", a, status)
		}
	}
	if len(clients) != 1 {
		t.Errorf("%d connections", len(clients))
	}
}

func TestMetrics(t *testing.T) {
	t.Parallel()
	status := 0
	server := serve(t, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(status) })
	s := newSender(t, server.URL, nil)
	for _, status = range []int{200, 204, 204, 400, 400, 404, 500, 401} {
		s.Send(t.Context(), request())
	}
	bytes := `
# HELP latpush_remote_sent_bytes_total Bytes of compressed request bodies handed to the network, without headers and encryption.
# TYPE latpush_remote_sent_bytes_total counter
latpush_remote_sent_bytes_total{receiver="central"} 112
`
	if err := testutil.GatherAndCompare(s.registry, strings.NewReader(bytes), "latpush_remote_sent_bytes_total"); err != nil {
		t.Error(err)
	}
	server.Close() // whether bytes are still sent depends on when the client notices
	s.Send(t.Context(), request())
	canceled, cancel := context.WithCancel(t.Context())
	cancel()
	if a := s.Send(canceled, request()); a.Verdict != upload.Retry || !errors.Is(a.Err, context.Canceled) {
		t.Errorf("got %+v", a)
	}
	want := `
# HELP latpush_remote_requests_total Attempts to send a request, by HTTP status, or error, timeout or canceled where none came.
# TYPE latpush_remote_requests_total counter
latpush_remote_requests_total{code="200",receiver="central"} 1
latpush_remote_requests_total{code="204",receiver="central"} 2
latpush_remote_requests_total{code="400",receiver="central"} 2
latpush_remote_requests_total{code="401",receiver="central"} 1
latpush_remote_requests_total{code="404",receiver="central"} 1
latpush_remote_requests_total{code="500",receiver="central"} 1
latpush_remote_requests_total{code="canceled",receiver="central"} 1
latpush_remote_requests_total{code="error",receiver="central"} 1
# HELP latpush_remote_retries_total Attempts that repeated a request.
# TYPE latpush_remote_retries_total counter
latpush_remote_retries_total{receiver="central"} 0
# HELP latpush_remote_samples_accepted_total Samples and native histograms that the receiver has taken, by its own count where it gives one.
# TYPE latpush_remote_samples_accepted_total counter
latpush_remote_samples_accepted_total{receiver="central"} 90
# HELP latpush_remote_samples_rejected_total Samples and native histograms that the receiver has refused for good, by HTTP status.
# TYPE latpush_remote_samples_rejected_total counter
latpush_remote_samples_rejected_total{code="400",receiver="central"} 60
latpush_remote_samples_rejected_total{code="404",receiver="central"} 30
# HELP latpush_remote_samples_sent_total Samples and native histograms in all attempts, repeated ones included.
# TYPE latpush_remote_samples_sent_total counter
latpush_remote_samples_sent_total{receiver="central"} 300
`
	names := []string{
		"latpush_remote_requests_total", "latpush_remote_retries_total", "latpush_remote_samples_accepted_total", "latpush_remote_samples_rejected_total",
		"latpush_remote_samples_sent_total",
	}
	if err := testutil.GatherAndCompare(s.registry, strings.NewReader(want), names...); err != nil {
		t.Error(err)
	}
	if problems, err := testutil.GatherAndLint(s.registry); err != nil || len(problems) != 0 {
		t.Errorf("%v, %v", problems, err)
	}
	last := gaugeOf(t, s.registry, "latpush_remote_last_success_timestamp_seconds")
	if age := float64(time.Now().UnixMilli())/1e3 - last; age < 0 || age > 60 {
		t.Errorf("the last success was %f s ago", age)
	}
}

// gaugeOf gives the value of the only series of a gauge.
func gaugeOf(t *testing.T, g prometheus.Gatherer, name string) float64 {
	t.Helper()
	families, err := g.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() == name && len(f.GetMetric()) == 1 {
			return f.GetMetric()[0].GetGauge().GetValue()
		}
	}
	t.Fatalf("no gauge %s with one series", name)
	return 0
}

// A Client that is made anew, as when the configuration is loaded again, goes on counting where the old one was; one of another name counts by itself.
func TestMetricsAreShared(t *testing.T) {
	t.Parallel()
	server := serve(t, func(http.ResponseWriter, *http.Request) {})
	registry := prometheus.NewPedanticRegistry()
	for _, name := range []string{"a", "a", "b"} {
		c := upload.DefaultConfig()
		c.URL, c.Name = mustURL(t, server.URL), name
		client, err := upload.New(c, "1", slog.New(slog.DiscardHandler), registry)
		if err != nil {
			t.Fatal(err)
		}
		client.Send(t.Context(), request())
		client.Close()
	}
	want := `
# HELP latpush_remote_samples_accepted_total Samples and native histograms that the receiver has taken, by its own count where it gives one.
# TYPE latpush_remote_samples_accepted_total counter
latpush_remote_samples_accepted_total{receiver="a"} 60
latpush_remote_samples_accepted_total{receiver="b"} 30
`
	if err := testutil.GatherAndCompare(registry, strings.NewReader(want), "latpush_remote_samples_accepted_total"); err != nil {
		t.Error(err)
	}
}

// A registry that has another metric of one of the names refuses.
func TestMetricsThatClash(t *testing.T) {
	t.Parallel()
	registry := prometheus.NewRegistry()
	registry.MustRegister(prometheus.NewGauge(prometheus.GaugeOpts{Name: "latpush_remote_retries_total", Help: "Something else."}))
	c := upload.DefaultConfig()
	c.URL = mustURL(t, "http://127.0.0.1/")
	if _, err := upload.New(c, "1", slog.New(slog.DiscardHandler), registry); err == nil || !strings.Contains(err.Error(), "register metrics: ") {
		t.Errorf("got %v", err)
	}
}
