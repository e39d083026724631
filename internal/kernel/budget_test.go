package kernel

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"
)

// hostCPU is a source of which the programs take a share of the CPU that changes with time.
type hostCPU struct {
	label   string
	account account
	load    func(time.Duration) float64 // the share, by the time since the beginning
	began   time.Time

	on       bool      // the programs are attached
	measured time.Time // since when the statistics count
	history  []string
	refuse   error // what attaching again says
}

func (h *hostCPU) name() string    { return h.label }
func (h *hostCPU) costs() *account { return &h.account }

func (h *hostCPU) begin() bool {
	h.measured = time.Now()
	return h.on
}

// used integrates the load in steps of a millisecond.
func (h *hostCPU) used() (u usage, attached bool) {
	for at := h.measured; at.Before(time.Now()); at = at.Add(time.Millisecond) {
		u.time += time.Duration(h.load(at.Sub(h.began)) * float64(time.Millisecond))
	}
	u.runs = uint64(u.time / 100)
	return u, h.on
}

func (h *hostCPU) detach(why error) error {
	h.on = false
	h.history = append(h.history, fmt.Sprintf("%v detached", time.Since(h.began).Round(time.Second)))
	return nil
}

func (h *hostCPU) attachAgain() (string, error) {
	if h.refuse != nil {
		h.history = append(h.history, fmt.Sprintf("%v refused", time.Since(h.began).Round(time.Second)))
		return "", h.refuse
	}
	h.on = true
	h.history = append(h.history, fmt.Sprintf("%v attached", time.Since(h.began).Round(time.Second)))
	return "", nil
}

// switched counts how long the statistics were on.
type switched struct {
	since time.Time
	on    *time.Duration
}

func (s switched) Close() error {
	*s.on += time.Since(s.since)
	return nil
}

// oversee runs an overseer over sources for a time of which nothing passes, and returns how long the statistics were on.
func oversee(t *testing.T, length time.Duration, sources ...*hostCPU) (on time.Duration) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		o := &overseer{
			log: slog.New(slog.DiscardHandler), timing: defaultTiming(), lock: &sync.Mutex{},
			statistics: func() (io.Closer, error) { return switched{time.Now(), &on}, nil },
			sources: func() (all []metered) {
				for _, s := range sources {
					all = append(all, s)
				}
				return all
			},
		}
		for _, s := range sources {
			s.account = newAccount(o.timing, s.account.bound, time.Now())
			s.began, s.on = time.Now(), true
		}
		ctx, cancel := context.WithTimeout(t.Context(), length)
		defer cancel()
		o.run(ctx)
	})
	return on
}

func steady(share float64) func(time.Duration) float64 {
	return func(time.Duration) float64 { return share }
}

// during is a share in some times and nothing in others.
func during(share float64, busy func(time.Duration) bool) func(time.Duration) float64 {
	return func(at time.Duration) float64 {
		if busy(at) {
			return share
		}
		return 0
	}
}

// parseHistory returns when something happened, in seconds.
func parseHistory(t *testing.T, history []string, what string) (at []time.Duration) {
	t.Helper()
	for _, line := range history {
		when, did, _ := strings.Cut(line, " ")
		d, err := time.ParseDuration(when)
		if err != nil {
			t.Fatal(err)
		}
		if did == what {
			at = append(at, d)
		}
	}
	return at
}

func TestBudget(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name         string
		bound        Cores
		load         func(time.Duration) float64
		length       time.Duration
		from, to     time.Duration // of the first detaching; 0: never
		leastCPU     float64       // seconds
		mostCPU      float64
		detachedTime time.Duration // about
	}{
		{name: "within", bound: 0.01, load: steady(0.009), length: 3 * time.Hour, leastCPU: 96, mostCPU: 98},
		{name: "nothing", bound: 0.01, load: steady(0), length: time.Hour},
		{name: "a little over", bound: 0.01, load: steady(0.0105), length: 100 * time.Second, from: time.Minute, to: 63 * time.Second},
		{name: "far over", bound: 0.01, load: steady(0.11), length: time.Minute, from: 3 * time.Second, to: 11 * time.Second},
		{name: "a whole CPU", bound: 0.01, load: steady(1), length: time.Minute, from: 3 * time.Second, to: 11 * time.Second},
		{name: "more than a CPU is allowed", bound: 2, load: steady(1.9), length: 10 * time.Minute, leastCPU: 1120, mostCPU: 1141},
		{name: "more than that", bound: 2, load: steady(2.1), length: 2 * time.Minute, from: time.Minute, to: 63 * time.Second},
		{name: "no bound", bound: 0, load: steady(3), length: 10 * time.Minute, leastCPU: 1770, mostCPU: 1801},
		{
			name: "a burst of a second", bound: 0.01, length: time.Hour,
			load: during(0.5, func(at time.Duration) bool { return at%(5*time.Minute) < time.Second }),
		},
		{
			name: "half of the time", bound: 0.01, length: 3 * time.Minute, from: time.Minute, to: 2 * time.Minute,
			load: during(0.05, func(at time.Duration) bool { return at%(20*time.Second) < 10*time.Second }),
		},
		{
			name: "from half an hour on", bound: 0.01, length: time.Hour, from: 30*time.Minute + 3*time.Second, to: 31 * time.Minute,
			load: during(0.02, func(at time.Duration) bool { return at > 30*time.Minute }),
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			s := &hostCPU{label: "syscalls", account: account{bound: test.bound}, load: test.load}
			on := oversee(t, test.length, s)
			detached := parseHistory(t, s.history, "detached")
			switch {
			case test.to == 0 && len(detached) > 0:
				t.Errorf("%v", s.history)
			case test.to > 0 && (len(detached) == 0 || detached[0] < test.from || detached[0] > test.to):
				t.Errorf("%v, want it detached between %v and %v", s.history, test.from, test.to)
			}
			if cpu := s.account.cpu; test.mostCPU > 0 && (cpu < test.leastCPU || cpu > test.mostCPU) {
				t.Errorf("%.2f s of CPU time, want between %v and %v", cpu, test.leastCPU, test.mostCPU)
			}
			if on > test.length/8 {
				t.Errorf("the statistics were on for %v of %v", on, test.length)
			}
		})
	}
}

// The statistics are on for a fiftieth of the time, and never in the rhythm of anything.
func TestWindowsAreShortAndRare(t *testing.T) {
	t.Parallel()
	var at []time.Duration
	s := &hostCPU{label: "softirq", account: account{bound: 0.01}, load: steady(0.001)}
	began := time.Time{}
	s.load = func(time.Duration) float64 {
		if began.IsZero() {
			began = s.began
		}
		if n := len(at); n == 0 || s.measured.Sub(began) != at[n-1] {
			at = append(at, s.measured.Sub(began))
		}
		return 0.001
	}
	on := oversee(t, time.Hour, s)
	if on < 60*time.Second || on > 85*time.Second {
		t.Errorf("the statistics were on for %v of an hour, want about 72s", on)
	}
	if len(at) < 600 || len(at) > 850 {
		t.Errorf("%d windows in an hour, want about 720", len(at))
	}
	var phases [10]int // within a second
	for _, when := range at {
		phases[when%time.Second/(100*time.Millisecond)]++
	}
	if least := slices.Min(phases[:]); least < len(at)/30 {
		t.Errorf("%d windows have their place within a second in tenths %v", len(at), phases)
	}
}

// A storm that does not end is tried again after 1, 2, 4 minutes and so on, up to an hour, and for no longer than it takes to see it.
func TestPausesGrow(t *testing.T) {
	t.Parallel()
	s := &hostCPU{label: "syscalls", account: account{bound: 0.01}, load: steady(1)}
	oversee(t, 7*time.Hour, s)
	detached, attached := parseHistory(t, s.history, "detached"), parseHistory(t, s.history, "attached")
	want := []time.Duration{1, 2, 4, 8, 16, 32, 60, 60, 60, 60, 60}
	if len(detached) < len(want) {
		t.Fatal(s.history)
	}
	var away time.Duration
	for i, back := range attached {
		pause := back - detached[i]
		away += pause
		if pause < want[i]*time.Minute || pause > want[i]*time.Minute+2*time.Second {
			t.Errorf("pause %d is %v, want %d minutes", i, pause, want[i])
		}
		if took := detached[i+1] - back; i+1 < len(detached) && took > 11*time.Second {
			t.Errorf("attached for %v after pause %d", took, i)
		}
	}
	// It takes a whole CPU, but only while it is attached.
	if cpu, most := s.account.cpu, float64(11*len(detached)); cpu < float64(len(detached)) || cpu > most {
		t.Errorf("%.1f s of CPU time, want at most %.0f s", cpu, most)
	}
	if got := s.account.away; (got - away).Abs() > 15*time.Second {
		t.Errorf("detached for %v in all, want %v", got, away)
	}
}

// After an hour within its budget a source is detached as if it was the first time.
func TestPausesAreForgiven(t *testing.T) {
	t.Parallel()
	storms := []time.Duration{0, 10 * time.Minute, 90 * time.Minute}
	s := &hostCPU{label: "syscalls", account: account{bound: 0.01}, load: during(1, func(at time.Duration) bool {
		return slices.ContainsFunc(storms, func(storm time.Duration) bool { return at >= storm && at < storm+30*time.Second })
	})}
	oversee(t, 2*time.Hour, s)
	detached, attached := parseHistory(t, s.history, "detached"), parseHistory(t, s.history, "attached")
	if len(detached) != 3 || len(attached) != 3 {
		t.Fatal(s.history)
	}
	for i, want := range []time.Duration{time.Minute, 2 * time.Minute, time.Minute} {
		if pause := attached[i] - detached[i]; (pause - want).Abs() > 2*time.Second {
			t.Errorf("pause %d is %v, want %v: %v", i, pause, want, s.history)
		}
	}
	if s.account.away < 4*time.Minute || s.account.away > 4*time.Minute+5*time.Second {
		t.Errorf("detached for %v in all, want 4m", s.account.away)
	}
	// What it took before it was detached, and nothing of what would have been.
	if cpu := s.account.cpu; cpu < 9 || cpu > 33 {
		t.Errorf("%.1f s of CPU time, want that of three times up to 11 s", cpu)
	}
}

// One source's storm is not another one's.
func TestBudgetIsPerSource(t *testing.T) {
	t.Parallel()
	storm := &hostCPU{label: "syscalls", account: account{bound: 0.01}, load: steady(1)}
	allowed := &hostCPU{label: "runqueue", account: account{bound: 1.5}, load: steady(1)}
	quiet := &hostCPU{label: "block", account: account{bound: 0.01}, load: steady(0.005)}
	oversee(t, 5*time.Minute, storm, allowed, quiet)
	if len(storm.history) < 2 || len(allowed.history)+len(quiet.history) > 0 {
		t.Errorf("%v, %v, %v", storm.history, allowed.history, quiet.history)
	}
	if share := quiet.account.share; math.Abs(float64(share)-0.005) > 1e-6 || quiet.account.perEvent != 100 {
		t.Errorf("share is %v and an event takes %v, want 0.5%% and 100ns", share, quiet.account.perEvent)
	}
}

// What cannot be attached again is tried again, after a longer pause each time.
func TestAttachingAgainFails(t *testing.T) {
	t.Parallel()
	s := &hostCPU{label: "syscalls", account: account{bound: 0.01}, load: steady(1), refuse: unix.EPERM}
	oversee(t, 20*time.Minute, s)
	refused := parseHistory(t, s.history, "refused")
	if len(refused) != 4 || s.on {
		t.Fatal(s.history)
	}
	for i, want := range []time.Duration{2, 4, 8} {
		if pause := refused[i+1] - refused[i]; (pause - want*time.Minute).Abs() > 2*time.Second {
			t.Errorf("pause %d is %v, want %d minutes", i, pause, want)
		}
	}
	if away := s.account.detachedFor(s.account.again); away < 19*time.Minute {
		t.Errorf("detached for %v", away)
	}
}

// Another bound ends the pause; the same one does not.
func TestAnotherBound(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := &hostCPU{label: "syscalls", load: steady(1), began: time.Now(), on: true}
		s.account = newAccount(defaultTiming(), 0.01, time.Now())
		o := &overseer{log: slog.New(slog.DiscardHandler), timing: defaultTiming(), lock: &sync.Mutex{}, sources: func() []metered { return []metered{s} }}
		for range several {
			time.Sleep(time.Second)
			o.judge(s, time.Now(), 100*time.Millisecond, usage{time: 100 * time.Millisecond, runs: 1})
		}
		if s.on {
			t.Fatal("it is not detached")
		}
		if o.rebound(s, 0.01); s.on {
			t.Error("the same bound ends the pause")
		}
		time.Sleep(10 * time.Second)
		if o.rebound(s, 2); !s.on || s.account.away != 10*time.Second {
			t.Errorf("another bound does not end the pause: attached %t after %v", s.on, s.account.away)
		}
	})
}

// Without statistics nothing is known and nothing is detached, which is said once, and again when they come.
func TestUnknownCosts(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var log strings.Builder
		var tries int
		cause := errors.New("not permitted")
		s := &hostCPU{label: "syscalls", load: steady(1), began: time.Now(), on: true}
		s.account = newAccount(defaultTiming(), 0.01, time.Now())
		o := &overseer{
			log: slog.New(slog.NewTextHandler(&log, nil)), timing: defaultTiming(), lock: &sync.Mutex{}, sources: func() []metered { return []metered{s} },
			statistics: func() (io.Closer, error) {
				tries++
				if cause != nil {
					return nil, cause
				}
				return io.NopCloser(nil), nil
			},
		}
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Hour)
		defer cancel()
		o.run(ctx)
		if !s.on || !errors.Is(o.unknown, cause) || strings.Count(log.String(), "\n") != 1 || !strings.Contains(log.String(), "cost of sources is not known") {
			t.Errorf("attached %t, %v, log:\n%s", s.on, o.unknown, log.String())
		}
		if tries < 10 || tries > 40 {
			t.Errorf("tried %d times in three hours", tries)
		}
		cause = nil
		o.measure(t.Context(), 100*time.Millisecond)
		if o.unknown != nil || !strings.Contains(log.String(), "cost of sources is known") || s.account.share != 1 {
			t.Errorf("%v, share %v, log:\n%s", o.unknown, s.account.share, log.String())
		}
		log.Reset()
		s.account = newAccount(defaultTiming(), 0, time.Now()) // which bounds nothing
		cause = errors.New("not permitted")
		o.measure(t.Context(), 100*time.Millisecond)
		if text := log.String(); !strings.Contains(text, "level=INFO") || strings.Contains(text, "max_cpu") {
			t.Errorf("without a bound it says:\n%s", text)
		}
	})
}

// A measurement that is held up, as it is when the CPUs are busy, is as long as it took.
func TestHeldUpMeasurement(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var on time.Duration
		s := &hostCPU{label: "syscalls", load: steady(0.5), began: time.Now(), on: true}
		s.account = newAccount(defaultTiming(), 0.01, time.Now())
		slow := &slowLock{}
		o := &overseer{
			log: slog.New(slog.DiscardHandler), timing: defaultTiming(), sources: func() []metered { return []metered{s} }, lock: slow,
			statistics: func() (io.Closer, error) {
				slow.delay = time.Second
				return switched{time.Now(), &on}, nil
			},
		}
		o.measure(t.Context(), 100*time.Millisecond)
		if math.Abs(float64(s.account.share)-0.5) > 1e-6 || on < 2*time.Second {
			t.Errorf("share %v, the statistics were on for %v", s.account.share, on)
		}
	})
}

type slowLock struct{ delay time.Duration }

func (l *slowLock) Lock()   { time.Sleep(l.delay) }
func (l *slowLock) Unlock() {}
