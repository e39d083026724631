//go:build guest

package guesttests

import (
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/latpush/latpush/internal/vm/guest"
	"github.com/latpush/latpush/internal/vm/guest/guesttest"
)

func TestNullBlock(t *testing.T) {
	const times = 20
	for _, tt := range []struct {
		name    string
		options guest.NullBlockOptions
		highest time.Duration
	}{
		{"10 ms", guest.NullBlockOptions{Completion: 10 * time.Millisecond}, 15 * time.Millisecond},
		{"30 ms, two queues", guest.NullBlockOptions{Completion: 30 * time.Millisecond, SubmitQueues: 2}, 40 * time.Millisecond},
		{"at once", guest.NullBlockOptions{}, 5 * time.Millisecond},
		{"in memory", guest.NullBlockOptions{MemoryBacked: true, SizeMiB: 16, BlockSize: 4096}, 5 * time.Millisecond},
	} {
		t.Run(tt.name, func(t *testing.T) {
			device := guesttest.NullBlock(t, tt.options)
			disk, page := guesttest.OpenDirect(t, device.Path), guesttest.Page(t)
			before, err := guest.Diskstats(device.Name)
			if err != nil {
				t.Fatal(err)
			}
			read := fastest(t, times, func() error { _, err := unix.Pread(disk, page, 0); return err })
			write := fastest(t, times, func() error { _, err := unix.Pwrite(disk, page, int64(len(page))); return err })
			after, err := guest.Diskstats(device.Name)
			if err != nil {
				t.Fatal(err)
			}
			within(t, "read", read, tt.options.Completion, tt.highest)
			within(t, "write", write, tt.options.Completion, tt.highest)
			if reads, writes := after.ReadIOs-before.ReadIOs, after.WriteIOs-before.WriteIOs; reads != times || writes != times {
				t.Errorf("the kernel saw %d reads and %d writes, want %d of each", reads, writes, times)
			}
			lowest := uint64(times) * uint64(tt.options.Completion.Milliseconds())
			if ticks := after.ReadTicks - before.ReadTicks; ticks < lowest {
				t.Errorf("the kernel counted %d ms for the reads, want at least %d", ticks, lowest)
			}
		})
	}
}
