package kernel

import (
	"bufio"
	"cmp"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
)

// Tests that attach to the running kernel's tracepoints, do a known amount of work and demand the same amount in the histograms.

// open runs sources and demands that each hook of each is attached in the given way, or in any if how is empty. A source may cost whatever the
// tests' work makes it cost, unless its configuration says otherwise.
func open(t *testing.T, how string, configs ...SourceConfig) *Kernel {
	t.Helper()
	var o Options
	if how != "" {
		o.Ways = []string{how}
	}
	for i := range configs {
		configs[i].MaxCPU = cmp.Or(configs[i].MaxCPU, new(Cores))
	}
	return openWith(t, o, configs...)
}

func openWith(t *testing.T, o Options, configs ...SourceConfig) *Kernel {
	t.Helper()
	k, err := Open(t.Context(), configs, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := k.Close(); err != nil {
			t.Error(err)
		}
	})
	for _, s := range k.Sources() {
		if s.Err != nil {
			t.Fatalf("source %s: %v", s.Source, s.Err)
		}
		for _, h := range s.Hooks {
			if h.Err != nil || !o.allows(h.How) {
				t.Fatalf("hook %s of %s is %s, want one of %q: %v", h.Name, s.Source, h.How, o.Ways, h.Err)
			}
		}
	}
	return k
}

// sample returns the sample of a metric whose label values are values; an empty one if there is none.
func sample(t *testing.T, k *Kernel, metric string, values ...string) Sample {
	t.Helper()
	s, skipped := sampleAndSkipped(t, k, metric, values...)
	if skipped > 20 {
		t.Errorf("the kernel skipped %d events of %s", skipped, metric)
	}
	return s
}

// canSkip says whether the kernel itself can lose an event for a reason, at any time. It does not run a program that is running on the CPU already, which
// in some kernels was preempted. From 6.19 on, task storage takes memory without waiting for locks, and there is none when another CPU has them.
func canSkip(t *testing.T, reason string) bool {
	t.Helper()
	return reason == reasonRecursion || reason == "in_flight_full" && isLinux(t, 6, 19)
}

// skippedBy returns how many events of a source were lost so.
func skippedBy(t *testing.T, s *loadedSource) (events uint64) {
	t.Helper()
	for reason, n := range lost(t, s) {
		if canSkip(t, reason) {
			events += n
		}
	}
	return events
}

// isLinux returns whether the kernel is that version or a later one.
func isLinux(t *testing.T, major, minor int) bool {
	t.Helper()
	var name unix.Utsname
	if err := unix.Uname(&name); err != nil {
		t.Fatal(err)
	}
	var has [2]int
	if _, err := fmt.Sscanf(unix.ByteSliceToString(name.Release[:]), "%d.%d", &has[0], &has[1]); err != nil {
		t.Fatal(err)
	}
	return slices.Compare(has[:], []int{major, minor}) >= 0
}

// sampleAndSkipped also returns how many events all sources have lost that the kernel skipped. No event may be lost for another reason.
func sampleAndSkipped(t *testing.T, k *Kernel, metric string, values ...string) (found Sample, events uint64) {
	t.Helper()
	samples, losses, err := k.Read()
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range losses {
		switch {
		case canSkip(t, l.Reason):
			events += l.Events
		case l.Events != 0:
			t.Errorf("source %s lost %d events: %s", l.Source, l.Events, l.Reason)
		}
	}
	for _, s := range samples {
		if s.Metric.Name == metric && slices.Equal(s.Values, values) {
			s.Counts = slices.Clone(s.Counts)
			return s, events
		}
	}
	return Sample{}, events
}

func events(s Sample) uint64 {
	var n uint64
	for _, count := range s.Counts {
		n += count
	}
	return n
}

// onThread runs f on a thread of its own, which ends with it.
func onThread(f func()) {
	var done sync.WaitGroup
	done.Go(func() {
		runtime.LockOSThread() // and never unlock: the thread dies with the goroutine
		f()
	})
	done.Wait()
}

func procFields(t *testing.T, name string) [][]string {
	t.Helper()
	file, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	var lines [][]string
	scanner := bufio.NewScanner(file)
	for scanner.Scan() {
		if fields := strings.Fields(scanner.Text()); len(fields) > 0 {
			lines = append(lines, fields)
		}
	}
	return lines
}

func parse(t *testing.T, text string) uint64 {
	t.Helper()
	number, err := strconv.ParseUint(text, 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return number
}

func TestReconfigureKeepsCounts(t *testing.T) {
	allow := SourceConfig{Name: "syscalls", Allow: []string{"getsid"}}
	k := open(t, "", allow, SourceConfig{Name: "softirq"})
	onThread(func() { _, _ = unix.Getsid(0) })
	if err := k.Reconfigure(t.Context(), []SourceConfig{{Name: "runqueue"}, allow}); err != nil {
		t.Fatal(err)
	}
	allow.Histogram, allow.Buckets = Custom, &BucketsConfig{Exp2: &Exp2Config{Min: 1000, Count: 27}}
	if err := k.Reconfigure(t.Context(), []SourceConfig{{Name: "runqueue"}, allow}); err != nil {
		t.Fatal(err)
	}
	if n := events(sample(t, k, "syscall_latency_seconds", "getsid")); n != 1 {
		t.Errorf("counted %d calls after another source and another form for the same bounds, want 1", n)
	}
	var names []string
	for _, s := range k.Sources() {
		names = append(names, s.Source)
	}
	if !slices.Equal(names, []string{"runqueue", "syscalls"}) {
		t.Errorf("sources are %v", names)
	}
	allow.Allow = []string{"getsid", "getpgid"}
	if err := k.Reconfigure(t.Context(), []SourceConfig{allow}); err != nil {
		t.Fatal(err)
	}
	if n := events(sample(t, k, "syscall_latency_seconds", "getsid")); n != 0 {
		t.Errorf("counted %d calls after another allow list, want 0", n)
	}
}

// Hooks of modules that are not there wait, and do not stop the others.
func TestNFSWaitsForItsModules(t *testing.T) {
	if _, err := os.Stat("/sys/module/nfs"); err == nil {
		t.Skip("the nfs module is loaded; the guests test both")
	}
	k, err := Open(t.Context(), []SourceConfig{{Name: "nfs"}, {Name: "softirq"}}, Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer k.Close()
	sources := k.Sources()
	for _, h := range sources[0].Hooks {
		if h.How != Waiting || h.Err == nil || !strings.HasPrefix(h.Err.Error(), "waiting for module nfs") {
			t.Errorf("hook %s is %s: %v", h.Name, h.How, h.Err)
		}
	}
	if !sources[1].Attached() {
		t.Errorf("softirq is not attached: %+v", sources[1])
	}
}

// What is done at each tick allocates little: the agent would be busy collecting garbage, and hold many times what it needs.
func TestTicksAllocateLittle(t *testing.T) {
	k, err := Open(t.Context(), DefaultConfigs(), Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := k.Close(); err != nil {
			t.Error(err)
		}
	}()
	tick := func() {
		if _, _, err := k.Read(); err != nil {
			t.Fatal(err)
		}
		k.Sources()
		k.Needs()
	}
	tick() // finds the label sets
	const ticks, most = 20, 256 << 10
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	for range ticks {
		tick()
	}
	runtime.ReadMemStats(&after)
	if each := (after.TotalAlloc - before.TotalAlloc) / ticks; each > most {
		t.Errorf("a tick allocates %d bytes, want at most %d", each, most)
	} else {
		t.Logf("a tick allocates %d bytes", each)
	}
}
