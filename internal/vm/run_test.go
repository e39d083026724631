package vm

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestRun boots guests whose tests misbehave, and looks at what comes back.
func TestRun(t *testing.T) {
	if testing.Short() {
		t.Skip("-short: boots no guests")
	}
	if err := Ready("amd64"); err != nil && os.Getenv("CI") == "" {
		t.Skip(err)
	} else if err != nil {
		t.Fatal(err)
	}
	h, err := Open(Options{}, t)
	if err != nil {
		t.Fatal(err)
	}
	kernel, err := h.Kernel(t.Context(), Spec{Name: "6.1", Suite: "bookworm", Arch: "amd64"})
	if err != nil {
		t.Fatal(err)
	}
	binary := filepath.Join(t.TempDir(), "misbehaved")
	if err := BuildTest(t.Context(), binary, "amd64", "./testdata/misbehaved"); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		run     string
		timeout time.Duration
		err     error  // sentinel of the error
		text    string // in the error
		tests   string // outcomes
		code    int
		output  string // in the first test's output
	}{
		{run: "TestOutcomes", tests: "TestOutcomes=fail TestOutcomes/good=pass TestOutcomes/bad=fail TestOutcomes/shy=skip", code: 1},
		{run: "TestEnvironment", tests: "TestEnvironment=pass"},
		{run: "TestExit", tests: "TestExit=unfinished", code: 3, output: "that is all"},
		{run: "TestKilled", tests: "TestKilled=unfinished", code: -1, err: ErrInit, text: "SIGKILL"},
		{run: "TestStopped", tests: "TestStopped=unfinished", err: ErrHang, text: "running TestStopped", timeout: 25 * time.Second},
		{run: "TestCrash", tests: "TestCrash=unfinished", err: ErrCrash, text: "Kernel panic - not syncing"},
		{run: "NoSuchTest", err: ErrNoTests, text: "exit code 0"},
	} {
		t.Run(tt.run, func(t *testing.T) {
			result, err := h.Run(t.Context(), t, kernel, GuestOptions{
				TestBinary: binary, Args: []string{"-test.run=^" + tt.run + "$"}, Environ: []string{"COLOUR=blue"},
				Load: []string{"loop"}, Provide: []string{"sch_netem"}, Timeout: tt.timeout,
			})
			if !errors.Is(err, tt.err) || tt.err != nil && !strings.Contains(err.Error(), tt.text) {
				t.Fatalf("error is %v, want %v with %q", err, tt.err, tt.text)
			}
			var outcomes []string
			for _, test := range result.Tests {
				outcomes = append(outcomes, test.Name+"="+string(test.Outcome))
			}
			if got := strings.Join(outcomes, " "); got != tt.tests || result.ExitCode != tt.code {
				t.Errorf("tests %q, exit code %d, want %q, %d", got, result.ExitCode, tt.tests, tt.code)
			}
			if tt.output != "" && !strings.Contains(result.Tests[0].Output, tt.output) {
				t.Errorf("output is %q, want %q in it", result.Tests[0].Output, tt.output)
			}
			if kept := string(result.Files["a/b.txt"]); (kept == "kept") != (tt.run == "TestOutcomes") {
				t.Errorf("file of the guest has %q", kept)
			}
			if result.Release != kernel.Release || result.Boot <= 0 || result.Total < result.Boot {
				t.Errorf("release %q, boot %s, total %s", result.Release, result.Boot, result.Total)
			}
		})
	}
}

func TestGuestOptions(t *testing.T) {
	t.Parallel()
	o := GuestOptions{TestBinary: "b"}
	if err := o.Validate(); err != nil || o.Timeout != 4*time.Minute {
		t.Errorf("defaults give %v, %v", o.Timeout, err)
	}
	for name, bad := range map[string]GuestOptions{"TestBinary": {}, "Timeout": {TestBinary: "b", Timeout: time.Second}} {
		if err := bad.Validate(); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("error is %v, want one that names %s", err, name)
		}
	}
}

func TestOptions(t *testing.T) {
	t.Setenv(CacheVariable, "/elsewhere")
	o := Options{}
	if err := o.Validate(); err != nil || o.Cache != "/elsewhere" {
		t.Errorf("cache is %q, %v", o.Cache, err)
	}
	t.Setenv(CacheVariable, "")
	t.Setenv("XDG_CACHE_HOME", "/user")
	o = Options{}
	if err := o.Validate(); err != nil || o.Cache != "/user/latpush/vm" {
		t.Errorf("cache is %q, %v", o.Cache, err)
	}
}
