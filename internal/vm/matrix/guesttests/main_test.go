//go:build guest

package guesttests

import (
	"fmt"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/latpush/latpush/internal/vm/guest"
)

func TestMain(m *testing.M) {
	if guest.Kernel() == "" {
		fmt.Fprintln(os.Stderr, "these tests mount file systems and slow down lo: run them in a guest only (go test ./internal/vm/matrix)")
		os.Exit(2)
	}
	os.Exit(m.Run())
}

// serve runs the NFS server for as long as the test.
func serve(t *testing.T) {
	t.Helper()
	server, err := guest.ServeNFS(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { succeed(t, server.Close) })
}

// mount mounts the server's export for as long as the test.
func mount(t *testing.T, version string) string {
	t.Helper()
	dir := "/mnt/" + version
	if err := guest.MountNFS(version, dir); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { succeed(t, func() error { return guest.Unmount(dir) }) })
	return dir
}

// prepare makes a workload's files for as long as the test.
func prepare(t *testing.T, w guest.Workload, dir string) *guest.Runner {
	t.Helper()
	runner, err := w.Prepare(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { succeed(t, runner.Close) })
	return runner
}

func succeed(t *testing.T, f func() error) {
	t.Helper()
	if err := f(); err != nil {
		t.Error(err)
	}
}

// fastest returns the shortest of several runs: an emulated processor may take any time, and never less than the truth.
func fastest(t *testing.T, times int, f func() error) time.Duration {
	t.Helper()
	shortest := time.Duration(1<<63 - 1)
	for range times {
		start := monotonic(t)
		if err := f(); err != nil {
			t.Fatal(err)
		}
		shortest = min(shortest, monotonic(t)-start)
	}
	return shortest
}

func monotonic(t *testing.T) time.Duration {
	t.Helper()
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &now); err != nil {
		t.Fatal(err)
	}
	return time.Duration(now.Nano())
}

// within demands lowest <= got < highest.
func within(t *testing.T, what string, got, lowest, highest time.Duration) {
	t.Helper()
	if got < lowest || got >= highest {
		t.Errorf("%s took %s, want at least %s and less than %s", what, got, lowest, highest)
		return
	}
	t.Logf("%s took %s", what, got)
}
