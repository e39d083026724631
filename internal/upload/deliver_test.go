package upload_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"math"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/latpush/latpush/internal/upload"
)

// step is one answer of a scripted receiver; status 0 is a network error.
type step struct {
	status     int
	retryAfter string
	words      string
	header     http.Header // beside Retry-After
}

// script is a receiver that answers step by step, the last step for ever, and notes when it was asked.
type script struct {
	steps   []step
	asked   []time.Duration // since the first attempt
	headers []http.Header   // of each attempt
	begin   time.Time
}

func (s *script) RoundTrip(r *http.Request) (*http.Response, error) {
	if len(s.asked) == 0 {
		s.begin = time.Now()
	}
	now := s.steps[min(len(s.asked), len(s.steps)-1)]
	s.asked, s.headers = append(s.asked, time.Since(s.begin)), append(s.headers, r.Header)
	_, _ = io.Copy(io.Discard, r.Body)
	r.Body.Close()
	if now.status == 0 {
		return nil, errors.New(now.words)
	}
	h := http.Header{}
	maps.Copy(h, now.header)
	if now.retryAfter != "" {
		h.Set("Retry-After", now.retryAfter)
	}
	return &http.Response{StatusCode: now.status, Header: h, Body: io.NopCloser(strings.NewReader(now.words)), Request: r}, nil
}

func lowest(int64) int64    { return 0 }
func highest(n int64) int64 { return n - 1 }

// scripted gives a sender to a scripted receiver, to be used in a bubble.
func scripted(t *testing.T, random func(int64) int64, steps ...step) (*sender, *script) {
	t.Helper()
	r := &script{steps: steps}
	s := newSender(t, "http://receiver.example/", nil)
	s.Replace(r, random)
	return s, r
}

func TestDeliver(t *testing.T) {
	t.Parallel()
	second := time.Second
	for _, c := range []struct {
		name    string
		steps   []step
		lowest  []time.Duration // when each attempt is made if all random numbers are the lowest
		highest []time.Duration
		status  int
	}{
		{"accepted at once", []step{{status: 204}}, []time.Duration{0}, []time.Duration{0}, 204},
		{"rejected at once", []step{{status: 400}}, []time.Duration{0}, []time.Duration{0}, 400},
		{
			"each kind of trouble",
			[]step{{status: 503}, {words: "no route"}, {status: 429}, {status: 204}},
			[]time.Duration{0, second, 2 * second, 3 * second},
			[]time.Duration{0, 2 * second, 6 * second, 14 * second},
			204,
		},
		{"trouble, then rejected", []step{{status: 500}, {status: 404}}, []time.Duration{0, second}, []time.Duration{0, 2 * second}, 404},
		{
			"longest wait",
			[]step{{status: 500}, {status: 500}, {status: 500}, {status: 500}, {status: 500}, {status: 500}, {status: 500}, {status: 500}, {status: 204}},
			[]time.Duration{0, second, 2 * second, 3 * second, 4 * second, 5 * second, 6 * second, 7 * second, 8 * second},
			[]time.Duration{0, 2 * second, 6 * second, 14 * second, 30 * second, 62 * second, 122 * second, 182 * second, 242 * second},
			204,
		},
		{
			"the receiver asks for seconds",
			[]step{{status: 429, retryAfter: "7"}, {status: 503, retryAfter: "100"}, {status: 204}},
			[]time.Duration{0, 7 * second, 107 * second},
			[]time.Duration{0, 9 * second, 113 * second},
			204,
		},
		{
			"the receiver asks for too much",
			[]step{{status: 429, retryAfter: "86400"}, {status: 204}},
			[]time.Duration{0, 600 * second},
			[]time.Duration{0, 602 * second},
			204,
		},
		// The bubble's clock starts at midnight UTC of 1 January 2000.
		{
			"the receiver asks for a date",
			[]step{{status: 429, retryAfter: "Sat, 01 Jan 2000 00:01:30 GMT"}, {status: 204}},
			[]time.Duration{0, 90 * second},
			[]time.Duration{0, 92 * second},
			204,
		},
		{
			"the receiver asks for a date that is past",
			[]step{{status: 429, retryAfter: "Fri, 31 Dec 1999 00:00:00 GMT"}, {status: 204}},
			[]time.Duration{0, second},
			[]time.Duration{0, 2 * second},
			204,
		},
		{
			"credentials refused",
			[]step{{status: 401}, {status: 403}, {status: 204}},
			[]time.Duration{0, 30 * second, 60 * second},
			[]time.Duration{0, 90 * second, 180 * second},
			204,
		},
	} {
		for name, random := range map[string]func(int64) int64{"lowest": lowest, "highest": highest} {
			t.Run(c.name+", "+name, func(t *testing.T) {
				t.Parallel()
				synctest.Test(t, func(t *testing.T) {
					s, r := scripted(t, random, c.steps...)
					a, err := s.Deliver(t.Context(), request(), 0, nil)
					if err != nil || a.Status != c.status || (a.Verdict == upload.Accepted) != (c.status == 204) {
						t.Errorf("got %+v, %v", a, err)
					}
					want := c.lowest
					if name == "highest" {
						want = c.highest
					}
					if fmt.Sprint(r.asked) != fmt.Sprint(want) {
						t.Errorf("attempts at %v, want %v", r.asked, want)
					}
					if n := counterOf(t, s.registry, "latpush_remote_retries_total"); n != float64(len(c.steps)-1) {
						t.Errorf("%v retries are counted", n)
					}
				})
			})
		}
	}
}

func TestDeliverEndsWithContext(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s, r := scripted(t, lowest, step{status: 503, retryAfter: "300", words: "later"})
		ctx, cancel := context.WithTimeout(t.Context(), 301*time.Second)
		defer cancel()
		begin := time.Now()
		a, err := s.Deliver(ctx, request(), 0, nil)
		if took := time.Since(begin); took != 301*time.Second || len(r.asked) != 2 {
			t.Errorf("it took %s and %d attempts", took, len(r.asked))
		}
		if !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "deliver to central: ") || a.Verdict != upload.Retry || a.Message != "later" {
			t.Errorf("got %+v, %v", a, err)
		}
	})
}

func TestDeliverGivesCause(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s, r := scripted(t, lowest, step{status: 401})
		stopped := errors.New("the agent stops")
		ctx, cancel := context.WithCancelCause(t.Context())
		time.AfterFunc(time.Second, func() { cancel(stopped) })
		a, err := s.Deliver(ctx, request(), 0, nil)
		if !errors.Is(err, stopped) || a.Verdict != upload.Unauthorized || len(r.asked) != 1 {
			t.Errorf("got %+v, %v after %d attempts", a, err, len(r.asked))
		}
		a, err = s.Deliver(ctx, request(), 0, nil)
		if !errors.Is(err, stopped) || a.Verdict != upload.Retry || len(r.asked) != 1 {
			t.Errorf("with a context that is over: got %+v, %v after %d attempts", a, err, len(r.asked))
		}
	})
}

// Each attempt but the first is asked for, and not made if it is refused.
func TestDeliverAsksBeforeEachFurtherAttempt(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s, r := scripted(t, lowest, step{status: 429}, step{status: 429}, step{status: 503})
		short, asked := errors.New("no budget"), 0
		again := func(context.Context) error {
			if asked++; asked != len(r.asked) {
				t.Errorf("asked %d times after %d attempts", asked, len(r.asked))
			}
			if asked == 3 {
				return short
			}
			return nil
		}
		a, err := s.Deliver(t.Context(), request(), 0, again)
		if !errors.Is(err, short) || a.Status != 503 || len(r.asked) != 3 {
			t.Errorf("got %+v, %v after %d attempts", a, err, len(r.asked))
		}
	})
}

// Trouble is logged when it changes, not with each attempt; a refusal is logged once though requests are accepted between.
func TestDeliverLogsChanges(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var steps []step
		for range 20 {
			steps = append(steps, step{status: 503, words: "starting"})
		}
		steps = append(steps, step{status: 503, words: "nearly\nthere"}, step{words: "no route"}, step{words: "no route"}, step{status: 401, words: "who?"}, step{status: 401, words: "who?"})
		steps = append(steps, step{status: 200}, step{status: 200}, step{status: 400, words: "bad"}, step{status: 200}, step{status: 400, words: "bad"}, step{status: 400, words: "worse"}, step{status: 200})
		s, r := scripted(t, lowest, steps...)
		for len(r.asked) < len(steps) {
			if _, err := s.Deliver(t.Context(), request(), 0, nil); err != nil {
				t.Fatal(err)
			}
		}
		var got []string
		for _, l := range s.log.lines(t) {
			got = append(got, fmt.Sprint(l["level"], " ", l["status"], " ", l["message"], " ", l["error"]))
		}
		want := []string{
			"WARN 503 starting <nil>", "WARN 503 nearly\nthere <nil>", "WARN <nil> <nil> no route", "ERROR 401 who? <nil>",
			"INFO <nil> <nil> <nil>", "ERROR 400 bad <nil>", "ERROR 400 worse <nil>",
		}
		if fmt.Sprintf("%q", got) != fmt.Sprintf("%q", want) {
			t.Errorf("got the lines\n%q\nwant\n%q", got, want)
		}
	})
}

// A refusal that goes on is logged again after an hour.
func TestRefusalIsRemembered(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s, _ := scripted(t, lowest, step{status: 400, words: "bad"})
		for range 121 { // two hours of half minutes
			s.Send(t.Context(), request())
			time.Sleep(time.Minute)
		}
		if n := len(s.log.lines(t)); n != 3 {
			t.Errorf("%d lines", n)
		}
	})
}

func TestPauseIsSpread(t *testing.T) {
	t.Parallel()
	c := upload.DefaultConfig()
	c.URL = mustURL(t, "http://127.0.0.1/")
	client, err := upload.New(c, "1", slog.New(slog.DiscardHandler), nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, k := range []struct {
		attempts          int
		a                 upload.Answer
		shortest, longest time.Duration
	}{
		{1, upload.Answer{}, time.Second, 2 * time.Second},
		{4, upload.Answer{}, time.Second, 16 * time.Second},
		{6, upload.Answer{}, time.Second, time.Minute},
		{math.MaxInt, upload.Answer{}, time.Second, time.Minute},
		{1, upload.Answer{RetryAfter: time.Minute}, time.Minute, 62 * time.Second},
		{9, upload.Answer{Verdict: upload.Unauthorized}, 30 * time.Second, 90 * time.Second},
	} {
		low, high := time.Duration(math.MaxInt64), time.Duration(0)
		for range 2_000 {
			p := client.Pause(k.attempts, &k.a)
			low, high = min(low, p), max(high, p)
		}
		margin := (k.longest - k.shortest) / 50
		if low < k.shortest || high > k.longest || low > k.shortest+margin || high < k.longest-margin {
			t.Errorf("after %d attempts: %s to %s, want %s to %s", k.attempts, low, high, k.shortest, k.longest)
		}
	}
}

func TestRetryAfter(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)
	in := func(d time.Duration) string { return now.Add(d).Format(http.TimeFormat) }
	for _, c := range []struct {
		value, date string
		want        time.Duration
	}{
		{"", "", 0},
		{"0", "", 0},
		{"30", "", 30 * time.Second},
		{" 30 ", "", 30 * time.Second},
		{"600", "", 10 * time.Minute},
		{"601", "", 10 * time.Minute},
		{"99999999999999999999999", "", 10 * time.Minute},
		{"-5", "", 0},
		{"1.5", "", 0},
		{"soon", "", 0},
		{in(time.Minute), "", time.Minute},
		{in(-time.Minute), "", 0},
		{in(24 * time.Hour), "", 10 * time.Minute},
		{in(0), "soon", 0},
		// The clock of this host is a year behind, or ahead: only the receiver's two dates count.
		{in(8760*time.Hour + time.Minute), in(8760 * time.Hour), time.Minute},
		{in(-8760*time.Hour + time.Minute), in(-8760 * time.Hour), time.Minute},
		{"Sunday, 22-Nov-26 12:00:20 GMT", in(0), 20 * time.Second},
	} {
		h := http.Header{}
		h.Set("Retry-After", c.value)
		h.Set("Date", c.date)
		if got := upload.RetryAfter(h, now); got != c.want {
			t.Errorf("Retry-After %q at %q: got %s, want %s", c.value, c.date, got, c.want)
		}
	}
}

func TestVerdictString(t *testing.T) {
	t.Parallel()
	for v, want := range map[upload.Verdict]string{
		upload.Retry: "retry", upload.Accepted: "accepted", upload.Rejected: "rejected", upload.Unauthorized: "unauthorized",
		upload.TooLarge: "too large", upload.Unsupported: "unsupported", 9: "Verdict(9)",
	} {
		if v.String() != want {
			t.Errorf("got %s, want %s", v, want)
		}
	}
}

// counterOf gives the value of the only series of a counter.
func counterOf(t *testing.T, g prometheus.Gatherer, name string) float64 {
	t.Helper()
	families, err := g.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() == name && len(f.GetMetric()) == 1 {
			return f.GetMetric()[0].GetCounter().GetValue()
		}
	}
	t.Fatalf("no counter %s with one series", name)
	return 0
}
