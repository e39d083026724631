//go:build guest

package kerneltests

import (
	"fmt"
	"os"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/latpush/latpush/internal/kernel"
	"github.com/latpush/latpush/internal/vm/guest"
	"github.com/latpush/latpush/internal/vm/guest/guesttest"
)

// Requests to a device of known latency are counted as /proc/diskstats counts them, each in the right bucket.
func TestBlockLatency(t *testing.T) {
	const times, completion = 25, 10 * time.Millisecond
	for _, how := range []string{kernel.TpBTF, kernel.RawTracepoint} {
		t.Run(how, func(t *testing.T) {
			device := guesttest.NullBlock(t, guest.NullBlockOptions{Completion: completion})
			k := open(t, how, kernel.SourceConfig{Name: "block"})
			disk := guesttest.OpenDirect(t, device.Path)
			before, statsBefore := read(t, k), diskstats(t, device.Name)
			took := map[string]time.Duration{}
			for operation, do := range map[string]func([]byte) (int, error){
				"read":  func(page []byte) (int, error) { return unix.Pread(disk, page, 0) },
				"write": func(page []byte) (int, error) { return unix.Pwrite(disk, page, 0) },
			} {
				start := guesttest.Monotonic(t)
				for range times {
					if _, err := do(guesttest.Page(t)); err != nil {
						t.Fatal(err)
					}
				}
				took[operation] = guesttest.Monotonic(t) - start
			}
			after, stats := read(t, k), diskstats(t, device.Name)
			for operation, wanted := range map[string]uint64{"read": stats[0] - statsBefore[0], "write": stats[1] - statsBefore[1]} {
				got := after.since(before, fmt.Sprintf("block_io_latency_seconds %s %s", device.Name, operation))
				sum := time.Duration(got.SumNanoseconds)
				t.Logf("%s: counted %d of %v, diskstats %d, callers waited %v", operation, events(got), sum, wanted, took[operation])
				if wanted != times || events(got) != wanted {
					t.Errorf("%s: counted %d, diskstats says %d, did %d", operation, events(got), wanted, times)
				}
				if n := between(got, completion, 2*completion); n < times-2 {
					t.Errorf("%s: %d of %d are in the bucket of %v: %d", operation, n, times, completion, got.Counts)
				}
				if sum < times*completion || sum > times*completion*13/10 || sum > took[operation] {
					t.Errorf("%s: the sum is %v, want about %v and at most the %v that the callers waited", operation, sum, times*completion, took[operation])
				}
			}
		})
	}
}

// Requests that wait in the scheduler because the device takes one at a time: the wait is in the queue's histogram, not in the device's.
func TestBlockQueue(t *testing.T) {
	const threads, completion = 6, 10 * time.Millisecond
	device := slowQueue(t, completion)
	k := open(t, "", kernel.SourceConfig{Name: "block"})
	before := read(t, k)
	var all sync.WaitGroup
	for i := range threads {
		disk := guesttest.OpenDirect(t, device.Path)
		buffer := guesttest.Page(t)
		all.Go(func() {
			if _, err := unix.Pread(disk, buffer, int64(i)*1<<20); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	after := read(t, k)
	served := after.since(before, "block_io_latency_seconds "+device.Name+" read")
	queued := after.since(before, "block_io_queue_seconds "+device.Name+" read")
	t.Logf("device: %d of %v; queue: %d of %v", events(served), time.Duration(served.SumNanoseconds), events(queued), time.Duration(queued.SumNanoseconds))
	if n := events(served); n != threads {
		t.Errorf("counted %d requests at the device, want %d", n, threads)
	}
	if n := between(served, completion, 2*completion); n < threads-1 {
		t.Errorf("%d of %d requests took about %v in the device: %d", n, threads, completion, served.Counts)
	}
	if n := events(queued); n < threads-1 || n > threads {
		t.Errorf("counted %d waits, want %d", n, threads)
	}
	// One after the other: the last waits for all before it.
	if least := threads * (threads - 1) / 2 * completion / 2; time.Duration(queued.SumNanoseconds) < least {
		t.Errorf("waits took %v, want at least %v", time.Duration(queued.SumNanoseconds), least)
	}
}

// slowQueue makes a block device that takes one request at a time, which others wait for in a scheduler, and returns it.
func slowQueue(t *testing.T, completion time.Duration) *guest.NullBlockDevice {
	t.Helper()
	device := guesttest.NullBlock(t, guest.NullBlockOptions{Completion: completion, Depth: 1, BlockSize: 4096, SizeMiB: 2048})
	queue := "/sys/block/" + device.Name + "/queue/"
	_ = guest.LoadModule("mq-deadline") // built in on some kernels
	guesttest.Succeed(t, func() error { return os.WriteFile(queue+"scheduler", []byte("mq-deadline"), 0) })
	// A request that finds no place waits for one before it is a request: let all have one.
	guesttest.Succeed(t, func() error { return os.WriteFile(queue+"nr_requests", []byte("64"), 0) })
	return device
}

// A flush is an operation of its own.
func TestBlockFlush(t *testing.T) {
	const times = 5
	device := guesttest.NullBlock(t, guest.NullBlockOptions{MemoryBacked: true, SizeMiB: 16, CacheMiB: 1, BlockSize: 4096})
	k := open(t, "", kernel.SourceConfig{Name: "block"})
	disk := guesttest.OpenDirect(t, device.Path)
	before := read(t, k)
	for range times {
		if _, err := unix.Pwrite(disk, guesttest.Page(t), 0); err != nil {
			t.Fatal(err)
		}
		if err := unix.Fdatasync(disk); err != nil {
			t.Fatal(err)
		}
	}
	after := read(t, k)
	for _, operation := range []string{"write", "flush"} {
		if n := events(after.since(before, "block_io_latency_seconds "+device.Name+" "+operation)); n != times {
			t.Errorf("counted %d of operation %s, want %d", n, operation, times)
		}
	}
}

// diskstats returns the reads and writes that the kernel counted.
func diskstats(t *testing.T, name string) [2]uint64 {
	t.Helper()
	stats, err := guest.Diskstats(name)
	if err != nil {
		t.Fatal(err)
	}
	return [2]uint64{stats.ReadIOs, stats.WriteIOs}
}
