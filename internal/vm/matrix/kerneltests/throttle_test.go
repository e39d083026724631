//go:build guest

package kerneltests

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/latpush/latpush/internal/kernel"
)

// quotaGroup is a control group that may have a fifth of a CPU.
type quotaGroup struct {
	root, folder string
	unlimited    func() error
	timeKey      string // of cpu.stat
	timeUnit     time.Duration
}

const (
	quotaPeriod = 100 * time.Millisecond
	quota       = 20 * time.Millisecond
)

// newQuotaGroup makes the group in a hierarchy of version 1 or 2. The controller belongs to one of them at a time.
func newQuotaGroup(t *testing.T, version int) *quotaGroup {
	t.Helper()
	g := &quotaGroup{root: t.TempDir()}
	kind, options := "cgroup2", ""
	if version == 1 {
		kind, options = "cgroup", "cpu"
	}
	eventually(t, func() error { return unix.Mount("none", g.root, kind, 0, options) }) // the other version lets go of it after a while
	t.Cleanup(func() { eventually(t, func() error { return unix.Unmount(g.root, 0) }) })
	if version == 2 {
		control := filepath.Join(g.root, "cgroup.subtree_control")
		eventually(t, func() error { return os.WriteFile(control, []byte("+cpu"), 0) })
		t.Cleanup(func() {
			if err := os.WriteFile(control, []byte("-cpu"), 0); err != nil {
				t.Error(err)
			}
		})
	}
	g.folder = filepath.Join(g.root, "throttled")
	if err := os.Mkdir(g.folder, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { eventually(t, func() error { return os.Remove(g.folder) }) })
	var err error
	if version == 1 {
		g.timeKey, g.timeUnit = "throttled_time", time.Nanosecond
		g.unlimited = func() error { return g.set("cpu.cfs_quota_us", "-1") }
		if err = g.set("cpu.cfs_period_us", strconv.Itoa(int(quotaPeriod.Microseconds()))); err == nil {
			err = g.set("cpu.cfs_quota_us", strconv.Itoa(int(quota.Microseconds())))
		}
	} else {
		g.timeKey, g.timeUnit = "throttled_usec", time.Microsecond
		g.unlimited = func() error { return g.set("cpu.max", "max") }
		err = g.set("cpu.max", fmt.Sprintf("%d %d", quota.Microseconds(), quotaPeriod.Microseconds()))
	}
	if err != nil {
		t.Fatal(err)
	}
	return g
}

// eventually calls f until it succeeds.
func eventually(t *testing.T, f func() error) {
	t.Helper()
	deadline := time.Now().Add(10 * time.Second)
	for err := f(); err != nil; err = f() {
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

func (g *quotaGroup) set(key, value string) error {
	return os.WriteFile(filepath.Join(g.folder, key), []byte(value), 0)
}

// stat returns in how many periods the kernel has throttled the group, and for how long, to timeUnit.
func (g *quotaGroup) stat(t *testing.T) (periods uint64, held time.Duration) {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(g.folder, "cpu.stat"))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		var key string
		var value uint64
		if _, err := fmt.Sscan(line, &key, &value); err != nil {
			t.Fatal(err)
		}
		switch key {
		case "nr_throttled":
			periods = value
		case g.timeKey:
			held = time.Duration(value) * g.timeUnit
		}
	}
	return periods, held
}

// useUp makes this process a member of the group, on one CPU, and keeps that busy for some periods.
func (g *quotaGroup) useUp(t *testing.T, periods int) {
	t.Helper()
	pin(t, 0)
	if err := g.set("cgroup.procs", strconv.Itoa(os.Getpid())); err != nil {
		t.Fatal(err)
	}
	for stop := time.Now().Add(time.Duration(periods) * quotaPeriod); time.Now().Before(stop); {
	}
	if err := g.unlimited(); err != nil {
		t.Error(err)
	}
	if err := os.WriteFile(filepath.Join(g.root, "cgroup.procs"), []byte(strconv.Itoa(os.Getpid())), 0); err != nil {
		t.Fatal(err)
	}
	pin(t, -1)
}

// pin lets all threads of this process run on one CPU only, or on all if it is -1.
func pin(t *testing.T, cpu int) {
	t.Helper()
	var cpus unix.CPUSet
	for i := range runtime.NumCPU() {
		if cpu < 0 || i == cpu {
			cpus.Set(i)
		}
	}
	threads, err := os.ReadDir("/proc/self/task")
	if err != nil {
		t.Fatal(err)
	}
	for _, thread := range threads {
		id, err := strconv.Atoi(thread.Name())
		if err != nil {
			t.Fatal(err)
		}
		if err := unix.SchedSetaffinity(id, &cpus); err != nil {
			t.Fatal(err)
		}
	}
}

// A group with a fifth of a CPU is held for the rest of each period, as often and exactly as long as the kernel says in cpu.stat.
func TestCPUThrottleAgreesWithCPUStat(t *testing.T) {
	const periods = 12
	for _, version := range []int{2, 1} {
		for _, how := range []string{kernel.Fentry, kernel.Kprobe} {
			t.Run(fmt.Sprintf("cgroup v%d %s", version, how), func(t *testing.T) {
				g := newQuotaGroup(t, version)
				k := open(t, how, kernel.SourceConfig{Name: "cpu_throttle"})
				before := read(t, k)
				g.useUp(t, periods)
				after := read(t, k)
				got := after.since(before, "cpu_throttle_seconds /throttled")
				wantPeriods, held := g.stat(t)
				sum := time.Duration(got.SumNanoseconds)
				t.Logf("counted %d times of %v, the kernel %d periods and %v", events(got), sum, wantPeriods, held)
				// A timer that comes late, as it may in a guest, ends one long hold and counts all the periods that it spans.
				if wantPeriods < periods/2 || events(got) < periods/3 || events(got) > wantPeriods+1 {
					t.Errorf("counted %d times, the kernel %d periods", events(got), wantPeriods)
				}
				if off := sum - held; off < 0 || off >= g.timeUnit {
					t.Errorf("counted %v, the kernel %v", sum, held)
				}
				const low, high, late = 65536 * time.Microsecond, 131072 * time.Microsecond, 1048576 * time.Microsecond
				if n, all := between(got, low, high), between(got, low, late); n*2 < events(got) || all*3 < events(got)*2 {
					t.Errorf("%d of %d times are of about %v, %d of that or more: %v", n, events(got), quotaPeriod-quota, all, got.Counts)
				}
			})
		}
	}
}
