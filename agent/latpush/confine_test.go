package main

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/latpush/latpush/internal/capability"
	"github.com/latpush/latpush/internal/confine"
)

// landlocked returns whether this kernel has Landlock.
func landlocked() bool {
	version, _, errno := unix.Syscall(unix.SYS_LANDLOCK_CREATE_RULESET, 0, 0, unix.LANDLOCK_CREATE_RULESET_VERSION)
	return errno == 0 && version > 0
}

// threads returns what the kernel says of each thread of a daemon.
func (d *daemon) threads() []confine.Seen {
	d.t.Helper()
	files, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/status", d.command.Process.Pid))
	if err != nil || len(files) < 3 {
		d.t.Fatalf("the threads are %v, %v", files, err)
	}
	var all []confine.Seen
	for _, file := range files {
		if seen, err := confine.Inspect(file); err == nil { // it may have ended
			all = append(all, seen)
		}
	}
	return all
}

func (d *daemon) wantThreads(held capability.Set) {
	d.t.Helper()
	for _, seen := range d.threads() {
		if seen.Effective != held || seen.Permitted != held || seen.Inheritable != 0 || seen.Ambient != 0 || seen.Bounding != 0 ||
			!seen.NoNewPrivileges || !seen.Seccomp {
			d.t.Errorf("a thread has %+v, want %v and everything in force", seen, held)
		}
	}
}

// A confined agent goes on delivering; a reload within its bounds works, one beyond them is refused with what to do; and what is not needed any more goes.
func TestConfinedRun(t *testing.T) {
	t.Parallel()
	if _, err := os.Stat("/sys/module/nfs"); err == nil {
		t.Skip("the nfs module is loaded; the guests test what this test does")
	}
	var status atomic.Int32
	status.Store(http.StatusNoContent)
	url, received := receiver(t, &status)
	file := configFile(t, url, "interval: 1s", "max_cpu: 0", "external_labels: {instance: edge-1}", "sources: [{name: nfs}, {name: softirq}]")
	spool := filepath.Join(filepath.Dir(file), "spool")
	secret := filepath.Join(t.TempDir(), "password")
	if err := os.WriteFile(secret, []byte("sesame"), 0o600); err != nil {
		t.Fatal(err)
	}
	d := start(t, file)
	d.waitLog(`msg="agent started"`)
	d.wantThreads(capability.BPF | capability.PerfMon | capability.SysAdmin)
	for _, kind := range []string{"capabilities", "no_new_privs", "seccomp"} {
		if one := waitSeries(t, received, `__name__="latpush_confinement"`, fmt.Sprintf("kind=%q", kind)); one.value != 1 {
			t.Errorf("%s is %v", kind, one.value)
		}
	}
	waitSeries(t, received, `__name__="latpush_capability_held"`, `capability="CAP_BPF"`, `reason="modules"`)
	waitSeries(t, received, `__name__="softirq_latency_seconds_count"`)

	again := func(lines ...string) {
		t.Helper()
		rewrite(t, file, url, spool, append([]string{"interval: 1s", "max_cpu: 0", "external_labels: {instance: edge-1}"}, lines...)...)
		d.signal(unix.SIGHUP)
	}
	if landlocked() {
		text := "remote_write: [{name: main, url: " + url + ", basic_auth: {username: edge, password_file: " + secret + "}}]\nspool: {directory: " + spool + "}\n"
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		d.signal(unix.SIGHUP)
		d.waitLog("latpush.yml:1: remote_write[0].basic_auth.password_file: open " + secret + ": permission denied (a running latpush sees only " +
			"the folders of files that its configuration named at the start: restart it)")
	}
	// An editor puts a new file in the place of the old one.
	if err := os.Rename(file, file+".old"); err != nil {
		t.Fatal(err)
	}
	again("sources: [{name: nfs}, {name: softirq}, {name: runqueue}]")
	d.waitLog(`msg="configuration reloaded"`)
	waitSeries(t, received, `__name__="run_queue_latency_seconds_count"`)

	again("sources: [{name: softirq}]")
	d.waitLog(`msg="capabilities given up" kept=none`)
	d.wantThreads(capability.None)
	again("sources: [{name: softirq}, {name: runqueue}]")
	d.waitLog("source runqueue cannot be attached: it needs CAP_PERFMON, CAP_BPF, which latpush gave up after its start (restart it)")
	for len(received) > 0 {
		<-received
	}
	waitSeries(t, received, `__name__="softirq_latency_seconds_count"`)
	d.signal(unix.SIGTERM)
	d.wait(0)
	if log := d.seen.String(); strings.Contains(log, "snapshots are left") {
		t.Errorf("not everything is delivered:\n%s", log)
	}
}

// As a systemd service with DynamicUser: a user without privileges, with two capabilities, owns the spool and nothing else.
func TestRunAsUserWithTwoCapabilities(t *testing.T) {
	t.Parallel()
	const user = 65534
	var status atomic.Int32
	status.Store(http.StatusNoContent)
	url, received := receiver(t, &status)
	folder, err := os.MkdirTemp("", "latpush-user-") // of which the parents can be searched by all, unlike those of TempDir
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(folder) })
	file, spool := filepath.Join(folder, "latpush.yml"), filepath.Join(folder, "spool")
	rewrite(t, file, url, spool, "interval: 1s", "max_cpu: 0", "external_labels: {instance: edge-1}", "sources: [{name: softirq}, {name: block}]")
	if err := os.Mkdir(spool, 0o700); err != nil {
		t.Fatal(err)
	}
	for name, mode := range map[string]os.FileMode{folder: 0o755, file: 0o644, filepath.Dir(binary): 0o755} {
		if err := os.Chmod(name, mode); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chown(spool, user, user); err != nil {
		t.Fatal(err)
	}
	d := startAs(t, file, &syscall.SysProcAttr{
		Credential: &syscall.Credential{Uid: user, Gid: user}, AmbientCaps: []uintptr{unix.CAP_BPF, unix.CAP_PERFMON},
	})
	d.waitLog(`msg="capabilities given up" kept=none`)
	waitSeries(t, received, `__name__="softirq_latency_seconds_count"`)
	for _, source := range []string{"softirq", "block"} {
		if up := waitSeries(t, received, `__name__="latpush_source_up"`, fmt.Sprintf("source=%q", source)); up.value != 1 {
			t.Errorf("%s is not up", source)
		}
	}
	for _, seen := range d.threads() {
		if seen.Permitted != capability.None || seen.Ambient != capability.None || !seen.NoNewPrivileges || !seen.Seccomp {
			t.Errorf("a thread has %+v", seen)
		}
	}
	d.signal(unix.SIGTERM)
	d.wait(0)
}

// Confinement that is switched off leaves everything as it was.
func TestUnconfinedRun(t *testing.T) {
	t.Parallel()
	var status atomic.Int32
	status.Store(http.StatusNoContent)
	url, received := receiver(t, &status)
	d := start(t, configFile(t, url, "interval: 1s", "external_labels: {instance: edge-1}", "sources: [{name: softirq}]",
		"confinement: {capabilities: false, landlock: false, seccomp: false}"))
	d.waitLog(`msg="agent started"`)
	before, err := confine.Inspect("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	for _, seen := range d.threads() {
		if seen != before {
			t.Errorf("a thread has %+v, this process has %+v", seen, before)
		}
	}
	if one := waitSeries(t, received, `__name__="latpush_confinement"`, `kind="seccomp"`); one.value != 0 {
		t.Errorf("seccomp is %v", one.value)
	}
	d.signal(unix.SIGTERM)
	d.wait(0)
}

func TestStatus(t *testing.T) {
	t.Parallel()
	var answer atomic.Int32
	answer.Store(http.StatusNoContent)
	url, received := receiver(t, &answer)
	file := configFile(t, url, "interval: 1s", "external_labels: {instance: edge-1}", "sources: [{name: nfs}, {name: softirq}]")
	spool := filepath.Join(filepath.Dir(file), "spool")
	absent := func() {
		t.Helper()
		stdout, stderr, code := latpush(t, "status", "--config.file", file)
		if want := "no latpush runs with the spool " + spool; code != 1 || stdout != "" || !strings.HasPrefix(stderr, want) {
			t.Errorf("without an agent: exit code %d, %q, %q", code, stdout, stderr)
		}
	}
	absent()
	begin := time.Now()
	d := start(t, file)
	d.waitLog(`msg="agent started"`)
	for range 2 { // the second snapshot knows that the first one was taken
		waitSeries(t, received, `__name__="latpush_ticks_total"`)
	}
	stdout, stderr, code := latpush(t, "status", "--config.file", file)
	if code != 0 || stderr != "" {
		t.Errorf("exit code %d with %q", code, stderr)
	}
	for _, line := range []string{
		fmt.Sprintf(`latpush runs with the spool %s: process %d, since \S+Z \(\d+s\)`, regexp.QuoteMeta(spool), d.command.Process.Pid),
		`This is how it was \ds ago, at its last snapshot\.`,
		`softirq yes (tp_btf|raw_tracepoint|tracepoint): 1`,
		`main \d+ \d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ`,
		`Spool: snapshots: \d+, size: \d+\.\d KiB, in memory: 0 B, disk healthy: yes`,
		`no_new_privs yes`,
		`landlock (yes|no)`,
		`seccomp yes`,
	} {
		wantLine(t, stdout, line)
	}
	if _, err := os.Stat("/sys/module/nfs"); err != nil {
		wantLine(t, stdout, `nfs yes waiting: 8`)
		wantLine(t, stdout, `CAP_BPF (read,)?modules,max_cpu`)
	}
	if landlocked() {
		wantLine(t, stdout, `landlock yes`)
	}
	since := regexp.MustCompile(`since (\S+Z)`).FindStringSubmatch(stdout)
	if at, err := time.Parse(time.RFC3339, since[1]); err != nil || at.Before(begin.Add(-3*time.Second)) || at.After(time.Now()) {
		t.Errorf("it runs since %v, %v, was started at %v", at, err, begin)
	}
	if with, _, _ := latpush(t, "status", "--directory", spool); !strings.Contains(with, "process ") {
		t.Errorf("with the directory it prints:\n%s", with)
	}
	if err := d.command.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	d.wait(-1)
	absent()
}

// Before the first tick there is nothing to tell but what the kernel knows, and what another run left is not this one's.
func TestStatusBeforeTheFirstSnapshot(t *testing.T) {
	t.Parallel()
	var answer atomic.Int32
	answer.Store(http.StatusServiceUnavailable)
	url, _ := receiver(t, &answer)
	file := configFile(t, url, "interval: 1h", "max_cpu: 0", "shutdown_timeout: 0s", "external_labels: {instance: edge-1}", "sources: [{name: softirq}]")
	first := start(t, file)
	first.waitLog(`msg="agent started"`)
	first.signal(unix.SIGTERM) // which takes a snapshot
	first.wait(0)
	second := start(t, file)
	second.waitLog(`msg="agent started"`)
	stdout, stderr, code := latpush(t, "status", "--config.file", file)
	if code != 0 || stderr != "" {
		t.Errorf("exit code %d with %q", code, stderr)
	}
	wantLine(t, stdout, `It has taken no snapshot yet\. The first one comes within the interval\.`)
	wantLine(t, stdout, `landlock unknown`)
	wantLine(t, stdout, `seccomp yes`)
	wantLine(t, stdout, `none -`)
	if strings.Contains(stdout, "RECEIVER") {
		t.Errorf("it tells of receivers:\n%s", stdout)
	}
	second.signal(unix.SIGTERM)
	second.wait(0)
}
