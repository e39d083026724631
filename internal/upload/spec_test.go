package upload_test

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/common/config"

	"github.com/latpush/latpush/internal/promwire"
	"github.com/latpush/latpush/internal/upload"
)

// exchange is a delivery to a scripted receiver: what was sent, and what came of it.
type exchange struct {
	*sender
	*script
	answer upload.Answer
}

// exchanged delivers a request in a bubble of its own.
func exchanged(t *testing.T, r promwire.Request, steps ...step) (e exchange) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		e.sender, e.script = scripted(t, highest, steps...)
		a, err := e.Deliver(t.Context(), r, 0, nil)
		if err != nil {
			t.Error(err)
		}
		e.answer = a
	})
	return e
}

// The rules that the specifications of remote write 1.0 and 2.0-rc.4 have for a sender's HTTP, one row each. Those for what is in the body are promwire's, and
// whether samples wait, and in what order, the sender's.
func TestSpecification(t *testing.T) {
	t.Parallel()
	for _, rule := range []struct {
		spec  string
		level string
		text  string
		holds func(t *testing.T)
	}{
		{"1.0", "MUST", "send the message in the body of an HTTP POST to the URL that is configured", posts(request())},
		{"2.0", "MUST", "send the message in the body of an HTTP POST to the URL that is configured", posts(request2())},
		{"1.0", "MUST", "Content-Encoding: snappy", sends(request(), "Content-Encoding", "snappy")},
		{"2.0", "MUST", "Content-Encoding: snappy", sends(request2(), "Content-Encoding", "snappy")},
		{"1.0", "MUST", "Content-Type: application/x-protobuf", sends(request(), "Content-Type", "application/x-protobuf")},
		{"2.0", "SHOULD", "to 1.x receivers Content-Type: application/x-protobuf", sends(request(), "Content-Type", "application/x-protobuf")},
		{"2.0", "SHOULD", "otherwise with proto=io.prometheus.write.v2.Request", sends(request2(), "Content-Type", "application/x-protobuf;proto=io.prometheus.write.v2.Request")},
		{"1.0", "MUST", "User-Agent with name and version of the sender", agent(request())},
		{"2.0", "MUST", "User-Agent, which SHOULD follow RFC 9110", agent(request2())},
		{"1.0", "MUST", "X-Prometheus-Remote-Write-Version: 0.1.0", sends(request(), "X-Prometheus-Remote-Write-Version", "0.1.0")},
		{"2.0", "SHOULD", "X-Prometheus-Remote-Write-Version: 2.0.0", sends(request2(), "X-Prometheus-Remote-Write-Version", "2.0.0")},
		{"1.0", "MUST NOT", "let users configure reserved headers", reserves},
		{"2.0", "MUST NOT", "let users configure reserved headers", reserves},
		{"1.0", "MUST", "ignore the response body of a success", ignoresBody(request(), nil)},
		{"2.0", "MUST", "ignore the response body of a success", ignoresBody(request2(), written("30", "4"))},
		{"1.0", "MUST NOT", "interpret the error message, and SHOULD log it as is", logsWords(request())},
		{"2.0", "MUST NOT", "interpret the error message, and SHOULD log it as is", logsWords(request2())},
		{"1.0", "MUST", "retry on 5xx", retries5xx(request(), nil)},
		{"2.0", "MUST", "retry on 5xx", retries5xx(request2(), written("30", "4"))},
		{"1.0", "MUST", "use a backoff algorithm", backsOff(request(), nil)},
		{"2.0", "MUST", "use a backoff algorithm", backsOff(request2(), written("30", "4"))},
		{"1.0", "MUST NOT", "retry on 2xx", never(request(), 200, 299, upload.Accepted)},
		{"1.0", "MUST NOT", "retry on 4xx other than 429", never(request(), 400, 499, upload.Rejected)},
		{"2.0", "MUST NOT", "retry on 4xx other than 429", never(request2(), 400, 499, upload.Rejected)},
		{"1.0", "MAY", "retry on 429", retries429(request(), nil)},
		{"2.0", "MAY", "retry on 429", retries429(request2(), written("30", "4"))},
		{"2.0", "MAY", "heed Retry-After", func(t *testing.T) {
			e := exchanged(t, request2(), step{status: 429, retryAfter: "90"}, step{status: 503, retryAfter: "90"}, step{status: 204, header: written("30", "4")})
			if len(e.asked) != 3 || e.asked[1] < 90*time.Second || e.asked[2]-e.asked[1] < 90*time.Second {
				t.Errorf("attempts at %v", e.asked)
			}
		}},
		{"2.0", "MAY", "send again in another format on 415", func(t *testing.T) {
			if e := exchanged(t, request2(), step{status: 415}); e.answer.Verdict != upload.Unsupported || len(e.asked) != 1 {
				t.Errorf("got %+v after %d attempts", e.answer, len(e.asked))
			}
		}},
		{"2.0", "SHOULD", "expect 400 from 1.x receivers in place of 415", func(t *testing.T) {
			e := exchanged(t, request2(), step{status: 400})
			if n := sumOf(t, e.registry, "latpush_remote_samples_rejected_total"); n != 0 || len(e.log.lines(t)) != 0 {
				t.Errorf("%d samples are counted as lost that may yet be sent as 1.0:\n%s", n, e.log)
			}
		}},
		{"2.0", "SHOULD", "take a 2xx without any Written header for 415", func(t *testing.T) {
			if e := exchanged(t, request2(), step{status: 204}); e.answer.Verdict != upload.Unsupported || len(e.asked) != 1 {
				t.Errorf("got %+v after %d attempts", e.answer, len(e.asked))
			}
		}},
		{"2.0", "CAN", "take a missing Written header of a 2xx or 4xx for 0", func(t *testing.T) {
			for _, status := range []int{200, 409} {
				e := exchanged(t, request2(), step{status: status, header: http.Header{"X-Prometheus-Remote-Write-Samples-Written": {"30"}}})
				if n := sumOf(t, e.registry, "latpush_remote_samples_accepted_total"); n != 30 {
					t.Errorf("status %d: %d samples are counted as accepted", status, n)
				}
			}
		}},
		{"2.0", "MUST NOT", "assume the same of a receiver that is sent 1.0", func(t *testing.T) {
			e := exchanged(t, request(), step{status: 204})
			if n := sumOf(t, e.registry, "latpush_remote_samples_accepted_total"); n != 30 || e.answer.Verdict != upload.Accepted {
				t.Errorf("%d samples are counted as accepted, got %+v", n, e.answer)
			}
		}},
		{"2.0", "MUST NOT", "assume a version from response headers", func(t *testing.T) {
			h := written("30", "4")
			h.Set("X-Prometheus-Remote-Write-Version", "2.0.0")
			if e := exchanged(t, request(), step{status: 204, header: h}); e.answer.Written != nil || e.answer.Verdict != upload.Accepted {
				t.Errorf("with 1.0 got %+v", e.answer)
			}
			h = http.Header{"X-Prometheus-Remote-Write-Version": {"0.1.0"}}
			for name, values := range written("30", "4") {
				h[name] = values
			}
			if e := exchanged(t, request2(), step{status: 204, header: h}); e.answer.Verdict != upload.Accepted {
				t.Errorf("with 2.0 got %+v", e.answer)
			}
		}},
	} {
		t.Run(fmt.Sprintf("%s %s %s", rule.spec, rule.level, strings.ReplaceAll(rule.text, "/", "_")), func(t *testing.T) {
			t.Parallel()
			if rule.holds == nil {
				t.Fatal("nothing is checked")
			}
			rule.holds(t)
		})
	}
}

// reader is a transport that notes requests with their bodies.
type reader struct {
	request *http.Request
	body    []byte
}

func (n *reader) RoundTrip(r *http.Request) (*http.Response, error) {
	n.request = r
	n.body, _ = io.ReadAll(r.Body)
	return &http.Response{StatusCode: http.StatusBadRequest, Body: http.NoBody, Request: r}, nil
}

func posts(r promwire.Request) func(*testing.T) {
	return func(t *testing.T) {
		s := newSender(t, "http://receiver.example/api/v1/push?x=y", nil)
		var got reader
		s.Replace(&got, nil)
		s.Send(t.Context(), r)
		if got.request.Method != http.MethodPost || got.request.URL.String() != "http://receiver.example/api/v1/push?x=y" || string(got.body) != string(r.Body) {
			t.Errorf("got %s %s with %q", got.request.Method, got.request.URL, got.body)
		}
	}
}

func sends(r promwire.Request, name, value string) func(*testing.T) {
	return func(t *testing.T) {
		e := exchanged(t, r, step{status: 400})
		if got := e.headers[0][name]; len(got) != 1 || got[0] != value {
			t.Errorf("%s is %q", name, got)
		}
	}
}

// agent asks a real server, since the HTTP library sets this header late.
func agent(r promwire.Request) func(*testing.T) {
	return func(t *testing.T) {
		var got []string
		server := serve(t, func(_ http.ResponseWriter, r *http.Request) { got = r.Header["User-Agent"] })
		newSender(t, server.URL, nil).Send(t.Context(), r)
		if len(got) != 1 || got[0] != "latpush/1.2.3" {
			t.Errorf("User-Agent is %q", got)
		}
	}
}

func reserves(t *testing.T) {
	for _, name := range []string{"Content-Encoding", "content-type", "USER-AGENT", "X-Prometheus-Remote-Write-Version"} {
		for _, set := range []func(*upload.Config){
			func(c *upload.Config) { c.Headers = map[string]config.Secret{name: "x"} },
			func(c *upload.Config) {
				c.HTTPClientConfig.HTTPHeaders = headers(name, config.Header{Values: []string{"x"}})
			},
		} {
			c := upload.DefaultConfig()
			c.URL = mustURL(t, "http://receiver.example/")
			set(&c)
			if err := c.Validate(); err == nil {
				t.Errorf("%s can be set", name)
			}
		}
	}
}

func ignoresBody(r promwire.Request, h http.Header) func(*testing.T) {
	return func(t *testing.T) {
		e := exchanged(t, r, step{status: 200, header: h, words: "error: nothing was stored"})
		if e.answer.Verdict != upload.Accepted || e.answer.Message != "" || e.log.String() != "" {
			t.Errorf("got %+v and the log\n%s", e.answer, e.log)
		}
	}
}

func logsWords(r promwire.Request) func(*testing.T) {
	return func(t *testing.T) {
		for _, words := range []string{"out of order sample", "please retry later", "unsupported media type, too large, unauthorized", "{\"status\": \"ok\"}\nsecond line"} {
			e := exchanged(t, r, step{status: 422, words: words})
			if lines := e.log.lines(t); e.answer.Verdict != upload.Rejected || len(e.asked) != 1 || len(lines) != 1 || lines[0]["message"] != words {
				t.Errorf("%q: got %+v and the lines %v", words, e.answer, lines)
			}
		}
	}
}

func retries5xx(r promwire.Request, h http.Header) func(*testing.T) {
	return func(t *testing.T) {
		for status := 500; status <= 599; status++ {
			if e := exchanged(t, r, step{status: status}, step{status: 200, header: h}); len(e.asked) != 2 || e.answer.Verdict != upload.Accepted {
				t.Errorf("status %d: %d attempts, and %+v", status, len(e.asked), e.answer)
			}
		}
	}
}

func backsOff(r promwire.Request, h http.Header) func(*testing.T) {
	return func(t *testing.T) {
		e := exchanged(t, r, step{status: 500}, step{status: 500}, step{status: 500}, step{status: 500}, step{status: 200, header: h})
		for i := 2; i < len(e.asked); i++ {
			if e.asked[i]-e.asked[i-1] <= e.asked[i-1]-e.asked[i-2] {
				t.Errorf("attempts at %v", e.asked)
			}
		}
	}
}

// never demands that a range of statuses, less those that have a rule of their own, is answered with one attempt.
func never(r promwire.Request, from, to int, want upload.Verdict) func(*testing.T) {
	return func(t *testing.T) {
		for status := from; status <= to; status++ {
			verdict := want
			switch status {
			case 401, 403, 407, 429: // what waits for credentials is not repeated as it is
				continue
			case 413:
				verdict = upload.TooLarge
			case 415:
				if r.Protocol == promwire.V2 {
					verdict = upload.Unsupported
				}
			}
			if e := exchanged(t, r, step{status: status}); len(e.asked) != 1 || e.answer.Verdict != verdict {
				t.Errorf("status %d: %d attempts, and %+v", status, len(e.asked), e.answer)
			}
		}
	}
}

func retries429(r promwire.Request, h http.Header) func(*testing.T) {
	return func(t *testing.T) {
		if e := exchanged(t, r, step{status: 429}, step{status: 429}, step{status: 200, header: h}); len(e.asked) != 3 || e.answer.Verdict != upload.Accepted {
			t.Errorf("%d attempts, and %+v", len(e.asked), e.answer)
		}
	}
}
