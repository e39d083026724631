//go:build guest

package kerneltests

import (
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/latpush/latpush/internal/kernel"
	"github.com/latpush/latpush/internal/vm/guest"
	"github.com/latpush/latpush/internal/vm/guest/guesttest"
)

// A task that makes pages dirty faster than a slow disk takes them is held up for most of the time that it takes, and the kernel's threads write in the
// background for as long.
func TestWriteback(t *testing.T) {
	const size, completion, request = 24 << 20, 5 * time.Millisecond, 64 << 10
	for _, how := range []string{kernel.TpBTF, kernel.RawTracepoint} {
		t.Run(how, func(t *testing.T) {
			device := guesttest.NullBlock(t, guest.NullBlockOptions{Completion: completion, Depth: 1})
			if err := os.WriteFile("/sys/block/"+device.Name+"/queue/max_sectors_kb", []byte("64"), 0); err != nil {
				t.Fatal(err)
			}
			sysctl(t, "dirty_bytes", "8388608", "dirty_ratio")
			sysctl(t, "dirty_background_bytes", "4194304", "dirty_background_ratio")
			k := open(t, how, kernel.SourceConfig{Name: "writeback"})
			disk, err := os.OpenFile(device.Path, os.O_WRONLY, 0)
			if err != nil {
				t.Fatal(err)
			}
			defer disk.Close()
			before := read(t, k)
			began := guesttest.Monotonic(t)
			for range size / request {
				if _, err := disk.Write(make([]byte, request)); err != nil {
					t.Fatal(err)
				}
			}
			took := guesttest.Monotonic(t) - began
			if err := unix.Fsync(int(disk.Fd())); err != nil {
				t.Fatal(err)
			}
			whole := guesttest.Monotonic(t) - began
			after := read(t, k)
			throttled, background := after.since(before, "writeback_throttle_seconds "), after.since(before, "writeback_latency_seconds background")
			pauses, passes := time.Duration(throttled.SumNanoseconds), time.Duration(background.SumNanoseconds)
			t.Logf("%d pauses of %v in %v, %d passes of %v in %v", events(throttled), pauses, took, events(background), passes, whole)
			if pauses < took/3 || pauses > took*21/20 {
				t.Errorf("%d pauses of %v, but the task was held up for most of %v: %d", events(throttled), pauses, took, throttled.Counts)
			}
			// No pause is longer than a fifth of a second.
			if n := between(throttled, 0, 270*time.Millisecond); n != events(throttled) || n == 0 {
				t.Errorf("%d of %d pauses are as short as they have to be: %d", n, events(throttled), throttled.Counts)
			}
			if passes < whole/4 || passes > whole*21/20 {
				t.Errorf("%d passes of %v in %v", events(background), passes, whole)
			}
		})
	}
}
