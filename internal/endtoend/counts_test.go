package endtoend

import (
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"github.com/prometheus/common/model"
	"golang.org/x/sys/unix"
)

// rareCalls is a source for a system call that nobody but these tests makes.
const rareCalls = "  - name: syscalls\n    allow: [mq_getsetattr]\n"

func makeCalls(n int) {
	for range n {
		_, _, _ = unix.RawSyscall(unix.SYS_MQ_GETSETATTR, ^uintptr(0), 0, 0) // of no queue
	}
}

// countedMetric is what they are counted in, counted the series of their number.
const countedMetric = "syscall_latency_seconds_count"

const counted = countedMetric + `{syscall="mq_getsetattr",job="latpush",instance="edge-1"}`

// What PromQL answers equals what was done in the kernel, at the embedded receiver and at the distribution's Prometheus, and what was done
// just before SIGTERM arrives too.
func TestCountsArrive(t *testing.T) {
	for name, start := range map[string]func(*testing.T) *server{"embedded": embedded, "prometheus": debianPrometheus} {
		t.Run(name, func(t *testing.T) {
			s := start(t)
			a := startAgent(t, configFile(t, t.TempDir(), s.writeURL(), rareCalls+"  - name: softirq\n  - name: runqueue\n  - name: block\n  - name: nfs\n"))
			a.waitLog("source is running")
			s.expect(`latpush_source_up{source="syscalls"}`, 1)
			makeCalls(5000)
			s.expect(counted, 5000)
			s.checkHistograms()
			s.checkOwnMetrics()
			makeCalls(77)
			a.stop()
			s.expect("last_over_time("+counted+"[5m])", 5077) // which ended with the agent
			s.expect(counted+" or vector(-1)", -1)
		})
	}
}

// checkHistograms demands of every classic histogram that its buckets never shrink and that +Inf equals _count.
func (s *server) checkHistograms() {
	s.t.Helper()
	for _, metric := range []string{
		"syscall_latency_seconds", "run_queue_latency_seconds", "softirq_latency_seconds", "softirq_service_seconds",
		"block_io_latency_seconds", "block_io_queue_seconds",
	} {
		s.checkHistogram(metric)
	}
}

func (s *server) checkHistogram(metric string) {
	s.t.Helper()
	buckets, err := s.query(metric + "_bucket")
	if err != nil {
		s.t.Fatal(err)
	}
	counts, err := s.query(metric + "_count")
	if err != nil {
		s.t.Fatal(err)
	}
	if !strings.HasPrefix(metric, "block_io") && len(counts) == 0 {
		s.t.Errorf("no %s arrived", metric)
	}
	if len(buckets) != 28*len(counts) {
		s.t.Errorf("%s: %d buckets of %d histograms, want 28 of each", metric, len(buckets), len(counts))
	}
	for _, count := range counts {
		checkBuckets(s.t, metric, count, buckets)
	}
	// Both selectors are answered from the same instant.
	unequal, err := s.query(fmt.Sprintf(`%s_count != ignoring(le) %s_bucket{le="+Inf"}`, metric, metric))
	if err != nil || len(unequal) != 0 {
		s.t.Errorf("%s: count is not +Inf: %v %v", metric, unequal, err)
	}
}

// checkBuckets demands the bounds of 27 powers of two from 1 us, and counts that grow with them.
func checkBuckets(t *testing.T, metric string, count *model.Sample, buckets model.Vector) {
	t.Helper()
	values := map[string]float64{}
	for _, bucket := range buckets {
		labels := bucket.Metric.Clone()
		delete(labels, "le")
		labels[model.MetricNameLabel] = count.Metric[model.MetricNameLabel]
		if labels.Equal(count.Metric) {
			values[string(bucket.Metric["le"])] = float64(bucket.Value)
		}
	}
	last := 0.0
	for i := range 27 {
		le := strconv.FormatFloat(float64(uint64(1000)<<i)/1e9, 'g', -1, 64)
		value, ok := values[le]
		if !ok || value < last {
			t.Errorf("%s%s: bucket le=%q is %v (found: %t) after %v", metric, count.Metric, le, value, ok, last)
		}
		last = value
	}
	if values["+Inf"] < last {
		t.Errorf("%s%s: +Inf is %v after %v", metric, count.Metric, values["+Inf"], last)
	}
}

func (s *server) checkOwnMetrics() {
	s.t.Helper()
	for query, want := range map[string]float64{
		`count(latpush_build_info)`:       1,
		`latpush_source_up{source="nfs"}`: 1, // attached, or waiting for its module
		`sum(latpush_events_lost_total{source=~"syscalls|softirq|runqueue",reason!="recursion"})`: 0, // which the kernel decides
		`latpush_ticks_skipped_total`: 0,
	} {
		s.expect(query, want)
	}
}

// The quantile that Grafana would show is the time that the calls took.
func TestQuantileIsTheTimeTaken(t *testing.T) {
	s := embedded(t)
	folder := t.TempDir()
	a := startAgent(t, configFile(t, folder, s.writeURL(), "  - name: syscalls\n    allow: [rt_sigtimedwait]\n    buckets: {linear: {start: 5ms, width: 5ms, count: 40}}\n"))
	a.waitLog("source is running")
	request := unix.NsecToTimespec((22 * time.Millisecond).Nanoseconds())
	var took []float64 // seconds, as the caller sees it: on a busy machine a sleeper wakes late
	for waited := 0; waited < 100; {
		start := time.Now()
		var none uint64 // no signal is waited for, which nobody else on this machine does
		_, _, err := unix.Syscall6(unix.SYS_RT_SIGTIMEDWAIT, uintptr(unsafe.Pointer(&none)), 0, uintptr(unsafe.Pointer(&request)), 8, 0, 0)
		took = append(took, time.Since(start).Seconds())
		if err == unix.EAGAIN { // to its end: signals of Go's scheduler cut some short
			waited++
		}
	}
	slices.Sort(took)
	s.expect(`syscall_latency_seconds_count{syscall="rt_sigtimedwait"}`, float64(len(took)))
	a.stop()
	median, err := s.value(`histogram_quantile(0.5, last_over_time(syscall_latency_seconds_bucket{syscall="rt_sigtimedwait"}[5m]))`)
	if err != nil {
		t.Fatal(err)
	}
	sum, err := s.value(`last_over_time(syscall_latency_seconds_sum{syscall="rt_sigtimedwait"}[5m])`)
	if err != nil {
		t.Fatal(err)
	}
	seen := 0.0
	for _, seconds := range took {
		seen += seconds
	}
	const bucket = 0.005
	middle := took[len(took)/2]
	if median < 0.020 || median > middle+bucket || median < middle-bucket || sum < 100*0.022 || sum > seen {
		t.Errorf("calls of %v s in the middle, %v s in all: median %v s, sum %v s", middle, seen, median, sum)
	}
}

// What was counted while the receiver was away, and then survived kill -9 in the spool, arrives in order once both are back.
func TestOutageAndKill(t *testing.T) {
	s := embedded(t)
	address := freeAddress(t)
	folder := t.TempDir()
	config := configFile(t, folder, "http://"+address+"/api/v1/write", rareCalls)
	a := startAgent(t, config)
	a.waitLog("source is running")
	makeCalls(1234)
	time.Sleep(3 * time.Second) // at least two ticks go into the spool
	a.kill()

	forward(t, address, strings.TrimPrefix(s.url, "http://"))
	a = startAgent(t, config)
	a.waitLog("source is running")
	s.expect(`max(max_over_time(`+counted+`[5m]))`, 1234)
	makeCalls(66)
	s.expect(counted, 1300)
	resets, err := s.value(`sum(resets(` + counted + `[5m]))`)
	if err != nil || resets != 0 {
		t.Errorf("%v resets (%v), want none: the second agent goes on with the counts of the first", resets, err)
	}
	a.stop()
}

// SIGHUP with a bad file keeps what runs, with a good one changes it, and neither resets the counts of a source that stays the same.
func TestReload(t *testing.T) {
	s := embedded(t)
	folder := t.TempDir()
	// With a bound, latpush keeps what it takes to attach sources.
	config := editConfig(t, configFile(t, folder, s.writeURL(), rareCalls), map[string]string{"max_cpu: 0": "max_cpu: 100%"})
	a := startAgent(t, config)
	a.waitLog("source is running")
	makeCalls(10)
	s.expect(counted, 10)

	good, err := os.ReadFile(config)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(config, []byte(strings.Replace(string(good), "interval: 1s", "interval: fortnightly", 1)), 0o600); err != nil {
		t.Fatal(err)
	}
	a.hangup()
	s.expect(`latpush_config_last_reload_successful`, 0)
	a.waitLog("latpush.yml:1")

	editConfig(t, configFile(t, folder, s.writeURL(), rareCalls+"  - name: softirq\n"), map[string]string{"max_cpu: 0": "max_cpu: 100%"})
	a.hangup()
	s.expect(`latpush_config_last_reload_successful`, 1)
	s.expect(`latpush_source_up{source="softirq"}`, 1)
	makeCalls(5)
	s.expect(counted, 15)
	if got, err := s.value(`resets(` + counted + `[5m])`); err != nil || got != 0 {
		t.Errorf("%v resets by reloading (%v)", got, err)
	}
	a.stop()
}

func (a *runningAgent) hangup() {
	a.t.Helper()
	if err := a.command.Process.Signal(syscall.SIGHUP); err != nil {
		a.t.Fatal(err)
	}
}

// A receiver that hangs does not keep the agent from stopping, and what it did not take is sent by the next run.
func TestStopWithHungReceiver(t *testing.T) {
	address := freeAddress(t)
	release := hang(t, address)
	folder := t.TempDir()
	config := configFile(t, folder, "http://"+address+"/api/v1/write", rareCalls)
	a := startAgent(t, config)
	a.waitLog("source is running")
	makeCalls(321)
	time.Sleep(1500 * time.Millisecond)
	start := time.Now()
	a.stop()
	if took := time.Since(start); took > 15*time.Second {
		t.Errorf("stopping took %v", took)
	}
	release()
	s := embedded(t)
	forward(t, address, strings.TrimPrefix(s.url, "http://"))
	a = startAgent(t, config)
	s.expect(`max(max_over_time(`+counted+`[5m]))`, 321)
	a.stop()
}
