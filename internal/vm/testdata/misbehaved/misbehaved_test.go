// Package misbehaved is what the tests of package vm run in a guest. Each test does what a test should not.
package misbehaved

import (
	"fmt"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/latpush/latpush/internal/vm/guest"
)

func TestOutcomes(t *testing.T) {
	t.Run("good", func(*testing.T) {
		fmt.Print("--- FAIL: TestInvented (0.00s)\n") // a test may print anything
		fmt.Fprintln(os.Stderr, "=== RUN   TestInvented")
	})
	t.Run("bad", func(t *testing.T) { t.Error("bad news") })
	t.Run("shy", func(t *testing.T) { t.Skip("not today") })
	if err := guest.Keep("a/b.txt", []byte("kept")); err != nil {
		t.Error(err)
	}
}

func TestEnvironment(t *testing.T) {
	for key, want := range map[string]string{"HOME": "/root", "TMPDIR": "/tmp", "PATH": "/usr/sbin:/usr/bin", "COLOUR": "blue", "LATPUSH_GUEST": "6.1/amd64"} {
		if got := os.Getenv(key); got != want {
			t.Errorf("%s is %q, want %q", key, got, want)
		}
	}
	if !guest.ModuleLoaded("loop") || guest.ModuleLoaded("sch_netem") {
		t.Errorf("loaded: loop %v, sch_netem %v, want true, false", guest.ModuleLoaded("loop"), guest.ModuleLoaded("sch_netem"))
	}
}

func TestExit(*testing.T) {
	fmt.Println("that is all")
	os.Exit(3)
}

func TestKilled(t *testing.T) {
	t.Fatal(unix.Kill(unix.Getpid(), unix.SIGKILL))
}

func TestStopped(t *testing.T) {
	t.Log(unix.Kill(unix.Getpid(), unix.SIGSTOP)) // and nobody lets it go on
}

func TestCrash(t *testing.T) {
	time.Sleep(time.Second) // the host is to know by then which test runs
	t.Fatal(os.WriteFile("/proc/sysrq-trigger", []byte("c"), 0))
}
