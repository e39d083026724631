package upload_test

import (
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/common/model"

	"github.com/latpush/latpush/internal/promwire"
	"github.com/latpush/latpush/internal/upload"
)

// outcome is what comes of one attempt, and how its samples are counted by then.
type outcome struct {
	verdict                       upload.Verdict
	accepted, rejected, unwritten int
}

// answer is one thing that a receiver, or the way to it, can answer to a request of 30 samples, and to one of 2.0 that has 4 native histograms beside.
type answer struct {
	name     string
	url      func(*testing.T) string
	change   func(*upload.Config)
	v1, v2   outcome
	status   int
	code     string // of the metrics; "" is the status
	after    time.Duration
	followed bool
}

const writtenHeader = "X-Prometheus-Remote-Write-%s-Written"

// written gives the headers of a receiver of 2.0.
func written(samples, histograms string) http.Header {
	h := http.Header{}
	h.Set(fmt.Sprintf(writtenHeader, "Samples"), samples)
	h.Set(fmt.Sprintf(writtenHeader, "Histograms"), histograms)
	h.Set(fmt.Sprintf(writtenHeader, "Exemplars"), "0")
	return h
}

// answering gives the URL of a server with one answer. In header values {self} stands for its own URL.
func answering(status int, header http.Header) func(*testing.T) string {
	return func(t *testing.T) string {
		var server *httptest.Server
		server = serve(t, func(w http.ResponseWriter, r *http.Request) {
			_, _ = io.Copy(io.Discard, r.Body)
			if r.URL.Path == "/target" {
				maps.Copy(w.Header(), written("30", "4"))
				w.WriteHeader(http.StatusNoContent)
				return
			}
			for name, values := range header {
				w.Header().Set(name, strings.ReplaceAll(values[0], "{self}", server.URL))
			}
			w.WriteHeader(status)
		})
		return server.URL + "/"
	}
}

// plain is the row of a status whose answer has nothing special.
func plain(status int, both outcome) answer {
	name := strings.TrimSpace(fmt.Sprint(status, " ", http.StatusText(status)))
	v2 := both
	if both.rejected > 0 {
		v2.rejected = 34
	}
	return answer{name: name, url: answering(status, nil), v1: both, v2: v2, status: status}
}

func retryAfter(value string) http.Header {
	return http.Header{"Retry-After": {value}, "Date": {"Mon, 02 Jan 2006 15:04:05 GMT"}}
}

func location(to string) http.Header { return http.Header{"Location": {to}} }

// answers lists all of them, in the order of the closing note.
func answers() []answer {
	accepted, rejected, rejected2 := outcome{upload.Accepted, 30, 0, 0}, outcome{upload.Rejected, 0, 30, 0}, outcome{upload.Rejected, 0, 34, 0}
	accepted2, unsupported, unsettled := outcome{upload.Accepted, 34, 0, 0}, outcome{verdict: upload.Unsupported}, outcome{verdict: upload.Rejected}
	retry, hold, halve := outcome{verdict: upload.Retry}, outcome{verdict: upload.Unauthorized}, outcome{verdict: upload.TooLarge}
	no429 := func(c *upload.Config) { c.QueueConfig.RetryOnRateLimit = false }
	noFollowing := func(c *upload.Config) { c.HTTPClientConfig.FollowRedirects = false }
	all := []answer{
		{name: "200 with Written headers, all written", url: answering(200, written("30", "4")), v1: accepted, v2: accepted2, status: 200},
		{name: "204 with Written headers, all written", url: answering(204, written("30", "4")), v1: accepted, v2: accepted2, status: 204},
		{name: "200 with Written headers, less written", url: answering(200, written("21", "1")), v1: accepted, v2: outcome{upload.Accepted, 22, 0, 12}, status: 200},
		{name: "200 with Written headers, nothing written", url: answering(200, written("0", "0")), v1: accepted, v2: outcome{upload.Accepted, 0, 0, 34}, status: 200},
		{name: "200 with Written headers that are no numbers", url: answering(200, written("-1", "all")), v1: accepted, v2: outcome{upload.Accepted, 0, 0, 34}, status: 200},
		{name: "200 without Written headers", url: answering(200, nil), v1: accepted, v2: unsupported, status: 200},
		{name: "204 without Written headers", url: answering(204, nil), v1: accepted, v2: unsupported, status: 204},
		{name: "299 without Written headers", url: answering(299, nil), v1: accepted, v2: unsupported, status: 299},
		{name: "301 to the same server", url: answering(301, location("{self}/target")), v1: hold, v2: hold, status: 301},
		{name: "302 to the same server", url: answering(302, location("/target")), v1: hold, v2: hold, status: 302},
		{name: "303 to the same server", url: answering(303, location("/target")), v1: hold, v2: hold, status: 303},
		plain(304, hold),
		{name: "307 to the same server", url: answering(307, location("/target")), v1: accepted, v2: accepted2, status: 204, followed: true},
		{name: "308 to the same server", url: answering(308, location("{self}/target")), v1: accepted, v2: accepted2, status: 204, followed: true},
		{name: "307 to the same server, follow_redirects: false", url: answering(307, location("/target")), change: noFollowing, v1: hold, v2: hold, status: 307},
		{name: "307 to another server", url: answering(307, location("http://other.example/")), v1: hold, v2: hold, status: 307},
		{name: "400 Bad Request", url: answering(400, nil), v1: rejected, v2: unsettled, status: 400},
		{name: "400 with Written headers", url: answering(400, written("29", "4")), v1: rejected, v2: unsettled, status: 400},
		plain(401, hold),
		plain(403, hold),
		plain(404, rejected),
		plain(407, hold),
		plain(408, rejected),
		plain(409, rejected),
		{name: "409 with Written headers", url: answering(409, written("29", "0")), v1: rejected, v2: outcome{upload.Rejected, 29, 5, 0}, status: 409},
		plain(413, halve),
		{name: "415 Unsupported Media Type", url: answering(415, nil), v1: rejected, v2: unsupported, status: 415},
		plain(422, rejected),
		plain(425, rejected),
		plain(429, retry),
		{name: "429 with Retry-After in seconds", url: answering(429, retryAfter("7")), v1: retry, v2: retry, status: 429, after: 7 * time.Second},
		{name: "429 with Retry-After as a date", url: answering(429, retryAfter("Mon, 02 Jan 2006 15:05:05 GMT")), v1: retry, v2: retry, status: 429, after: time.Minute},
		{name: "429 with Retry-After of a day", url: answering(429, retryAfter("86400")), v1: retry, v2: retry, status: 429, after: 10 * time.Minute},
		{name: "429, retry_on_http_429: false", url: answering(429, retryAfter("7")), change: no429, v1: rejected, v2: rejected2, status: 429},
	}
	for _, status := range []int{500, 501, 502, 503, 504, 599} {
		all = append(all, plain(status, retry))
	}
	return append(all, answer{name: "503 with Retry-After in seconds", url: answering(503, retryAfter("120")), v1: retry, v2: retry, status: 503, after: 2 * time.Minute})
}

// troubles lists what can happen instead of an answer.
func troubles() []answer {
	retry, accepted, unsupported := outcome{verdict: upload.Retry}, outcome{upload.Accepted, 30, 0, 0}, outcome{verdict: upload.Unsupported}
	raw := func(handle func(*net.TCPConn)) func(*testing.T) string {
		return func(t *testing.T) string { return rawServer(t, handle) }
	}
	return []answer{
		{name: "connection refused", url: func(t *testing.T) string { return "http://" + closedPort(t) }, v1: retry, v2: retry, code: "error"},
		{name: "no such name in DNS", url: func(*testing.T) string { return "http://receiver..example/" }, v1: retry, v2: retry, code: "error"},
		{name: "connection reset while the request is sent", url: raw(func(c *net.TCPConn) { _ = c.SetLinger(0) }), v1: retry, v2: retry, code: "error"},
		{name: "connection reset before an answer", url: raw(reset), v1: retry, v2: retry, code: "error"},
		{name: "connection closed in the head of an answer", url: raw(answerWith("HTTP/1.1 204 No C")), v1: retry, v2: retry, code: "error"},
		{
			name: "connection closed in the body of a 200", url: raw(answerWith("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nx")), v1: accepted, v2: unsupported, status: 200,
		},
		{name: "connection closed in the body of a 500", url: raw(answerWith("HTTP/1.1 500 X\r\nContent-Length: 9\r\n\r\nx")), v1: retry, v2: retry, status: 500},
		{name: "no HTTP", url: raw(answerWith("220 mail.example ESMTP\r\n")), v1: retry, v2: retry, code: "error"},
		{name: "no answer within remote_timeout", url: raw(func(c *net.TCPConn) { _, _ = io.Copy(io.Discard, c) }), change: brief, v1: retry, v2: retry, code: "timeout"},
		{name: "certificate of an unknown authority", url: func(t *testing.T) string {
			return newAuthority(t).server(t, false, http.NotFoundHandler()).URL
		}, v1: retry, v2: retry, code: "error"},
		{name: "certificate of another name", url: func(t *testing.T) string {
			s := httptest.NewUnstartedServer(http.NotFoundHandler())
			s.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
			s.StartTLS()
			t.Cleanup(s.Close)
			return s.URL
		}, change: func(c *upload.Config) { c.HTTPClientConfig.TLSConfig.ServerName = "other.test" }, v1: retry, v2: retry, code: "error"},
		{name: "no TLS where https is expected", url: func(t *testing.T) string {
			return "https" + strings.TrimPrefix(serve(t, func(http.ResponseWriter, *http.Request) {}).URL, "http")
		}, v1: retry, v2: retry, code: "error"},
		{name: "TLS where http is expected", url: func(t *testing.T) string {
			return "http" + strings.TrimPrefix(newAuthority(t).server(t, false, http.NotFoundHandler()).URL, "https")
		}, v1: outcome{upload.Rejected, 0, 30, 0}, v2: outcome{verdict: upload.Rejected}, status: 400},
	}
}

// What every answer means, with both protocols, and how it is counted. With -v it writes the list for people: answer, and what happens.
func TestEveryAnswer(t *testing.T) {
	t.Parallel()
	var list strings.Builder
	for _, a := range append(answers(), troubles()...) {
		row := fmt.Sprintf("%-52s", a.name)
		for _, k := range []struct {
			request promwire.Request
			want    outcome
		}{{request(), a.v1}, {request2(), a.v2}} {
			s := newSender(t, a.url(t), func(c *upload.Config) {
				c.RemoteTimeout = model.Duration(20 * time.Second)
				if a.change != nil {
					a.change(c)
				}
			})
			got := s.Send(t.Context(), k.request)
			counted := outcome{
				got.Verdict, sumOf(t, s.registry, "latpush_remote_samples_accepted_total"), sumOf(t, s.registry, "latpush_remote_samples_rejected_total"),
				sumOf(t, s.registry, "latpush_remote_samples_unwritten_total"),
			}
			if counted != k.want || got.Status != a.status || got.RetryAfter != a.after {
				t.Errorf("%s, %s: got %+v with status %d, Retry-After %s (%v)\nwant %+v with status %d, Retry-After %s", a.name, k.request.Protocol, counted, got.Status, got.RetryAfter,
					got.Err, k.want, a.status, a.after)
			}
			if (got.Err == nil) != (got.Verdict == upload.Accepted) {
				t.Errorf("%s: verdict %s with the error %v", a.name, got.Verdict, got.Err)
			}
			code := a.code
			if code == "" {
				code = fmt.Sprint(a.status)
			}
			if n := labelled(t, s.registry, "latpush_remote_requests_total", "code", code); n != 1 {
				t.Errorf("%s: %v attempts of code %s", a.name, n, code)
			}
			if unauthorized := gaugeOf(t, s.registry, "latpush_remote_unauthorized"); (unauthorized == 1) != (got.Verdict == upload.Unauthorized) {
				t.Errorf("%s: verdict %s and unauthorized %v", a.name, got.Verdict, unauthorized)
			}
			row += fmt.Sprintf(" | %-40s", consequence(got, counted, &a))
		}
		fmt.Fprintln(&list, row)
	}
	t.Logf("answer | what happens with 1.0 | with 2.0\n%s", list.String())
}

// consequence says in words what an answer leads to.
func consequence(a upload.Answer, counted outcome, row *answer) string {
	switch a.Verdict {
	case upload.Retry:
		words := "tried again after the backoff"
		if row.after > 0 {
			words = fmt.Sprintf("tried again after %s and jitter", row.after)
		}
		if a.Status >= 500 {
			words += "; quarantine if it lasts"
		}
		return words
	case upload.Accepted:
		switch {
		case row.followed:
			return "followed; accepted"
		case counted.unwritten > 0:
			return fmt.Sprintf("accepted, %d of %d counted as unwritten", counted.unwritten, counted.unwritten+counted.accepted)
		}
		return "accepted"
	case upload.Rejected:
		switch {
		case counted.rejected == 0:
			return "final; if 2.0 was never taken: once more as 1.0"
		case counted.accepted > 0:
			return fmt.Sprintf("final, %d of %d counted as accepted", counted.accepted, counted.accepted+counted.rejected)
		}
		return "final, counted, logged; next request"
	case upload.Unauthorized:
		return "held; tried every 30-90 s, or new secret"
	case upload.TooLarge:
		return "halved, down to one histogram"
	case upload.Unsupported:
		return "the same samples as 1.0; remembered"
	}
	return a.Verdict.String()
}
