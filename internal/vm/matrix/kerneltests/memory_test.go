//go:build guest

package kerneltests

import (
	"crypto/rand"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/latpush/latpush/internal/kernel"
	"github.com/latpush/latpush/internal/vm/guest"
	"github.com/latpush/latpush/internal/vm/guest/guesttest"
)

// A read that waits so long is in one of the buckets between these: the kernel's timer makes it a tick less or more, and an emulated CPU wakes up late.
const delayed, atLeast, atMost = 25 * time.Millisecond, 16 * time.Millisecond, 66 * time.Millisecond

// delayedDisk makes a disk whose reads take a known time and whose writes are done at once.
func delayedDisk(t *testing.T) *guest.DelayedDisk {
	t.Helper()
	lower, err := guest.MemoryDisk(64)
	if err != nil {
		t.Fatal(err)
	}
	return guesttest.DelayedDisk(t, guest.DelayedDiskOptions{Lower: lower, Read: delayed})
}

// vmstat returns the sum of the kernel's counts whose names begin with a prefix, such as "allocstall".
func vmstat(t *testing.T, prefix string) uint64 {
	t.Helper()
	text, err := os.ReadFile("/proc/vmstat")
	if err != nil {
		t.Fatal(err)
	}
	var sum uint64
	for line := range strings.Lines(string(text)) {
		fields := strings.Fields(line)
		if !strings.HasPrefix(fields[0], prefix) {
			continue
		}
		n, err := strconv.ParseUint(fields[1], 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		sum += n
	}
	return sum
}

// sysctl sets a parameter in /proc/sys/vm for as long as the test. What sets it back may be another one, of which the first is an override.
func sysctl(t *testing.T, name, value, back string) {
	t.Helper()
	const folder = "/proc/sys/vm/"
	before, err := os.ReadFile(folder + back)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(folder+name, []byte(value), 0); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { guesttest.Succeed(t, func() error { return os.WriteFile(folder+back, before, 0) }) })
}

// mapped maps memory of a file, or of none, for as long as the test.
func mapped(t *testing.T, file, pages, flags int) []byte {
	t.Helper()
	memory, err := unix.Mmap(file, 0, pages*os.Getpagesize(), unix.PROT_READ|unix.PROT_WRITE, flags)
	if err != nil {
		t.Fatal(os.NewSyscallError("mmap", err))
	}
	t.Cleanup(func() { guesttest.Succeed(t, func() error { return unix.Munmap(memory) }) })
	return memory
}

// majorFaults returns how many the kernel has counted of the calling thread.
func majorFaults(t *testing.T) uint64 {
	t.Helper()
	var usage unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_THREAD, &usage); err != nil {
		t.Fatal(err)
	}
	return uint64(usage.Majflt)
}

// Faults on pages of a file that has to be read are counted once each, with the time of all tries, and those on pages in memory are not.
func TestPageFault(t *testing.T) {
	for _, how := range []string{kernel.Fentry, kernel.Kprobe} {
		for _, g := range groups() {
			t.Run(how+"/"+g.String(), func(t *testing.T) { g.do(t, func() { checkPageFaults(t, how, g) }) })
		}
	}
}

func checkPageFaults(t *testing.T, how string, g group) {
	t.Helper()
	const times, apart, first = 10, 64, 100
	onOneCPU(t) // so on one thread, too
	disk := guesttest.OpenDirect(t, delayedDisk(t).Path)
	memory := mapped(t, disk, 8192, unix.MAP_PRIVATE)
	if err := unix.Madvise(memory, unix.MADV_RANDOM); err != nil { // only the page itself is read
		t.Fatal(err)
	}
	k := open(t, how, kernel.SourceConfig{Name: "page_fault", Labels: g.labels()})
	var sum byte
	next := first
	for _, access := range []struct {
		name  string
		touch func(*byte)
	}{
		{"read", func(b *byte) { sum += *b }},
		{"write", func(b *byte) { *b = 1 }},
	} {
		steady(t, func() error {
			before, counted := read(t, k), majorFaults(t)
			began := guesttest.Monotonic(t)
			for range times {
				access.touch(&memory[next*os.Getpagesize()])
				access.touch(&memory[next*os.Getpagesize()+8])
				next += apart
			}
			took := guesttest.Monotonic(t) - began
			counted = majorFaults(t) - counted
			after := read(t, k)
			got := after.since(before, g.sample("page_fault_latency_seconds", access.name))
			n := events(got)
			t.Logf("%s: counted %d of %v in %v, the kernel %d", access.name, n, time.Duration(got.SumNanoseconds), took, counted)
			if counted != times || !agrees(n, times, after.lost-before.lost) {
				t.Errorf("%s: counted %d faults, the kernel %d, made %d; %d events were lost", access.name, n, counted, times, after.lost-before.lost)
			}
			if time.Duration(got.SumNanoseconds) > took {
				t.Errorf("%s: faults of %v in %v", access.name, time.Duration(got.SumNanoseconds), took)
			}
			if in := between(got, atLeast, atMost); in+2 < n {
				return fmt.Errorf("%s: %d of %d are in the buckets of %v: %d", access.name, in, n, delayed, got.Counts)
			}
			return nil
		})
	}
	before := read(t, k)
	minor := mapped(t, -1, 256, unix.MAP_PRIVATE|unix.MAP_ANON)
	for page := range 256 {
		minor[page*os.Getpagesize()] = sum
	}
	after := read(t, k)
	for _, access := range []string{"read", "write", "execute"} {
		if n := events(after.since(before, g.sample("page_fault_latency_seconds", access))); n != 0 {
			t.Errorf("%s: counted %d minor faults", access, n)
		}
	}
}

// onOneCPU keeps the calling goroutine on a thread and a CPU for as long as the test.
func onOneCPU(t *testing.T) {
	t.Helper()
	runtime.LockOSThread()
	var all, one unix.CPUSet
	if err := unix.SchedGetaffinity(0, &all); err != nil {
		t.Fatal(err)
	}
	one.Set(0)
	if err := unix.SchedSetaffinity(0, &one); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		guesttest.Succeed(t, func() error { return unix.SchedSetaffinity(0, &all) })
		runtime.UnlockOSThread()
	})
}

// Pages of a task that were swapped out are counted when they are read back, each once, with the time that the disk takes.
func TestSwapIn(t *testing.T) {
	for _, how := range []string{kernel.Fentry, kernel.Kprobe} {
		for _, g := range groups() {
			t.Run(how+"/"+g.String(), func(t *testing.T) { g.do(t, func() { checkSwapIn(t, how, g) }) })
		}
	}
}

func checkSwapIn(t *testing.T, how string, g group) {
	t.Helper()
	const pages = 20
	onOneCPU(t) // each CPU keeps new pages off the list from which they can be swapped out
	disk := delayedDisk(t)
	if err := guest.SwapOn(disk.Path, 32<<20); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { guesttest.Succeed(t, func() error { return guest.SwapOff(disk.Path) }) })
	sysctl(t, "page-cluster", "0", "page-cluster") // only the page itself is read
	memory := mapped(t, -1, pages, unix.MAP_PRIVATE|unix.MAP_ANON)
	k := open(t, how, kernel.SourceConfig{Name: "swap_in", Labels: g.labels()})
	steady(t, func() error {
		if _, err := rand.Read(memory); err != nil { // newer kernels do not write zeros
			t.Fatal(err)
		}
		content, out := string(memory), vmstat(t, "pswpout")
		if err := unix.Madvise(memory, unix.MADV_PAGEOUT); err != nil {
			t.Fatal(err)
		}
		if out = vmstat(t, "pswpout") - out; out != pages {
			return fmt.Errorf("the kernel swapped out %d pages of %d", out, pages)
		}
		before, in := read(t, k), vmstat(t, "pswpin")
		began := guesttest.Monotonic(t)
		if string(memory) != content {
			t.Error("memory comes back as something else")
		}
		took := guesttest.Monotonic(t) - began
		in = vmstat(t, "pswpin") - in
		after := read(t, k)
		got := after.since(before, g.sample("swap_in_latency_seconds"))
		n, sum := events(got), time.Duration(got.SumNanoseconds)
		t.Logf("counted %d of %v in %v, the kernel %d", n, sum, took, in)
		if in != pages || !agrees(n, pages, after.lost-before.lost) {
			t.Errorf("counted %d pages, the kernel %d, swapped out %d; %d events were lost", n, in, pages, after.lost-before.lost)
		}
		if sum > took {
			t.Errorf("all took %v of %v", sum, took)
		}
		if inBucket := between(got, atLeast, atMost); inBucket+2 < n {
			return fmt.Errorf("%d of %d are in the buckets of %v: %d", inBucket, n, delayed, got.Counts)
		}
		return nil
	})
}
