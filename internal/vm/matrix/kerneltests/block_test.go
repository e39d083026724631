//go:build guest

package kerneltests

import (
	"errors"
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
			steady(t, func() error { return measureBlock(t, k, device.Name, disk, times, completion) })
		})
	}
}

// measureBlock reads and writes that often, and says what is wrong with the times.
func measureBlock(t *testing.T, k *kernel.Kernel, device string, disk, times int, completion time.Duration) error {
	t.Helper()
	before, statsBefore := read(t, k), diskstats(t, device)
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
	after, stats := read(t, k), diskstats(t, device)
	var errs []error
	for operation, wanted := range map[string]uint64{"read": stats[0] - statsBefore[0], "write": stats[1] - statsBefore[1]} {
		got := after.since(before, "block_io_latency_seconds "+device+" "+operation)
		n, sum := events(got), time.Duration(got.SumNanoseconds)
		t.Logf("%s: counted %d of %v, diskstats %d, callers waited %v", operation, n, sum, wanted, took[operation])
		if wanted != uint64(times) || !agrees(n, wanted, after.lost-before.lost) {
			t.Errorf("%s: counted %d, diskstats says %d, did %d", operation, n, wanted, times)
		}
		least := time.Duration(n) * completion
		if sum < least || sum > took[operation] {
			t.Errorf("%s: the sum is %v, want at least %v and at most the %v that the callers waited", operation, sum, least, took[operation])
		}
		if in := between(got, completion, 2*completion); in+2 < n || sum > least*13/10 {
			errs = append(errs, fmt.Errorf("%s: %d of %d are in the bucket of %v, all take %v: %d", operation, in, n, completion, sum, got.Counts))
		}
	}
	return errors.Join(errs...)
}

// Requests that wait in the scheduler because the device takes one at a time: the wait is in the queue's histogram, not in the device's.
func TestBlockQueue(t *testing.T) {
	const threads, completion = 6, 10 * time.Millisecond
	device := slowQueue(t, completion)
	k := open(t, "", kernel.SourceConfig{Name: "block"})
	steady(t, func() error {
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
		lost := after.lost - before.lost
		served := after.since(before, "block_io_latency_seconds "+device.Name+" read")
		queued := after.since(before, "block_io_queue_seconds "+device.Name+" read")
		t.Logf("device: %d of %v; queue: %d of %v", events(served), time.Duration(served.SumNanoseconds), events(queued), time.Duration(queued.SumNanoseconds))
		if n := events(served); !agrees(n, threads, lost) {
			t.Errorf("counted %d requests at the device, want %d", n, threads)
		}
		if n := events(queued); n+1+lost < threads || n > threads {
			t.Errorf("counted %d waits, want %d", n, threads)
		}
		if n := between(served, completion, 2*completion); n+1 < events(served) {
			return fmt.Errorf("%d of %d requests took about %v in the device: %d", n, events(served), completion, served.Counts)
		}
		// One after the other: the last waits for all before it.
		if least := threads * (threads - 1) / 2 * completion / 2; time.Duration(queued.SumNanoseconds) < least {
			return fmt.Errorf("waits took %v, want at least %v", time.Duration(queued.SumNanoseconds), least)
		}
		return nil
	})
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
		if n := events(after.since(before, "block_io_latency_seconds "+device.Name+" "+operation)); !agrees(n, times, after.lost-before.lost) {
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
