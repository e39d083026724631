package kernel

import (
	"errors"
	"log/slog"
	"maps"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// impatient is the default timing, some twenty times as fast.
func impatient() *timing {
	return &timing{
		window: 40 * time.Millisecond, interval: 250 * time.Millisecond, soon: 80 * time.Millisecond, over: 3 * time.Second,
		pause: time.Second, longest: time.Minute, forgiven: time.Hour,
	}
}

// waitHook waits until the only hook of the only source is attached, or is not, and returns how long that took.
func waitHook(t *testing.T, k *Kernel, attached bool, limit time.Duration) time.Duration {
	t.Helper()
	began := time.Now()
	for {
		h := k.Sources()[0].Hooks[0]
		if h.Attached() == attached && (attached || h.How == Detached) {
			return time.Since(began)
		}
		if time.Since(began) > limit {
			t.Fatalf("after %v the hook is %s: %v", limit, h.How, h.Err)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// A storm of system calls makes the source too expensive: it is detached, keeps its counts, comes back when its pause is over, and has a longer
// one the next time.
func TestStormIsDetached(t *testing.T) {
	var log lines
	times := impatient()
	k := openWith(t, Options{times: times, Log: slog.New(slog.NewTextHandler(&log, nil))}, SourceConfig{Name: "syscalls", Allow: []string{"getppid"}})
	// A storm can preempt the programs, in some kernels, and the kernel does not run them within themselves.
	count := func() (counted, lost uint64) {
		got, recursions := sampleAndSkipped(t, k, "syscall_latency_seconds", "getppid")
		return events(got), recursions
	}
	var total uint64
	var away time.Duration
	for round, pause := range []time.Duration{times.pause, 2 * times.pause} {
		end := storm(t)
		// The first window, and two that come soon after it; all of it on a busy machine.
		took := waitHook(t, k, false, 3*time.Second)
		detached := time.Now()
		status, programs := k.Sources()[0], loadedPrograms(k)
		before, lostBefore := count()
		calls := end()
		t.Logf("detached after %v and %d calls, of %d", took, before-total, calls)
		if before <= total || before-total > calls {
			t.Errorf("round %d: counted %d of %d calls", round, before-total, calls)
		}
		if status.Attached() || !strings.Contains(status.Hooks[0].Err.Error(), "max_cpu is 1%") {
			t.Errorf("status is %+v", status)
		}
		if programs != 0 {
			t.Errorf("%d programs are left", programs)
		}
		waitHook(t, k, true, 2*pause+2*time.Second)
		if waited := time.Since(detached); waited < pause-100*time.Millisecond || waited > pause+2*time.Second {
			t.Errorf("round %d: attached again after %v, want %v", round, waited, pause)
		}
		away += pause
		if n, lost := count(); n != before || lost < lostBefore {
			t.Errorf("round %d: counted %d and lost %d when detached, %d and %d after that", round, before, lostBefore, n, lost)
		}
		onThread(func() {
			for range 1000 {
				unix.Getppid()
			}
		})
		got, lost := sampleAndSkipped(t, k, "syscall_latency_seconds", "getppid")
		if total = events(got); total > before+1000 || total+lost-lostBefore < before+1000 {
			t.Errorf("round %d: counted %d calls after it was attached again and lost %d, want 1000", round, total-before, lost-lostBefore)
		}
		if sum := time.Duration(got.SumNanoseconds); sum > 20*time.Second {
			t.Errorf("round %d: the calls took %v", round, sum)
		}
	}
	status := k.Sources()[0]
	if got := status.Detached[ReasonBudget]; got < away || got > away+time.Second {
		t.Errorf("detached for %v, want %v", got, away)
	}
	if c := status.Cost; c.Seconds < 0.05 || c.Seconds > 10 || c.PerEvent < 5 || c.PerEvent > 20*time.Microsecond || c.Max != DefaultMaxCPU || c.Err != nil {
		t.Errorf("cost is %+v", c)
	}
	for _, text := range []string{"source is detached, it takes too much CPU time", "source is attached again"} {
		if n := strings.Count(log.String(), text); n != 2 {
			t.Errorf("the log has %q %d times:\n%s", text, n, log.String())
		}
	}
}

// loadedPrograms counts the programs that the sources hold.
func loadedPrograms(k *Kernel) (n int) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, s := range k.sources {
		for _, h := range s.loaded.hooks {
			n += len(h.attached)
		}
	}
	return n
}

// What a source costs is what the kernel says it cost: the windows' extrapolation agrees with statistics that are on all the time.
func TestCostIsExtrapolated(t *testing.T) {
	on, err := enableStatistics()
	if err != nil {
		t.Fatal(err)
	}
	defer on.Close()
	times := impatient()
	times.interval = 100 * time.Millisecond
	k := openWith(t, Options{times: times}, SourceConfig{Name: "syscalls", Allow: []string{"getppid"}, MaxCPU: new(Cores)})
	end := storm(t)
	s := k.sources[0].loaded
	fresh := func() bool { // the last window stands for nearly all the time until now: on a slow machine they come late
		k.mu.Lock()
		defer k.mu.Unlock()
		return time.Since(s.account.measured) < 2*times.interval
	}
	time.Sleep(3 * time.Second)
	for deadline := time.Now().Add(time.Minute); !fresh() && time.Now().Before(deadline); {
		time.Sleep(10 * time.Millisecond)
	}
	end()
	k.mu.Lock()
	got, stands := s.account.cpu, s.account.measured
	s.begin()
	var want float64
	for _, h := range s.hooks {
		for _, a := range h.attached {
			want += a.before.time.Seconds()
		}
	}
	k.mu.Unlock()
	t.Logf("%.3f s of CPU time, measured all the time %.3f s; the last window was %v ago", got, want, time.Since(stands))
	if want < 0.1 || got < 0.7*want || got > 1.3*want {
		t.Errorf("%.3f s of CPU time, want about %.3f s", got, want)
	}
}

// A source that is detached leaves nothing under way behind: a call that is in progress when it is attached again is not taken for the one that was
// in progress when it was detached.
func TestNothingIsUnderWayAfterAttachingAgain(t *testing.T) {
	for _, inStorage := range []bool{true, false} {
		k := openWith(t, Options{tamper: storage(t, inStorage)}, SourceConfig{Name: "syscalls", Allow: []string{"rt_sigtimedwait"}, MaxCPU: new(Cores)})
		s := k.sources[0].loaded
		step := make(chan bool)
		var thread sync.WaitGroup
		thread.Go(func() {
			onThread(func() {
				wait(50 * time.Millisecond) // begins attached, ends detached
				step <- true
				<-step
				wait(100 * time.Millisecond) // begins detached, ends attached
			})
		})
		time.Sleep(20 * time.Millisecond)
		k.mu.Lock()
		if err := s.detach(errors.New("test")); err != nil {
			t.Error(err)
		}
		k.mu.Unlock()
		<-step
		step <- true
		time.Sleep(20 * time.Millisecond)
		k.mu.Lock()
		if _, err := s.attachAgain(); err != nil {
			t.Error(err)
		}
		k.mu.Unlock()
		thread.Wait()
		if got := sample(t, k, "syscall_latency_seconds", "rt_sigtimedwait"); events(got) != 0 {
			t.Errorf("in task storage %t: counted %d calls of %v", inStorage, events(got), time.Duration(got.SumNanoseconds))
		}
		wait(time.Millisecond)
		if got := sample(t, k, "syscall_latency_seconds", "rt_sigtimedwait"); events(got) != 1 {
			t.Errorf("in task storage %t: counted %d calls after that, want 1", inStorage, events(got))
		}
	}
}

// wait makes one system call of that length, of which Go's scheduler knows: it does not interrupt it.
func wait(length time.Duration) {
	timeout, set := unix.NsecToTimespec(length.Nanoseconds()), [1]uint64{}
	_, _, _ = unix.Syscall6(unix.SYS_RT_SIGTIMEDWAIT, addressOf(&set), 0, addressOf(&timeout), 8, 0, 0)
}

// Every source comes back as it was, with what it had counted.
func TestEverySourceIsAttachedAgain(t *testing.T) {
	configs := AllConfigs()
	for i := range configs {
		description, _ := findSource(configs[i].Name)
		configs[i].MaxCPU, configs[i].Labels = new(Cores), description.labels
	}
	k, err := Open(t.Context(), configs, Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer k.Close()
	for i := range k.sources {
		s := k.sources[i].loaded
		before := k.Sources()[i]
		if s == nil && configs[i].Name == "lock_wait" && !reportsLocks(t, before.Err) {
			continue
		}
		if s == nil {
			t.Errorf("source %s: %v", configs[i].Name, k.sources[i].err)
			continue
		}
		if s.source.hooks[0].isFunction() && !s.waits() && !before.Attached() {
			t.Logf("source %s: this kernel has no function probes: %v", s.name(), before.Hooks[0].Err)
			continue
		}
		k.mu.Lock()
		if !s.attached() && !s.waits() { // this kernel has no probes of functions
			k.mu.Unlock()
			continue
		}
		counted := 0
		kept := maps.Clone(s.maps)
		if err := s.detach(errors.New("test")); err != nil {
			t.Error(err)
		}
		if s.inFlight != nil {
			t.Errorf("%s: an iterator is left", s.name())
		}
		if s.waits() || s.attached() || !s.reports() {
			t.Errorf("%s: waits %t, is attached %t, reports %t", s.name(), s.waits(), s.attached(), s.reports())
		}
		hooks, err := s.attachAgain()
		if err != nil {
			t.Errorf("%s: %v", s.name(), err)
		}
		for name, m := range s.maps {
			if s.counts(name) != (m == kept[name]) {
				t.Errorf("%s: map %s counts %t, is the same %t", s.name(), name, s.counts(name), m == kept[name])
			}
			if s.counts(name) {
				counted++
			}
		}
		k.mu.Unlock()
		want := len(s.source.metrics) + 1 // with the losses
		if s.source.inFlight != nil {
			want += len(s.source.inFlight.gauges)
		}
		for name := range kept { // what belongs to the map of a metric, or says which labels its keys stand for
			if strings.HasSuffix(name, keptSuffix) || strings.HasSuffix(name, byCgroup) || name == cgroupPathsMap {
				want++
			}
		}
		if counted != want || len(s.maps) != len(kept) {
			t.Errorf("%s: %d of %d maps count, want %d of %d", s.name(), counted, len(s.maps), want, len(kept))
		}
		after := k.Sources()[i]
		for j, h := range after.Hooks {
			if was := before.Hooks[j]; h.How != was.How || h.Attached() != was.Attached() {
				t.Errorf("%s: hook %s was %s and is %s: %v (%s)", s.name(), h.Name, was.How, h.How, h.Err, hooks)
			}
		}
		if gauges := s.source.inFlight != nil; gauges != (s.inFlight != nil) || s.inFlightErr != nil {
			t.Errorf("%s: has gauges %t, reads them %t: %v", s.name(), gauges, s.inFlight != nil, s.inFlightErr)
		}
		if _, _, err := k.Read(); err != nil {
			t.Error(err)
		}
		if after.Loaded != before.Loaded {
			t.Errorf("%s: counting began at %v, and then at %v", s.name(), before.Loaded, after.Loaded)
		}
	}
}

// What cannot be attached again stays detached, and is attached when it can be.
func TestSourceThatCannotBeAttachedAgain(t *testing.T) {
	k := openWith(t, Options{}, SourceConfig{Name: "softirq", MaxCPU: new(Cores)})
	s := k.sources[0].loaded
	k.mu.Lock()
	defer k.mu.Unlock()
	if err := s.detach(errors.New("test")); err != nil {
		t.Fatal(err)
	}
	s.options.Ways = []string{"none"}
	if _, err := s.attachAgain(); err == nil || !strings.Contains(err.Error(), "hook softirq: none of the ways") {
		t.Errorf("%v", err)
	}
	if h := s.status().Hooks[0]; h.How != Detached || h.Err == nil || !s.reports() {
		t.Errorf("hook is %+v", h)
	}
	s.options.Ways = nil
	if _, err := s.attachAgain(); err != nil || !s.attached() {
		t.Errorf("%v, %+v", err, s.status())
	}
}

// A reload of the configuration leaves a detached source alone, unless its bound is another one; and closing removes what is left of it.
func TestReconfigureAndClose(t *testing.T) {
	times := impatient()
	times.pause = time.Hour
	tight, loose := Cores(0.0001), Cores(8)
	config := SourceConfig{Name: "syscalls", Allow: []string{"getppid"}, MaxCPU: &tight}
	k := openWith(t, Options{times: times}, config)
	end := storm(t)
	waitHook(t, k, false, 3*time.Second)
	end()
	counted, lostBefore := sampleAndSkipped(t, k, "syscall_latency_seconds", "getppid")
	before := events(counted)
	if err := k.Reconfigure(t.Context(), []SourceConfig{config, {Name: "softirq", MaxCPU: &loose}}); err != nil {
		t.Fatal(err)
	}
	if status := k.Sources()[0]; status.Attached() || status.Hooks[0].How != Detached {
		t.Errorf("the same bound: %+v", status)
	}
	config.MaxCPU = &loose
	if err := k.Reconfigure(t.Context(), []SourceConfig{config}); err != nil {
		t.Fatal(err)
	}
	status := k.Sources()[0]
	if !status.Attached() || status.Cost.Max != loose || status.Detached[ReasonBudget] == 0 {
		t.Errorf("another bound: %+v", status)
	}
	onThread(func() { unix.Getppid() })
	counted, lost := sampleAndSkipped(t, k, "syscall_latency_seconds", "getppid")
	if n := events(counted); n > before+1 || n+lost-lostBefore < before+1 {
		t.Errorf("counted %d calls and lost %d, want 1", n-before, lost-lostBefore)
	}
	config.MaxCPU = &tight
	if err := k.Reconfigure(t.Context(), []SourceConfig{config}); err != nil {
		t.Fatal(err)
	}
	end = storm(t)
	waitHook(t, k, false, 3*time.Second)
	end()
	if err := k.Close(); err != nil {
		t.Error(err)
	}
}

// A module that is loaded while its source is detached is not attached to.
func TestDetachedSourceDoesNotWait(t *testing.T) {
	if _, err := os.Stat("/sys/module/nfs"); err == nil {
		t.Skip("the nfs module is loaded; the guests test both")
	}
	k, err := Open(t.Context(), []SourceConfig{{Name: "nfs"}}, Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer k.Close()
	s := k.sources[0].loaded
	k.mu.Lock()
	defer k.mu.Unlock()
	if !s.waits() {
		t.Fatal("it does not wait")
	}
	if err := s.detach(errors.New("test")); err != nil {
		t.Fatal(err)
	}
	if s.waits() || slices.ContainsFunc(s.status().Hooks, func(h HookStatus) bool { return h.How != Detached }) {
		t.Errorf("hooks are %+v", s.status().Hooks)
	}
	if _, err := s.attachAgain(); err != nil || !s.waits() {
		t.Errorf("it does not wait again: %v", err)
	}
}

// Without the privilege, the error says which one is missing.
func TestStatisticsWithoutPrivilege(t *testing.T) {
	if setting, err := os.ReadFile("/proc/sys/kernel/bpf_stats_enabled"); err == nil && strings.TrimSpace(string(setting)) == "1" {
		t.Fatal("somebody has left the statistics on: sysctl kernel.bpf_stats_enabled=0")
	}
	var err error
	onThread(func() {
		header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
		var none [2]unix.CapUserData
		if err = unix.Capset(&header, &none[0]); err == nil {
			_, err = enableStatistics()
		}
	})
	if !errors.Is(err, unix.EPERM) || !strings.Contains(err.Error(), "grant CAP_SYS_ADMIN") {
		t.Errorf("%v", err)
	}
}
