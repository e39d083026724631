package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/latpush/latpush/internal/kernel"
)

// binary is the program under test, built once by TestMain.
var binary string

func TestMain(m *testing.M) {
	folder, err := os.MkdirTemp("", "latpush-test-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	binary = filepath.Join(folder, "latpush")
	code := 1
	if err := build(binary, runtime.GOARCH, "-X github.com/prometheus/common/version.Version=1.2.3-test"); err != nil {
		fmt.Fprintln(os.Stderr, err)
	} else {
		code = m.Run()
	}
	_ = os.RemoveAll(folder)
	os.Exit(code)
}

// build makes a static binary of the package in this folder.
func build(output, arch string, ldflags ...string) error {
	flags := strings.Join(append([]string{"-s", "-w"}, ldflags...), " ")
	command := exec.Command("go", "build", "-trimpath", "-ldflags", flags, "-o", output, ".")
	command.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH="+arch)
	if out, err := command.CombinedOutput(); err != nil {
		return fmt.Errorf("build latpush for %s: %w\n%s", arch, err, out)
	}
	return nil
}

// latpush runs the binary to its end.
func latpush(t *testing.T, args ...string) (stdout, stderr string, code int) {
	t.Helper()
	var out, errOut bytes.Buffer
	command := exec.Command(binary, args...)
	command.Stdout, command.Stderr = &out, &errOut
	err := command.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return out.String(), errOut.String(), command.ProcessState.ExitCode()
}

func write(t *testing.T, name, text string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

func TestExitCodesAndMessages(t *testing.T) {
	t.Parallel()
	good := write(t, "good.yml", "sources: [{name: softirq}]\nremote_write: [{url: http://127.0.0.1:9/push}]\nexternal_labels: {instance: edge-1}\n")
	bad := write(t, "bad.yml", "intervall: 15s\nsources: [{name: zfs}]\nremote_write: [{url: http://127.0.0.1:9/push}]\nexternal_labels: {instance: edge-1}\n")
	missing := filepath.Join(t.TempDir(), "latpush.yml")
	twoErrors := bad + ":1: intervall: unknown key (did you mean interval?)\n" +
		bad + ":2: sources[0].name: unknown source \"zfs\" (known are " + strings.Join(kernel.Names(), ", ") + ")\n"
	noFile := missing + ": no such file or directory (write the file, or name another one with --config.file; two lines are enough:\n" +
		"remote_write:\n  - url: https://<receiver>/api/v1/push)\n"
	tests := []struct {
		name   string
		args   []string
		code   int
		stdout string // beginning
		stderr string // all of it
	}{
		{
			name: "check of a valid file", args: []string{"check", "--config.file", good},
			stdout: good + " is valid (interval: 15s, sources: 1, receivers: 1)\n",
		},
		{name: "check of a bad file", args: []string{"check", "--config.file=" + bad}, code: 1, stderr: twoErrors},
		{name: "run with a bad file", args: []string{"run", "--config.file=" + bad}, code: 1, stderr: twoErrors},
		{name: "flag before the command", args: []string{"--config.file=" + bad, "check"}, code: 1, stderr: twoErrors},
		{name: "check without a file", args: []string{"check", "--config.file", missing}, code: 1, stderr: noFile},
		{name: "run without a file", args: []string{"run", "--config.file", missing}, code: 1, stderr: noFile},
		{name: "version", args: []string{"version"}, stdout: "latpush, version 1.2.3-test (branch: , revision: "},
		{name: "version as a flag", args: []string{"--version"}, stdout: "latpush, version 1.2.3-test"},
		{name: "help", args: []string{"--help"}, stdout: "usage: latpush [<flags>] <command>"},
		{
			name: "unknown command", args: []string{"push"}, code: 1,
			stderr: "latpush: expected command but got \"push\" (see latpush --help)\n",
		},
		{
			name: "unknown flag", args: []string{"run", "--config=x"}, code: 1,
			stderr: "latpush: unknown long flag '--config' (see latpush --help)\n",
		},
		{
			name: "unknown level", args: []string{"run", "--log.level=loud"}, code: 1,
			stderr: "latpush: unrecognized log level loud (see latpush --help)\n",
		},
		{
			name: "unknown format", args: []string{"run", "--log.format=xml"}, code: 1,
			stderr: "latpush: unrecognized log format xml (see latpush --help)\n",
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			stdout, stderr, code := latpush(t, tt.args...)
			if code != tt.code {
				t.Errorf("exit code %d, want %d", code, tt.code)
			}
			if !strings.HasPrefix(stdout, tt.stdout) || (tt.stdout == "" && stdout != "") {
				t.Errorf("standard output:\n%s\nwant:\n%s", stdout, tt.stdout)
			}
			if stderr != tt.stderr {
				t.Errorf("standard error:\n%s\nwant:\n%s", stderr, tt.stderr)
			}
		})
	}
}

func TestSourcesPrintsEverySource(t *testing.T) {
	t.Parallel()
	stdout, stderr, code := latpush(t, "sources")
	if code != 0 || stderr != "" {
		t.Errorf("exit code %d with %q", code, stderr)
	}
	lines := strings.Split(stdout, "\n")
	if got := strings.Join(strings.Fields(lines[0]), " "); got != "SOURCE HOOK ATTACHED REMARK" {
		t.Errorf("the table begins with %q", lines[0])
	}
	_, costs, found := strings.Cut(stdout, "\n\nCOST, IN 1s")
	if !found {
		t.Fatalf("no cost is printed:\n%s", stdout)
	}
	for _, line := range strings.Split(strings.TrimSpace(costs), "\n")[1:] {
		fields := strings.Fields(line)
		share, err := strconv.ParseFloat(strings.TrimSuffix(fields[1], "%"), 64)
		if err != nil || share < 0 || share > 100 {
			t.Errorf("cost of %s is %q", fields[0], fields[1:])
		}
		if took, err := time.ParseDuration(fields[2]); fields[2] != "no" && (err != nil || took <= 0 || took > time.Millisecond) {
			t.Errorf("cost of %s is %q", fields[0], fields[1:])
		}
		if fields[0] == "runqueue" && share == 0 {
			t.Error("the source runqueue costs nothing, although this test runs")
		}
	}
	for _, source := range []string{"block", "nfs", "runqueue", "softirq", "syscalls"} {
		if !strings.Contains(stdout, "\n"+source+" ") {
			t.Errorf("source %s is missing in:\n%s", source, stdout)
		}
	}
}

// The edge binary stays small because of what it does not import.
func TestDependencies(t *testing.T) {
	t.Parallel()
	out, err := exec.Command("go", "list", "-deps", ".").Output()
	if err != nil {
		t.Fatal(err)
	}
	deps := strings.Fields(string(out))
	if len(deps) < 100 {
		t.Fatalf("only %d packages are listed", len(deps))
	}
	for _, dep := range deps {
		for _, unwanted := range []string{
			"github.com/prometheus/prometheus/tsdb", "github.com/prometheus/prometheus/promql", "github.com/prometheus/prometheus/storage",
			"github.com/prometheus/prometheus/config", "github.com/prometheus/prometheus/discovery", "github.com/latpush/latpush/internal/receiver",
			"github.com/aws/", "github.com/Azure/", "cloud.google.com/", "google.golang.org/api", "google.golang.org/grpc", "k8s.io/",
			"github.com/google/go-cmp",
		} {
			if dep == unwanted || strings.HasPrefix(dep, strings.TrimSuffix(unwanted, "/")+"/") {
				t.Errorf("the binary depends on %s", dep)
			}
		}
	}
}

func TestBinarySize(t *testing.T) {
	t.Parallel()
	const limit = 20_000_000
	for _, arch := range []string{"amd64", "arm64"} {
		t.Run(arch, func(t *testing.T) {
			t.Parallel()
			output := filepath.Join(t.TempDir(), "latpush")
			if err := build(output, arch); err != nil {
				t.Fatal(err)
			}
			info, err := os.Stat(output)
			if err != nil {
				t.Fatal(err)
			}
			t.Logf("static binary for %s: %.1f MB", arch, float64(info.Size())/1e6)
			if info.Size() >= limit {
				t.Errorf("the binary has %d bytes, %d is the limit", info.Size(), limit)
			}
		})
	}
}
