//go:build guest

package guesttests

import (
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/latpush/latpush/internal/vm/guest"
)

func TestNullBlock(t *testing.T) {
	const times, size = 20, 4096
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
			device, err := guest.NullBlock(tt.options)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { succeed(t, device.Close) })
			disk, err := unix.Open(device.Path, unix.O_RDWR|unix.O_DIRECT|unix.O_CLOEXEC, 0)
			if err != nil {
				t.Fatal(os.NewSyscallError("open", err))
			}
			t.Cleanup(func() { succeed(t, func() error { return unix.Close(disk) }) })
			page, err := unix.Mmap(-1, 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { succeed(t, func() error { return unix.Munmap(page) }) })
			before, err := guest.Diskstats(device.Name)
			if err != nil {
				t.Fatal(err)
			}
			read := fastest(t, times, func() error { _, err := unix.Pread(disk, page, 0); return err })
			write := fastest(t, times, func() error { _, err := unix.Pwrite(disk, page, size); return err })
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
