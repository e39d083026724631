package kernel

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// dropNames fills the caches of names and inodes and drops them, on a thread of its own, and returns that thread's id.
func dropNames(t *testing.T) (thread int) {
	t.Helper()
	err := filepath.WalkDir("/sys/module", func(_ string, entry fs.DirEntry, err error) error {
		if err == nil {
			_, err = entry.Info()
		}
		if errors.Is(err, fs.ErrNotExist) {
			return nil // a module that is being removed
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	onThread(func() {
		thread = unix.Gettid()
		if err := os.WriteFile("/proc/sys/vm/drop_caches", []byte("2"), 0); err != nil {
			t.Error(err)
		}
	})
	return thread
}

// Each call of each shrinker is counted under the name of its function: as many as the kernel traces. Other tasks may call some too, so the count is
// between what was traced of this task and what was traced of all.
func TestShrinkersAreCountedByFunction(t *testing.T) {
	for _, how := range []string{TpBTF, RawTracepoint, Tracepoint} {
		t.Run(how, func(t *testing.T) {
			k := open(t, how, SourceConfig{Name: "shrinkers"})
			list := trace(t, "vmscan/mm_shrink_slab_end")
			before := shrinkerSamples(t, k)
			began := time.Now()
			thread := dropNames(t)
			took := time.Since(began)
			after := shrinkerSamples(t, k)
			own, all := map[string]uint64{}, map[string]uint64{}
			for _, line := range list() {
				function, _, _ := strings.Cut(line.text, "+")
				all[function]++
				if line.task == thread {
					own[function]++
				}
			}
			if own["super_cache_scan"] == 0 {
				t.Errorf("the caches of file systems were not shrunk: the kernel traced %v", own)
			}
			var sum time.Duration
			for function := range all {
				n := events(after[function]) - events(before[function])
				t.Logf("%s: counted %d, traced %d, %d of them by this task", function, n, all[function], own[function])
				if n < own[function] || n > all[function] {
					t.Errorf("%s: counted %d, want %d to %d", function, n, own[function], all[function])
				}
				if all[function] == own[function] {
					sum += time.Duration(after[function].SumNanoseconds - before[function].SumNanoseconds)
				}
			}
			if sum <= 0 || sum > took {
				t.Errorf("calls by this task took %v in %v", sum, took)
			}
			if n := events(after[other]); n != 0 {
				t.Errorf("%d calls have no function", n)
			}
		})
	}
}

// shrinkerSamples returns the samples by function.
func shrinkerSamples(t *testing.T, k *Kernel) map[string]Sample {
	t.Helper()
	samples, losses, err := k.Read()
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range losses {
		if l.Events != 0 {
			t.Errorf("lost %d events: %s", l.Events, l.Reason)
		}
	}
	found := map[string]Sample{}
	for _, s := range samples {
		if s.Metric.Name == "shrinker_latency_seconds" {
			s.Counts = slices.Clone(s.Counts)
			found[s.Values[0]] = s
		}
	}
	return found
}

// Functions beyond the bound are counted under "other", and no call is lost.
func TestShrinkersLabelSetsAreBounded(t *testing.T) {
	k := open(t, "", SourceConfig{Name: "shrinkers", MaxLabelSets: 1})
	list := trace(t, "vmscan/mm_shrink_slab_end")
	thread := dropNames(t)
	var own, counted uint64
	found := shrinkerSamples(t, k)
	for _, line := range list() {
		if line.task == thread {
			own++
		}
	}
	for _, s := range found {
		counted += events(s)
	}
	if len(found) > 2 || counted < own {
		t.Errorf("counted %d calls of this task's %d under %d names, want all under one and %q", counted, own, len(found), other)
	}
}
