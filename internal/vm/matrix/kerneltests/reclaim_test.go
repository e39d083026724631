//go:build guest

package kerneltests

import (
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/latpush/latpush/internal/kernel"
	"github.com/latpush/latpush/internal/vm/guest"
	"github.com/latpush/latpush/internal/vm/guest/guesttest"
)

// Tasks that take memory faster than kswapd frees it are held up as often as the kernel counts.
func TestDirectReclaim(t *testing.T) {
	const least, threads, chunk, rest = 30, 4, 32 << 20, 384 << 20
	device := guesttest.NullBlock(t, guest.NullBlockOptions{SizeMiB: 64 << 10})
	disk, err := os.Open(device.Path)
	if err != nil {
		t.Fatal(err)
	}
	defer disk.Close()
	takeMemory(t, rest)
	// The kernel's reserve is as small as can be, so that it is used up at once.
	sysctl(t, "min_free_kbytes", "2048", "min_free_kbytes")
	sysctl(t, "watermark_scale_factor", "1", "watermark_scale_factor")
	k := open(t, "", kernel.SourceConfig{Name: "reclaim"})
	fillPageCache(t, disk, rest)
	before, stalls := read(t, k), vmstat(t, "allocstall")
	began := guesttest.Monotonic(t)
	for deadline := began + time.Minute; vmstat(t, "allocstall")-stalls < least; {
		if guesttest.Monotonic(t) > deadline {
			t.Fatalf("the kernel counted %d stalls in a minute, want %d", vmstat(t, "allocstall")-stalls, least)
		}
		var all sync.WaitGroup
		for range threads {
			all.Go(func() {
				memory, err := unix.Mmap(-1, 0, chunk, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON|unix.MAP_POPULATE)
				if err != nil {
					t.Error(err)
					return
				}
				if err := unix.Munmap(memory); err != nil {
					t.Error(err)
				}
			})
		}
		all.Wait()
		fillPageCache(t, disk, rest)
	}
	took := guesttest.Monotonic(t) - began
	after, stallsAfter := read(t, k), vmstat(t, "allocstall")
	got := after.since(before, "memory_stall_seconds reclaim")
	n, sum, want := events(got), time.Duration(got.SumNanoseconds), stallsAfter-stalls
	t.Logf("counted %d stalls of %v in %v, the kernel %d", n, sum, took, want)
	// The kernel counts its own threads' too, and one that is tried again twice.
	if n > want || n+after.lost-before.lost < want*3/4 {
		t.Errorf("counted %d stalls, the kernel %d; %d events were lost", n, want, after.lost-before.lost)
	}
	if sum <= 0 || sum > (threads+1)*took {
		t.Errorf("%d stalls of %d tasks took %v in %v", n, threads+1, sum, took)
	}
}

// takeMemory takes all free memory but a rest, for as long as the test.
func takeMemory(t *testing.T, rest uint64) {
	t.Helper()
	var machine unix.Sysinfo_t
	if err := unix.Sysinfo(&machine); err != nil {
		t.Fatal(err)
	}
	free := machine.Freeram * uint64(machine.Unit)
	if free <= rest {
		t.Fatalf("%d bytes of memory are free, want more than %d", free, rest)
	}
	memory, err := unix.Mmap(-1, 0, int(free-rest), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { guesttest.Succeed(t, func() error { return unix.Munmap(memory) }) })
	if err := unix.Madvise(memory, unix.MADV_HUGEPAGE); err != nil { // it takes less time
		t.Fatal(err)
	}
	for i := 0; i < len(memory); i += os.Getpagesize() {
		memory[i] = 1
	}
}

// fillPageCache reads so many bytes from a disk, which it has not read before.
func fillPageCache(t *testing.T, disk *os.File, bytes int) {
	t.Helper()
	buffer := make([]byte, 1<<20)
	for range bytes >> 20 {
		if _, err := disk.Read(buffer); err != nil {
			t.Fatal(err)
		}
	}
}

// A task that has all memory compacted is held up once for each zone.
func TestCompaction(t *testing.T) {
	const times = 3
	zones := uint64(0)
	text, err := os.ReadFile("/proc/zoneinfo")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		if fields := strings.Fields(line); len(fields) == 2 && fields[0] == "present" && fields[1] != "0" {
			zones++
		}
	}
	for _, how := range []string{kernel.TpBTF, kernel.RawTracepoint, kernel.Tracepoint} {
		t.Run(how, func(t *testing.T) {
			k := open(t, how, kernel.SourceConfig{Name: "reclaim"})
			before := read(t, k)
			began := guesttest.Monotonic(t)
			for range times {
				if err := os.WriteFile("/proc/sys/vm/compact_memory", []byte("1"), 0); err != nil {
					t.Fatal(err)
				}
			}
			took := guesttest.Monotonic(t) - began
			after := read(t, k)
			got := after.since(before, "memory_stall_seconds compaction")
			n, sum := events(got), time.Duration(got.SumNanoseconds)
			t.Logf("counted %d of %v in %v", n, sum, took)
			if want := times * zones; n > want || n+after.lost-before.lost < want {
				t.Errorf("counted %d, want %d, of which %d may be lost", n, want, after.lost-before.lost)
			}
			if sum <= 0 || sum > took {
				t.Errorf("%d took %v in %v", n, sum, took)
			}
		})
	}
}
