package main

import (
	"bufio"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/golang/snappy"
	"github.com/prometheus/prometheus/model/value"
	"github.com/prometheus/prometheus/prompb"
	"golang.org/x/sys/unix"
)

// series is one received time series: its labels in the order of the wire, how many samples it has, the mark of its end aside, and the newest value.
type series struct {
	labels  string
	samples int
	value   float64
}

// receiver answers remote write requests on loopback and hands out what they hold.
func receiver(t *testing.T, status *atomic.Int32) (url string, received <-chan []series) {
	t.Helper()
	all := make(chan []series, 1000)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if code := int(status.Load()); code != http.StatusNoContent {
			w.WriteHeader(code)
			return
		}
		compressed, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
			return
		}
		raw, err := snappy.Decode(nil, compressed)
		if err != nil {
			t.Error(err)
			return
		}
		var request prompb.WriteRequest
		if err := request.Unmarshal(raw); err != nil {
			t.Error(err)
			return
		}
		var got []series
		for _, ts := range request.Timeseries {
			var labels []string
			for _, l := range ts.Labels {
				labels = append(labels, fmt.Sprintf("%s=%q", l.Name, l.Value))
			}
			newest, samples := ts.Samples[len(ts.Samples)-1].Value, len(ts.Samples)
			if value.IsStaleNaN(newest) {
				samples--
			}
			got = append(got, series{strings.Join(labels, ","), samples, newest})
		}
		all <- got
		w.WriteHeader(http.StatusNoContent)
	}))
	t.Cleanup(server.Close)
	return server.URL, all
}

// daemon is a running `latpush run`.
type daemon struct {
	t       *testing.T
	command *exec.Cmd
	log     chan string // lines of standard error, closed at its end
	seen    strings.Builder
}

const patience = 60 * time.Second

func start(t *testing.T, configFile string) *daemon {
	t.Helper()
	return startAs(t, configFile, nil)
}

// startAs starts a daemon as another user.
func startAs(t *testing.T, configFile string, user *syscall.SysProcAttr) *daemon {
	t.Helper()
	d := &daemon{t: t, command: exec.Command(binary, "run", "--config.file", configFile), log: make(chan string, 10000)}
	d.command.SysProcAttr = user
	stderr, err := d.command.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := d.command.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = d.command.Process.Kill() })
	go func() {
		defer close(d.log)
		for lines := bufio.NewScanner(stderr); lines.Scan(); {
			d.log <- lines.Text()
		}
	}()
	return d
}

// waitLog waits for a line of the log.
func (d *daemon) waitLog(text string) {
	d.t.Helper()
	timeout := time.After(patience)
	for {
		select {
		case line, open := <-d.log:
			if !open {
				d.t.Fatalf("the process ended without logging %q:\n%s", text, d.seen.String())
			}
			d.seen.WriteString(line + "\n")
			if strings.Contains(line, text) {
				return
			}
		case <-timeout:
			d.t.Fatalf("%q is not logged:\n%s", text, d.seen.String())
		}
	}
}

func (d *daemon) signal(s syscall.Signal) {
	d.t.Helper()
	if err := d.command.Process.Signal(s); err != nil {
		d.t.Fatal(err)
	}
}

// wait waits for the end of the process and checks its exit code.
func (d *daemon) wait(code int) {
	d.t.Helper()
	kill := time.AfterFunc(patience, func() { _ = d.command.Process.Kill() })
	defer kill.Stop()
	for line := range d.log {
		d.seen.WriteString(line + "\n")
	}
	_ = d.command.Wait() // its error is the exit code
	if got := d.command.ProcessState.ExitCode(); got != code {
		d.t.Errorf("exit code %d, want %d:\n%s", got, code, d.seen.String())
	}
}

// configFile writes a configuration for a receiver, with the given lines more.
func configFile(t *testing.T, url string, more ...string) string {
	t.Helper()
	folder := t.TempDir()
	file := filepath.Join(folder, "latpush.yml")
	rewrite(t, file, url, filepath.Join(folder, "spool"), more...)
	return file
}

func rewrite(t *testing.T, file, url, spool string, more ...string) {
	t.Helper()
	text := "remote_write: [{name: main, url: " + url + "}]\nspool: {directory: " + spool + "}\npin_path: ''\n" + strings.Join(more, "\n") + "\n"
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// waitSeries waits for a series with all the given labels.
func waitSeries(t *testing.T, received <-chan []series, labels ...string) series {
	t.Helper()
	timeout := time.After(patience)
	for {
		select {
		case request := <-received:
			for _, one := range request {
				if containsAll(one.labels, labels) {
					return one
				}
			}
		case <-timeout:
			t.Fatalf("no series with %v arrives", labels)
		}
	}
}

func containsAll(text string, parts []string) bool {
	for _, part := range parts {
		if !strings.Contains(text, part) {
			return false
		}
	}
	return true
}

func TestRunReloadsAndStops(t *testing.T) {
	t.Parallel()
	var status atomic.Int32
	status.Store(http.StatusNoContent)
	url, received := receiver(t, &status)
	file := configFile(t, url, "interval: 1s", "external_labels: {instance: edge-1}", "sources: [{name: softirq}]")
	spool := filepath.Join(filepath.Dir(file), "spool")
	d := start(t, file)
	d.waitLog(`msg="agent started"`)
	waitSeries(t, received, `__name__="latpush_ticks_total"`, `instance="edge-1"`, `job="latpush"`)
	waitSeries(t, received, `__name__="process_resident_memory_bytes"`)

	// A bad file changes nothing but the metric, and says why.
	rewrite(t, file, url, spool, "interval: 1s", "external_labels: {instance: edge-1}", "sources: [{name: softirq, bucket: {}}]")
	d.signal(unix.SIGHUP)
	d.waitLog("latpush.yml:6: sources[0].bucket: unknown key (did you mean buckets?)")
	for waitSeries(t, received, `__name__="latpush_config_last_reload_successful"`).value != 0 {
	}

	rewrite(t, file, url, spool, "interval: 1s", "external_labels: {instance: edge-2}", "sources: [{name: softirq}, {name: runqueue}]")
	d.signal(unix.SIGHUP)
	d.waitLog(`msg="configuration reloaded"`)
	waitSeries(t, received, `__name__="latpush_source_up"`, `instance="edge-2"`, `source="runqueue"`)
	if got := waitSeries(t, received, `__name__="latpush_config_last_reload_successful"`, `instance="edge-2"`); got.value != 1 {
		t.Errorf("after a good reload the metric is %v", got)
	}

	d.signal(unix.SIGTERM)
	d.wait(0)
	if log := d.seen.String(); !strings.Contains(log, "msg=stopped") || strings.Contains(log, "snapshots are left") {
		t.Errorf("the log does not end with everything delivered:\n%s", log)
	}
}

// What a receiver did not take before the end waits for it on disk.
func TestStopWithoutAReceiverKeepsTheSnapshots(t *testing.T) {
	t.Parallel()
	var status atomic.Int32
	status.Store(http.StatusServiceUnavailable)
	url, received := receiver(t, &status)
	file := configFile(t, url, "interval: 1h", "shutdown_timeout: 200ms", "external_labels: {instance: edge-1}", "sources: [{name: softirq}]")
	d := start(t, file)
	d.waitLog(`msg="agent started"`)
	d.signal(unix.SIGINT)
	d.wait(0)
	if log := d.seen.String(); !strings.Contains(log, "snapshots are left in the spool for the next start") {
		t.Errorf("the log does not say that snapshots are left:\n%s", log)
	}

	status.Store(http.StatusNoContent)
	again := start(t, file)
	again.waitLog(`msg="agent started"`)
	again.signal(unix.SIGTERM)
	again.wait(0)
	ticks := 0
	for len(received) > 0 {
		for _, one := range <-received {
			if strings.Contains(one.labels, `__name__="latpush_ticks_total"`) {
				ticks += one.samples
			}
		}
	}
	if ticks != 2 {
		t.Errorf("%d snapshots arrived after the receiver came back, want the last one of each run", ticks)
	}
}

func TestSecondSignalExitsAtOnce(t *testing.T) {
	t.Parallel()
	var status atomic.Int32
	status.Store(http.StatusServiceUnavailable)
	url, _ := receiver(t, &status)
	file := configFile(t, url, "interval: 1h", "shutdown_timeout: 10m", "external_labels: {instance: edge-1}", "sources: [{name: softirq}]")
	d := start(t, file)
	d.waitLog(`msg="agent started"`)
	d.signal(unix.SIGTERM)
	d.waitLog("msg=stopping")
	// Signals within half a second count as one, so the second one is sent until it is heard.
	again := time.NewTicker(50 * time.Millisecond)
	defer again.Stop()
	go func() {
		for range again.C {
			if d.command.Process.Signal(unix.SIGTERM) != nil {
				return
			}
		}
	}()
	d.wait(128 + int(unix.SIGTERM))
	if log := d.seen.String(); !strings.Contains(log, "second signal, exiting at once") {
		t.Errorf("the log does not say why the process ended:\n%s", log)
	}
}

func TestSignalThatIsDeliveredTwiceIsOne(t *testing.T) {
	t.Parallel()
	var status atomic.Int32
	status.Store(http.StatusServiceUnavailable)
	url, _ := receiver(t, &status)
	file := configFile(t, url, "interval: 1h", "shutdown_timeout: 1s", "external_labels: {instance: edge-1}", "sources: [{name: softirq}]")
	d := start(t, file)
	d.waitLog(`msg="agent started"`)
	d.signal(unix.SIGTERM)
	d.signal(unix.SIGINT)
	d.wait(0)
}

func TestRunSaysWhichRoomCannotOpen(t *testing.T) {
	t.Parallel()
	folder := t.TempDir()
	file := filepath.Join(folder, "latpush.yml")
	rewrite(t, file, "http://127.0.0.1:9/push", file, "external_labels: {instance: edge-1}")
	stdout, stderr, code := latpush(t, "run", "--config.file", file)
	if code != 1 || stdout != "" || !strings.Contains(stderr, "open spool") || !strings.Contains(stderr, "not a directory") {
		t.Errorf("exit code %d, output %q, error %q", code, stdout, stderr)
	}
}
