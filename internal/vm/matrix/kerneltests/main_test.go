//go:build guest

package kerneltests

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/latpush/latpush/internal/kernel"
	"github.com/latpush/latpush/internal/vm/guest"
	"github.com/latpush/latpush/internal/vm/guest/guesttest"
)

func TestMain(m *testing.M) {
	if path := os.Getenv(readerOf); path != "" {
		readOnce(path)
	}
	if text := os.Getenv(pinnedVariable); text != "" {
		if err := livePinned(text); err != nil {
			fmt.Println(err)
		}
		os.Exit(1) // it is killed, unless something is wrong
	}
	if name := os.Getenv(childVariable); name != "" {
		if err := child(name); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	guesttest.Main(m)
}

// open runs sources, with hooks attached in one way if how is not empty, and demands that every hook is attached or not needed.
func open(t *testing.T, how string, configs ...kernel.SourceConfig) *kernel.Kernel {
	t.Helper()
	if how == "" {
		return openWays(t, nil, configs...)
	}
	return openWays(t, []string{how}, configs...)
}

// openWays is open with several ways to attach, for sources with hooks of several kinds.
func openWays(t *testing.T, ways []string, configs ...kernel.SourceConfig) *kernel.Kernel {
	t.Helper()
	for i := range configs {
		configs[i].MaxCPU = new(kernel.Cores) // an emulated CPU takes long
	}
	k, err := kernel.Open(t.Context(), configs, kernel.Options{Ways: ways})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { guesttest.Succeed(t, k.Close) })
	if missing := notAttached(k); len(missing) > 0 {
		t.Fatal(strings.Join(missing, "\n"))
	}
	for _, s := range k.Sources() {
		for _, h := range s.Hooks {
			t.Logf("%s: %s is attached by %s", s.Source, h.Name, h.How)
		}
	}
	return k
}

// notAttached says which hooks are neither attached nor needless.
func notAttached(k *kernel.Kernel) []string {
	var missing []string
	for _, s := range k.Sources() {
		if s.Err != nil {
			missing = append(missing, fmt.Sprintf("source %s: %v", s.Source, s.Err))
		}
		for _, h := range s.Hooks {
			if !h.Attached() && h.How != kernel.NotNeeded {
				missing = append(missing, fmt.Sprintf("hook %s of %s is %s: %v", h.Name, s.Source, h.How, h.Err))
			}
		}
	}
	return missing
}

// reading is what one reading of the maps gave: samples by metric and label values joined with a space, and the events that the kernel skipped.
type reading struct {
	samples map[string]kernel.Sample
	lost    uint64
}

// canSkip says whether the kernel itself can lose an event for a reason, at any time: because a program was interrupted, or preempted, by itself, or, from
// 6.19 on, because another CPU had the locks of the memory in which task storage keeps the start.
func canSkip(reason string) bool {
	return reason == "recursion" || reason == "in_flight_full" && strings.HasPrefix(guest.Kernel(), "newest")
}

// read reads the maps. Events that the kernel skipped are the only ones that may be lost.
func read(t *testing.T, k *kernel.Kernel) reading {
	t.Helper()
	samples, losses, err := k.Read()
	if err != nil {
		t.Fatal(err)
	}
	r := reading{samples: map[string]kernel.Sample{}}
	for _, l := range losses {
		if canSkip(l.Reason) {
			r.lost += l.Events
		}
	}
	for _, l := range losses {
		// A call whose start was not seen ends without one.
		if l.Events != 0 && !canSkip(l.Reason) && (l.Reason != "no_start" || l.Events > r.lost) {
			t.Errorf("source %s lost %d events: %s", l.Source, l.Events, l.Reason)
		}
	}
	for _, s := range samples {
		s.Counts = slices.Clone(s.Counts)
		r.samples[s.Metric.Name+" "+strings.Join(s.Values, " ")] = s
	}
	return r
}

// since returns what came after an earlier reading.
func (r reading) since(earlier reading, name string) kernel.Sample {
	s := r.samples[name]
	s.Counts = slices.Clone(s.Counts)
	before := earlier.samples[name]
	for i := range before.Counts {
		s.Counts[i] -= before.Counts[i]
	}
	s.SumNanoseconds -= before.SumNanoseconds
	return s
}

// agrees says whether as many events were counted as were done, but for those that the kernel says were lost.
func agrees(counted, done, lost uint64) bool { return counted <= done && counted+lost >= done }

// steady calls measure until it finds that the times are what they must be, a few times at most: when the host keeps a guest from its processors, all that
// is timed takes longer. What is counted must be right at any speed, and measure fails the test itself if it is not.
func steady(t *testing.T, measure func() error) {
	t.Helper()
	const attempts = 4
	for attempt := 1; ; attempt++ {
		err := measure()
		switch {
		case err == nil:
			return
		case attempt == attempts:
			t.Error(err)
			return
		}
		t.Log("measuring once more:", err)
	}
}

func events(s kernel.Sample) uint64 {
	var n uint64
	for _, count := range s.Counts {
		n += count
	}
	return n
}

// between returns the events in the buckets whose bounds are in (low, high].
func between(s kernel.Sample, low, high time.Duration) uint64 {
	var n uint64
	for i, bound := range s.Metric.Bounds {
		if bound > uint64(low) && bound <= uint64(high) {
			n += s.Counts[i]
		}
	}
	return n
}
