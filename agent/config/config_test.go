package config

import (
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/common/model"

	"github.com/latpush/latpush/agent/identity"
	"github.com/latpush/latpush/internal/kernel"
	"github.com/latpush/latpush/internal/spool"
)

func host() identity.Host { return identity.Host{Name: "edge-1"} }

func TestBadFiles(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob("testdata/*.bad.yml")
	if err != nil {
		t.Fatal(err)
	}
	known := badFiles()
	for _, file := range files {
		name := strings.TrimSuffix(filepath.Base(file), ".bad.yml")
		want, found := known[name]
		if !found {
			t.Errorf("%s has no entry in the table", file)
			continue
		}
		delete(known, name)
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c, err := Load(file, host())
			if err == nil {
				t.Fatalf("the file is valid: %+v", c)
			}
			got := strings.Split(strings.ReplaceAll(err.Error(), file, "FILE"), "\n")
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
			if strings.Contains(err.Error(), "hunter2") || strings.Contains(err.Error(), "zzword") {
				t.Errorf("the error shows a password: %v", err)
			}
			var all Errors
			if !errors.As(err, &all) || len(all) != len(want) {
				t.Errorf("error is %T, want %d Errors", err, len(want))
			}
		})
	}
	for name := range known {
		t.Errorf("testdata/%s.bad.yml is missing", name)
	}
}

func TestGoodFiles(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"minimal", "full", "anchors"} {
		if _, err := Load("testdata/"+name+".good.yml", host()); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	files, err := filepath.Glob("testdata/*.yml")
	if err != nil {
		t.Fatal(err)
	}
	if want := len(badFiles()) + 3; len(files) != want {
		t.Errorf("%d files in testdata, %d are tested", len(files), want)
	}
}

func load(t *testing.T, name string) *Config {
	t.Helper()
	c, err := Load("testdata/"+name+".good.yml", host())
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestDefaults(t *testing.T) {
	t.Parallel()
	c := load(t, "minimal")
	if c.Interval != model.Duration(15*time.Second) || c.ShutdownTimeout != model.Duration(10*time.Second) {
		t.Errorf("interval %v and shutdown_timeout %v, want 15s and 10s", c.Interval, c.ShutdownTimeout)
	}
	if diff := cmp.Diff(map[string]string{"job": "latpush", "instance": "edge-1"}, c.ExternalLabels); diff != "" {
		t.Errorf("external_labels (-want +got):\n%s", diff)
	}
	if c.PinPath != "/sys/fs/bpf/latpush" {
		t.Errorf("pin_path is %s", c.PinPath)
	}
	want := Sources(kernel.DefaultConfigs())
	for i := range want {
		want[i].Histogram, want[i].MaxCPU = kernel.Classic, cores(0.01)
	}
	if !reflect.DeepEqual(c.Sources, want) {
		t.Errorf("sources %+v, want the default set", c.Sources)
	}
	if want := (Spool{Options: spool.Options{Directory: "/var/lib/latpush"}, QuarantineMaxSize: 16 << 20}); c.Spool != want {
		t.Errorf("spool %+v, want %+v", c.Spool, want)
	}
	if want := (Confinement{Capabilities: true, Landlock: true, Seccomp: true}); c.Confinement != want {
		t.Errorf("confinement %+v, want %+v", c.Confinement, want)
	}
	receiver := c.RemoteWrite[0]
	if receiver.Name != "mimir-example-46efa1f4" || time.Duration(receiver.RemoteTimeout) != 30*time.Second || !receiver.QueueConfig.RetryOnRateLimit {
		t.Errorf("receiver %v has not the defaults", receiver)
	}
}

func TestEveryKeyIsRead(t *testing.T) {
	t.Parallel()
	c := load(t, "full")
	if c.Interval != model.Duration(90*time.Second) || c.ShutdownTimeout != 0 || c.ClockSyncTimeout != model.Duration(5*time.Minute) {
		t.Errorf("interval %v, shutdown_timeout %v and clock_sync_timeout %v, want 1m30s, 0s and 5m", c.Interval, c.ShutdownTimeout, c.ClockSyncTimeout)
	}
	if diff := cmp.Diff(map[string]string{"job": "latpush", "instance": "till-7", "site": "paris-3"}, c.ExternalLabels); diff != "" {
		t.Errorf("external_labels (-want +got):\n%s", diff)
	}
	expire := kernel.Duration(30 * time.Minute)
	us, ms := kernel.Duration(time.Microsecond), kernel.Duration(time.Millisecond)
	wantSources := Sources{
		{Name: "nfs", Histogram: kernel.Custom, MaxCPU: cores(0.005), Labels: []string{"cgroup", "mount"}},
		{
			Name: "syscalls", Histogram: kernel.Classic, MaxCPU: cores(0.25), Allow: []string{"read", "write", "openat"},
			Buckets: &kernel.BucketsConfig{Exp2: &kernel.Exp2Config{Min: us, Count: 27}},
		},
		{
			Name: "block", Histogram: kernel.Custom, MaxCPU: cores(0), MaxLabelSets: 300, LabelSetsExpire: &expire,
			Buckets: &kernel.BucketsConfig{Linear: &kernel.LinearConfig{Start: 100 * us, Width: 100 * us, Count: 20}},
		},
		{
			Name: "runqueue", Histogram: kernel.Custom, MaxCPU: cores(0.005),
			Buckets: &kernel.BucketsConfig{Bounds: []kernel.Duration{10 * us, 100 * us, ms, 10 * ms, 100 * ms, 1000 * ms}},
		},
		{
			Name: "softirq", Histogram: kernel.Exponential, MaxCPU: cores(0.005),
			Buckets: &kernel.BucketsConfig{Exponential: &kernel.ExponentialConfig{Schema: 2, Min: us, Max: 1000 * ms}},
		},
	}
	if diff := cmp.Diff(wantSources, c.Sources); diff != "" {
		t.Errorf("sources (-want +got):\n%s", diff)
	}
	wantSpool := Spool{QuarantineMaxSize: 4 << 20}
	wantSpool.Directory, wantSpool.MaxBytes, wantSpool.MaxAge, wantSpool.Fsync = "/srv/latpush", 16<<20, model.Duration(7*24*time.Hour), spool.FsyncNever
	if c.Spool != wantSpool {
		t.Errorf("spool %+v, want %+v", c.Spool, wantSpool)
	}
	if c.PinPath != "/run/bpf/latpush" {
		t.Errorf("pin_path is %s", c.PinPath)
	}
	if want := (Confinement{Seccomp: true}); c.Confinement != want {
		t.Errorf("confinement %+v, want %+v", c.Confinement, want)
	}
	if want := []string{filepath.Join("testdata", "secrets", "password")}; !slices.Equal(c.Files(), want) {
		t.Errorf("the receivers name the files %v, want %v", c.Files(), want)
	}
	first, second := c.RemoteWrite[0], c.RemoteWrite[1]
	if first.Name != "mimir" || first.QueueConfig.MaxSamplesPerSend != 500 || first.Headers["X-Scope-OrgID"] != "edge" {
		t.Errorf("first receiver is %v with %+v", first, first.QueueConfig)
	}
	if got := first.HTTPClientConfig.BasicAuth.PasswordFile; got != filepath.Join("testdata", "secrets", "password") {
		t.Errorf("password_file is %s, want it relative to the configuration file", got)
	}
	if second.Name != "1-557f4a72" || second.URL.Host != "[::1]:9090" {
		t.Errorf("second receiver is %v", second)
	}
}

func cores(c kernel.Cores) *kernel.Cores { return &c }

func TestSetsOfSources(t *testing.T) {
	t.Parallel()
	for set, want := range map[string][]kernel.SourceConfig{"default": kernel.DefaultConfigs(), "all": kernel.AllConfigs()} {
		c, err := parseConfig("latpush.yml", []byte("sources: "+set+"\nhistogram: custom\nmax_cpu: 2%\nremote_write: [{url: http://127.0.0.1:9/push}]"), host())
		if err != nil {
			t.Fatal(err)
		}
		for i := range want {
			want[i].Histogram, want[i].MaxCPU = kernel.Custom, cores(0.02)
		}
		if diff := cmp.Diff(Sources(want), c.Sources); diff != "" {
			t.Errorf("set %s (-want +got):\n%s", set, diff)
		}
	}
	if n, all := len(kernel.DefaultConfigs()), len(kernel.AllConfigs()); n == 0 || n >= all {
		t.Errorf("%d of %d sources are in the default set", n, all)
	}
}

func TestAnchorsAndMerges(t *testing.T) {
	t.Parallel()
	c := load(t, "anchors")
	if !reflect.DeepEqual(c.Sources[0].Buckets, c.Sources[1].Buckets) || len(c.Sources[1].Buckets.Bounds) != 3 {
		t.Errorf("buckets %+v and %+v, want the same three bounds", c.Sources[0].Buckets, c.Sources[1].Buckets)
	}
	second := c.RemoteWrite[1]
	if second.URL.Host != "two.example" || second.QueueConfig.MaxSamplesPerSend != 500 || second.Headers["X-Scope-OrgID"] != "edge" {
		t.Errorf("second receiver is %v with %+v, want the first one's settings and a url of its own", second, second.QueueConfig)
	}
}

// The name of a receiver names its cursor in the spool: if it changed with the credentials, the whole backlog would be sent again.
func TestDefaultNameDoesNotDependOnCredentials(t *testing.T) {
	t.Parallel()
	name := func(url string) string {
		c, err := parseConfig("latpush.yml", []byte("remote_write: [{url: '"+url+"'}]"), host())
		if err != nil {
			t.Fatal(err)
		}
		return c.RemoteWrite[0].Name
	}
	plain := name("https://mimir.example/api/v1/push")
	if got := name("https://edge:secret@mimir.example/api/v1/push"); got != plain {
		t.Errorf("with credentials the name is %s, without %s", got, plain)
	}
	if got := name("https://mimir.example/api/v2/push"); got == plain {
		t.Errorf("two URLs have the same name %s", got)
	}
	if got := name("https://" + strings.Repeat("very-long.", 20) + "example/push"); !usableName.MatchString(got) {
		t.Errorf("name %q cannot be a file name", got)
	}
}

func TestEnvironmentIsNotExpanded(t *testing.T) {
	t.Setenv("SITE", "paris-3")
	c, err := parseConfig("latpush.yml", []byte("external_labels: {site: '${SITE}'}\nremote_write: [{url: https://mimir.example/push}]"), host())
	if err != nil {
		t.Fatal(err)
	}
	if got := c.ExternalLabels["site"]; got != "${SITE}" {
		t.Errorf("site is %q, want the text of the file", got)
	}
}

func TestHostWithoutAName(t *testing.T) {
	t.Parallel()
	text := "remote_write: [{url: https://mimir.example/push}]\nexternal_labels:\n  site: paris-3\n"
	_, err := parseConfig("latpush.yml", []byte(text), identity.Host{})
	if !errors.Is(err, identity.ErrNoInstance) || !strings.HasPrefix(err.Error(), "latpush.yml:2: external_labels.instance: no host name") {
		t.Errorf("got %v, want ErrNoInstance at line 2", err)
	}
	c, err := parseConfig("latpush.yml", []byte(text+"  instance: till-7\n"), identity.Host{})
	if err != nil || c.ExternalLabels["instance"] != "till-7" {
		t.Errorf("got %v and %v, want instance till-7", c, err)
	}
}

func TestMissingFile(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "latpush.yml")
	_, err := Load(file, host())
	if !errors.Is(err, os.ErrNotExist) {
		t.Errorf("got %v, want a missing file", err)
	}
	want := file + ": no such file or directory (write the file, or name another one with --config.file; two lines are enough:\n" +
		"remote_write:\n  - url: https://<receiver>/api/v1/push)"
	if err.Error() != want {
		t.Errorf("got:\n%v\nwant:\n%s", err, want)
	}
	if _, err := Load(t.TempDir(), host()); err == nil || !strings.HasSuffix(err.Error(), ": is a directory") {
		t.Errorf("got %v for a directory", err)
	}
}

// Whatever the text is, the answer is a configuration or errors that name the file.
func FuzzParse(f *testing.F) {
	files, err := filepath.Glob("testdata/*.yml")
	if err != nil {
		f.Fatal(err)
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		c, err := parseConfig("latpush.yml", text, host())
		if (c == nil) == (err == nil) {
			t.Fatalf("got configuration %v and error %v", c, err)
		}
		if err == nil {
			return
		}
		for _, one := range err.(Errors) { //nolint:errorlint // the function promises this type
			if one.File != "latpush.yml" || one.Err == nil || one.Err.Error() == "" || one.Line > strings.Count(string(text), "\n")+2 {
				t.Errorf("error %q says too little or names a line that is not there", one)
			}
		}
	})
}
