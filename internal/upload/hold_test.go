package upload_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/common/config"

	"github.com/latpush/latpush/internal/upload"
)

// A 5xx that lasts is handed back, once it has lasted for as long as the caller has patience and three times at least. Anything else starts the measure again.
func TestDeliverPatience(t *testing.T) {
	t.Parallel()
	ok, bad, away, busy, who := step{status: 204}, step{status: 500}, step{words: "no route"}, step{status: 429}, step{status: 401}
	second := time.Second
	for _, c := range []struct {
		name     string
		patience time.Duration
		steps    []step
		asked    []time.Duration // when each attempt is made; the pauses are 1 s
		status   int
	}{
		{"for ever", 0, []step{bad, bad, bad, bad, bad, bad, bad, ok}, []time.Duration{0, second, 2 * second, 3 * second, 4 * second, 5 * second, 6 * second, 7 * second}, 204},
		{"three at least", 1, []step{bad}, []time.Duration{0, second, 2 * second}, 500},
		{"as long as there is patience", 5 * second, []step{bad}, []time.Duration{0, second, 2 * second, 3 * second, 4 * second, 5 * second}, 500},
		{"it passes", 3 * second, []step{bad, bad, bad, ok}, []time.Duration{0, second, 2 * second, 3 * second}, 204},
		{"any 5xx", 2 * second, []step{bad, {status: 502}, {status: 503}}, []time.Duration{0, second, 2 * second}, 503},
		{"a network error between", 2 * second, []step{bad, bad, away, bad}, []time.Duration{0, second, 2 * second, 3 * second, 4 * second, 5 * second}, 500},
		{"429 between", 2 * second, []step{bad, bad, busy, bad}, []time.Duration{0, second, 2 * second, 3 * second, 4 * second, 5 * second}, 500},
		{"401 between", 2 * second, []step{bad, bad, who, bad}, []time.Duration{0, second, 2 * second, 32 * second, 33 * second, 34 * second}, 500},
		{"the receiver asks for time", 2 * second, []step{{status: 503, retryAfter: "60"}}, []time.Duration{0, 60 * second, 120 * second}, 503},
		{"network errors only", second, []step{away, away, away, away, ok}, []time.Duration{0, second, 2 * second, 3 * second, 4 * second}, 204},
		{"final answer", second, []step{bad, {status: 400}}, []time.Duration{0, second}, 400},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				s, r := scripted(t, lowest, c.steps...)
				a, err := s.Deliver(t.Context(), request(), c.patience, nil)
				if err != nil || a.Status != c.status || (a.Status >= 500) != (a.Verdict == upload.Retry) {
					t.Errorf("got %+v, %v", a, err)
				}
				if fmt.Sprint(r.asked) != fmt.Sprint(c.asked) {
					t.Errorf("attempts at %v, want %v", r.asked, c.asked)
				}
			})
		})
	}
}

// Each delivery has a measure of its own.
func TestDeliverPatienceStartsAnew(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s, r := scripted(t, lowest, step{status: 500})
		for i := range 3 {
			if a, err := s.Deliver(t.Context(), request(), time.Second, nil); err != nil || a.Verdict != upload.Retry || len(r.asked) != 3*(i+1) {
				t.Errorf("got %+v, %v after %d attempts", a, err, len(r.asked))
			}
		}
	})
}

// What another request may come through in place of is handed back at once.
func TestDeliverHandsBack(t *testing.T) {
	t.Parallel()
	for status, verdict := range map[int]upload.Verdict{413: upload.TooLarge, 415: upload.Unsupported, 204: upload.Unsupported, 400: upload.Rejected} {
		synctest.Test(t, func(t *testing.T) {
			s, r := scripted(t, lowest, step{status: status})
			if a, err := s.Deliver(t.Context(), request2(), 0, nil); err != nil || a.Verdict != verdict || len(r.asked) != 1 {
				t.Errorf("status %d: got %+v, %v after %d attempts", status, a, err, len(r.asked))
			}
		})
	}
}

// guard is a transport that accepts one password, which is in a file, and counts the attempts.
type guard struct {
	want  string
	asked []time.Duration
	begin time.Time
}

func (g *guard) RoundTrip(r *http.Request) (*http.Response, error) {
	g.asked = append(g.asked, time.Since(g.begin))
	_, _ = io.Copy(io.Discard, r.Body)
	status := http.StatusUnauthorized
	if _, password, _ := r.BasicAuth(); password == g.want {
		status = http.StatusNoContent
	}
	return &http.Response{StatusCode: status, Body: http.NoBody, Request: r}, nil
}

// holding gives a sender whose password is in a file, and the guard that judges it.
func holding(t *testing.T, file string) (*sender, *guard) {
	t.Helper()
	g := &guard{want: "new", begin: time.Now()}
	s := newSender(t, "http://receiver.example/", func(c *upload.Config) {
		c.HTTPClientConfig.BasicAuth = &config.BasicAuth{Username: "edge", PasswordFile: file}
	})
	s.Replace(authenticated{g, file}, highest) // 90 s
	return s, g
}

// authenticated adds the password that is in the file, as the transport does that it stands for.
type authenticated struct {
	next http.RoundTripper
	file string
}

func (a authenticated) RoundTrip(r *http.Request) (*http.Response, error) {
	password, err := os.ReadFile(a.file)
	if err != nil {
		return nil, err
	}
	r.SetBasicAuth("edge", strings.TrimSpace(string(password)))
	return a.next.RoundTrip(r)
}

// Refused credentials hold the request. It goes out at once when the file with the password has changed, and otherwise the receiver is asked now and then.
func TestDeliverHoldsUntilSecretChanges(t *testing.T) {
	t.Parallel()
	second := time.Second
	for _, c := range []struct {
		name    string
		changes map[time.Duration]string // what is written when; "" removes the file
		asked   []time.Duration
	}{
		{"new password", map[time.Duration]string{10500 * time.Millisecond: "new"}, []time.Duration{0, 11 * second}},
		{"the same password again", map[time.Duration]string{10500 * time.Millisecond: "old", 100500 * time.Millisecond: "new"}, []time.Duration{0, 90 * second, 101 * second}},
		{"two wrong ones", map[time.Duration]string{3500 * time.Millisecond: "wrong", 7500 * time.Millisecond: "new"}, []time.Duration{0, 4 * second, 8 * second}},
		{"removed for a while", map[time.Duration]string{3500 * time.Millisecond: "", 9500 * time.Millisecond: "new"}, []time.Duration{0, 16 * second}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			file := writeFile(t, "password", "old")
			synctest.Test(t, func(t *testing.T) {
				s, g := holding(t, file)
				for at, text := range c.changes {
					time.AfterFunc(at, func() {
						if text == "" {
							_ = os.Remove(file)
							return
						}
						_ = os.WriteFile(file, []byte(text), 0o600)
					})
				}
				a, err := s.Deliver(t.Context(), request(), 0, nil)
				if err != nil || a.Verdict != upload.Accepted {
					t.Errorf("got %+v, %v", a, err)
				}
				if fmt.Sprint(g.asked) != fmt.Sprint(c.asked) {
					t.Errorf("attempts at %v, want %v", g.asked, c.asked)
				}
				if n := gaugeOf(t, s.registry, "latpush_remote_unauthorized"); n != 0 {
					t.Errorf("unauthorized is %v", n)
				}
			})
		})
	}
}

// A stop ends the wait, and while it lasts the metric says so.
func TestDeliverHoldEnds(t *testing.T) {
	t.Parallel()
	file := writeFile(t, "password", "old")
	synctest.Test(t, func(t *testing.T) {
		s, g := holding(t, file)
		ctx, cancel := context.WithTimeout(t.Context(), 20500*time.Millisecond)
		defer cancel()
		a, err := s.Deliver(ctx, request(), time.Second, nil)
		if took := time.Since(g.begin); err == nil || a.Verdict != upload.Unauthorized || took != 20500*time.Millisecond || len(g.asked) != 1 {
			t.Errorf("got %+v, %v after %s and %d attempts", a, err, took, len(g.asked))
		}
		if n := gaugeOf(t, s.registry, "latpush_remote_unauthorized"); n != 1 {
			t.Errorf("unauthorized is %v", n)
		}
	})
}
