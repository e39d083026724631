package endtoend

import (
	"bytes"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/prometheus/common/model"
)

// pushConfig is a configuration that counts the tests' own calls and pushes every second, with more keys in the entry of remote_write.
func pushConfig(t *testing.T, folder, url, more string) string {
	t.Helper()
	const name = "    name: main\n"
	return editConfig(t, configFile(t, folder, url, rareCalls), map[string]string{name: name + more})
}

// editConfig replaces pieces of a configuration file.
func editConfig(t *testing.T, path string, pieces map[string]string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for piece, replacement := range pieces {
		if !bytes.Contains(text, []byte(piece)) {
			t.Fatalf("the configuration has no %q", piece)
		}
		text = bytes.Replace(text, []byte(piece), []byte(replacement), 1)
	}
	if err := os.WriteFile(path, text, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// scripted is an agent whose receiver answers as the test says.
type scripted struct {
	t     *testing.T
	s     *server
	f     *front
	a     *runningAgent
	calls float64
}

func newScripted(t *testing.T, more string) *scripted {
	t.Helper()
	s := embedded(t)
	f := newFront(t, s.writeURL())
	d := &scripted{t: t, s: s, f: f, a: startAgent(t, pushConfig(t, t.TempDir(), f.url, more))}
	d.a.waitLog("source is running")
	d.work()
	d.s.expect(counted, d.calls)
	return d
}

// work makes calls that the agent counts.
func (d *scripted) work() {
	makeCalls(100)
	d.calls += 100
}

// part lets a part of the test fail for itself.
func (d *scripted) part(t *testing.T) {
	whole, server := d.t, d.s
	d.t, d.s = t, newServer(t, server.url)
	t.Cleanup(func() { d.t, d.s = whole, server })
}

// recover lets the receiver answer for itself and demands that every call arrives.
func (d *scripted) recover() {
	d.t.Helper()
	d.f.answer(nil)
	d.s.expect(counted, d.calls)
}

// end stops the agent and demands that the snapshot of every tick has arrived, whatever happened to the requests.
func (d *scripted) end() {
	d.t.Helper()
	d.a.stop()
	d.s.everyTick(1)
}

// everyTick demands the snapshots of all ticks of agents that have ended: each has its number, from 1 on in each of their lives.
func (s *server) everyTick(lives int) {
	s.t.Helper()
	last := model.SampleValue(0)
	for _, sample := range s.raw(`latpush_ticks_total{job="latpush"}`, time.Hour) {
		switch sample.Value {
		case last + 1:
		case 1:
			lives--
		default:
			s.t.Fatalf("the snapshot of tick %v is missing: there is %v at %v", last+1, sample.Value, sample.Timestamp.Time())
		}
		last = sample.Value
	}
	if lives != 1 {
		s.t.Errorf("there are %d lives less than there were", lives-1)
	}
}

// Whatever a receiver answers in between, what it did not store is sent again, and nothing that it may have stored is lost or counted twice.
func TestAnswersThatAreTriedAgain(t *testing.T) {
	if testing.Short() {
		t.Skip("many answers")
	}
	d := newScripted(t, "")
	for _, tt := range []struct {
		name  string
		reply reply
	}{
		{"500", reply{status: 500, text: "out of luck"}},
		{"503", reply{status: 503, text: "starting"}},
		{"500 although it is stored", reply{status: 500, text: "timeout behind me", stored: true}},
		{"no answer", reply{status: hangUp}},
		{"no answer although it is stored", reply{status: hangUp, stored: true}},
		{"429", reply{status: 429, text: "slow down"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			d.part(t)
			before, answered := d.f.got()
			d.f.answer(func(*arrival) *reply { return &tt.reply })
			d.work()
			d.f.waitAnswered(t, tt.reply.status, answered[tt.reply.status]+4)
			d.recover()
			after, _ := d.f.got()
			// It is the same request each time, until it is accepted.
			for i, a := range after[len(before) : len(before)+4] {
				if !slices.Equal(a.body, after[len(before)].body) {
					t.Errorf("attempt %d is another request", i)
				}
			}
		})
	}
	d.end()
}

// A receiver that says how long to wait is left alone for so long, in either form of Retry-After.
func TestRetryAfter(t *testing.T) {
	if testing.Short() {
		t.Skip("waits for seconds")
	}
	d := newScripted(t, "")
	for _, tt := range []struct {
		name   string
		status int
		value  func() string
	}{
		{"seconds", 429, func() string { return "3" }},
		{"date", 503, func() string { return time.Now().Add(4 * time.Second).UTC().Format(http.TimeFormat) }}, // at least three seconds
	} {
		t.Run(tt.name, func(t *testing.T) {
			d.part(t)
			var asked time.Time
			d.f.answer(func(*arrival) *reply {
				if !asked.IsZero() {
					return nil
				}
				asked = time.Now()
				return &reply{status: tt.status, header: map[string]string{"Retry-After": tt.value()}}
			})
			d.work()
			d.s.expect(counted, d.calls)
			arrivals, _ := d.f.got()
			i := slices.IndexFunc(arrivals, func(a *arrival) bool { return a.at.After(asked) })
			if i < 0 || arrivals[i].at.Sub(asked) < 3*time.Second {
				t.Errorf("asked to wait at %v, next request is %d of %d", asked, i, len(arrivals))
			}
		})
	}
	d.end()
}

// What a receiver refuses for good is not sent again, and the queue goes on. Receivers answer 400 and still store the valid rest.
func TestAnswersThatAreFinal(t *testing.T) {
	if testing.Short() {
		t.Skip("many answers")
	}
	d := newScripted(t, "")
	for _, status := range []int{400, 404, 409, 422} {
		t.Run(fmt.Sprint(status), func(t *testing.T) {
			d.part(t)
			var refused []byte
			d.f.answer(func(a *arrival) *reply {
				if refused != nil || len(a.series) == 0 {
					return nil
				}
				refused = a.body
				return &reply{status: status, text: fmt.Sprintf("reason %d of its own", status), stored: true}
			})
			d.work()
			d.s.expect(counted, d.calls)
			d.s.expect(fmt.Sprintf(`latpush_remote_samples_rejected_total{code="%d"} > bool 0`, status), 1)
			arrivals, _ := d.f.got()
			times := 0
			for _, a := range arrivals {
				if slices.Equal(a.body, refused) {
					times++
				}
			}
			if times != 1 {
				t.Errorf("the refused request came %d times", times)
			}
			d.a.waitLog(fmt.Sprintf("reason %d of its own", status))
		})
	}
	d.end()
}

// A receiver that takes only small requests gets small ones, each with whole histograms.
func TestTooLarge(t *testing.T) {
	if testing.Short() {
		t.Skip("several seconds")
	}
	d := newScripted(t, "")
	const most = 40 // samples; one histogram has 30
	d.f.answer(func(a *arrival) *reply {
		if a.samples() > most {
			return &reply{status: 413, text: "too large"}
		}
		return nil
	})
	d.work()
	d.s.expect(counted, d.calls)
	d.f.waitAnswered(t, http.StatusRequestEntityTooLarge, 1)
	d.s.checkHistogram("syscall_latency_seconds")
	arrivals, _ := d.f.got()
	for _, a := range arrivals {
		parts := len(a.series["syscall_latency_seconds_bucket"])
		if n := len(a.series["syscall_latency_seconds_count"]); parts != 28*n || len(a.series["syscall_latency_seconds_sum"]) != n {
			t.Errorf("a request has %d buckets of %d histograms", parts, n)
		}
	}
	d.recover()
	d.end()
}

// Credentials that are refused hold the queue, and a new password in its file is noticed at once.
func TestCredentialsAreReplaced(t *testing.T) {
	if testing.Short() {
		t.Skip("several seconds")
	}
	password := filepath.Join(t.TempDir(), "password")
	write := func(text string) {
		if err := os.WriteFile(password, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("first")
	d := newScripted(t, fmt.Sprintf("    basic_auth: {username: edge, password_file: %s}\n", password))
	for _, status := range []int{401, 403} {
		d.f.answer(func(a *arrival) *reply {
			request := http.Request{Header: a.header}
			if user, given, _ := request.BasicAuth(); user == "edge" && given == fmt.Sprint("password for ", status) {
				return nil
			}
			return &reply{status: status, text: "who are you"}
		})
		d.work()
		d.f.waitAnswered(t, status, 1)
		d.work()
		write(fmt.Sprint("password for ", status))
		begun := time.Now()
		d.s.expect(counted, d.calls)
		if took := time.Since(begun); took > 10*time.Second {
			t.Errorf("after %d a new password was noticed after %v", status, took)
		}
		if _, answered := d.f.got(); answered[status] > 2 {
			t.Errorf("refused credentials were tried %d times", answered[status])
		}
		d.s.expect(`max_over_time(latpush_remote_unauthorized[10m])`, 1)
		d.s.expect(`latpush_remote_unauthorized`, 0)
	}
	d.end()
}

// A receiver that does not know remote write 2.0, and says so or says nothing, is sent 1.0. That is remembered over a restart, and what found it out is
// not lost.
func TestFallback(t *testing.T) {
	if testing.Short() {
		t.Skip("several seconds")
	}
	for name, answer := range map[string]reply{
		"415":                        {status: 415, text: "unsupported media type"},
		"204 without a word":         {status: 204},
		"400 of one that never knew": {status: 400, text: "cannot unmarshal"},
	} {
		t.Run(name, func(t *testing.T) {
			s := embedded(t)
			f := newFront(t, s.writeURL())
			f.answer(func(a *arrival) *reply {
				if a.version == "2.0" {
					return &answer
				}
				return nil
			})
			config := pushConfig(t, t.TempDir(), f.url, "    protobuf_message: io.prometheus.write.v2.Request\n")
			a := startAgent(t, config)
			a.waitLog("source is running")
			makeCalls(40)
			s.expect(counted, 40)
			a.stop()
			checkVersions(t, f, 1)

			a = startAgent(t, config)
			a.waitLog("source is running")
			makeCalls(2)
			s.expect(counted, 2)
			a.stop()
			checkVersions(t, f, 1)
			samples := s.raw(`latpush_ticks_total{job="latpush"}`, time.Hour)
			if len(samples) < 2 || samples[0].Value != 1 {
				t.Errorf("the first tick did not arrive: %v", samples)
			}
		})
	}
}

// checkVersions demands that no more than the first requests were of 2.0.
func checkVersions(t *testing.T, f *front, most int) {
	t.Helper()
	arrivals, _ := f.got()
	for i, a := range arrivals {
		if (a.version == "2.0") != (i < most) {
			t.Errorf("request %d of %d is %s", i, len(arrivals), a.version)
		}
	}
}
