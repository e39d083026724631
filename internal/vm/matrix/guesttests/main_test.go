//go:build guest

package guesttests

import (
	"testing"
	"time"

	"github.com/latpush/latpush/internal/vm/guest/guesttest"
)

func TestMain(m *testing.M) { guesttest.Main(m) }

// fastest returns the shortest of several runs: an emulated processor may take any time, and never less than the truth.
func fastest(t *testing.T, times int, f func() error) time.Duration {
	t.Helper()
	shortest := time.Duration(1<<63 - 1)
	for range times {
		start := guesttest.Monotonic(t)
		if err := f(); err != nil {
			t.Fatal(err)
		}
		shortest = min(shortest, guesttest.Monotonic(t)-start)
	}
	return shortest
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
