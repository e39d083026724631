//go:build guest

package kerneltests

import (
	"errors"
	"fmt"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/latpush/latpush/internal/kernel"
	"github.com/latpush/latpush/internal/vm/guest"
	"github.com/latpush/latpush/internal/vm/guest/guesttest"
)

// A disk of the device mapper is timed by its bios: one each, also when it is split on the way, with the time that the target takes. The disk below is
// timed by its requests, once each.
func TestBiosOfDeviceMapper(t *testing.T) {
	const times, parts = 10, 2
	for _, how := range []string{kernel.TpBTF, kernel.RawTracepoint} {
		t.Run(how, func(t *testing.T) {
			lower := guesttest.NullBlock(t, guest.NullBlockOptions{MemoryBacked: true, SizeMiB: 32, CacheMiB: 1, BlockSize: 4096})
			upper := guesttest.DelayedDisk(t, guest.DelayedDiskOptions{Lower: lower.Path, Read: delayed, Parts: parts})
			disk := guesttest.OpenDirect(t, upper.Path)
			size, err := unix.Seek(disk, 0, unix.SEEK_END)
			if err != nil {
				t.Fatal(err)
			}
			border := size / parts
			two := mapped(t, -1, 2, unix.MAP_PRIVATE|unix.MAP_ANON)
			one := two[:os.Getpagesize()]
			k := open(t, how, kernel.SourceConfig{Name: "block"})
			steady(t, func() error {
				before, statsBefore := read(t, k), diskstats(t, lower.Name)
				for i := range int64(times) {
					for _, err := range []error{
						second(unix.Pread(disk, one, i*int64(len(one)))),
						second(unix.Pread(disk, two, border-int64(len(one)))),
						second(unix.Pwrite(disk, one, i*int64(len(one)))),
						unix.Fdatasync(disk),
					} {
						if err != nil {
							t.Fatal(err)
						}
					}
				}
				after, stats := read(t, k), diskstats(t, lower.Name)
				lost := after.lost - before.lost
				var errs []error
				for _, want := range []struct {
					device, operation string
					events            uint64
				}{
					{upper.Name, "read", 2 * times},
					{upper.Name, "write", times},
					{upper.Name, "flush", times},
					{lower.Name, "read", stats[0] - statsBefore[0]},
					{lower.Name, "write", times}, // the kernel counts a flush as a write, too
				} {
					got := after.since(before, fmt.Sprintf("block_io_latency_seconds %s %s", want.device, want.operation))
					n := events(got)
					t.Logf("%s %s: %d of %v", want.device, want.operation, n, time.Duration(got.SumNanoseconds))
					if !agrees(n, want.events, lost) {
						t.Errorf("%s %s: counted %d, want %d, of which %d may be lost", want.device, want.operation, n, want.events, lost)
					}
					if want.device != upper.Name {
						continue
					}
					low, high := time.Duration(0), delayed/2
					if want.operation == "read" {
						low, high = atLeast, atMost
					}
					if in := between(got, low, high); in+2 < n {
						errs = append(errs, fmt.Errorf("%s %s: %d of %d took %v to %v: %d", want.device, want.operation, in, n, low, high, got.Counts))
					}
				}
				if n := stats[0] - statsBefore[0]; n <= 2*times || n > 3*times {
					t.Errorf("the disk below counted %d reads, want %d: those over the border are two, unless the kernel puts the parts together again", n, 3*times)
				}
				return errors.Join(errs...)
			})
		})
	}
}

// A mirror of the driver md is timed by its bios, once each however many disks there are below, with the time that they take.
func TestBiosOfMirror(t *testing.T) {
	const times = 10
	for _, how := range []string{kernel.TpBTF, kernel.RawTracepoint} {
		t.Run(how, func(t *testing.T) {
			lower := guest.NullBlockOptions{MemoryBacked: true, SizeMiB: 32, BlockSize: 4096, Completion: delayed}
			mirror := guesttest.Mirror(t, how, guesttest.NullBlock(t, lower).Path, guesttest.NullBlock(t, lower).Path)
			disk, page := guesttest.OpenDirect(t, mirror.Path), guesttest.Page(t)
			k := open(t, how, kernel.SourceConfig{Name: "block"})
			steady(t, func() error {
				before := read(t, k)
				for i := range int64(times) {
					for _, err := range []error{second(unix.Pread(disk, page, i*int64(len(page)))), second(unix.Pwrite(disk, page, i*int64(len(page))))} {
						if err != nil {
							t.Fatal(err)
						}
					}
				}
				after := read(t, k)
				var errs []error
				for _, operation := range []string{"read", "write"} {
					got := after.since(before, fmt.Sprintf("block_io_latency_seconds %s %s", mirror.Name, operation))
					n := events(got)
					t.Logf("%s: %d of %v", operation, n, time.Duration(got.SumNanoseconds))
					if !agrees(n, times, after.lost-before.lost) {
						t.Errorf("%s: counted %d, want %d, of which %d may be lost", operation, n, times, after.lost-before.lost)
					}
					if in := between(got, atLeast, atMost); in+2 < n {
						errs = append(errs, fmt.Errorf("%s: %d of %d took %v to %v: %d", operation, in, n, atLeast, atMost, got.Counts))
					}
				}
				return errors.Join(errs...)
			})
		})
	}
}

func second(_ int, err error) error { return err }
