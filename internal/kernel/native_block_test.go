package kernel

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// loopDevice makes a loop device on a file of the given size and returns its path.
func loopDevice(t *testing.T, size int64) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "disk")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(file, size); err != nil {
		t.Fatal(err)
	}
	return loopDeviceOn(t, file)
}

// loopDeviceOn makes a loop device on a file and returns its path.
func loopDeviceOn(t *testing.T, file string) string {
	t.Helper()
	control, err := os.OpenFile("/dev/loop-control", os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer control.Close()
	number, err := unix.IoctlRetInt(int(control.Fd()), unix.LOOP_CTL_GET_FREE)
	if err != nil {
		t.Fatal(err)
	}
	path := fmt.Sprintf("/dev/loop%d", number)
	device, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	backing, err := os.OpenFile(file, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer backing.Close()
	if err := unix.IoctlSetInt(int(device.Fd()), unix.LOOP_SET_FD, int(backing.Fd())); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = unix.IoctlSetInt(int(device.Fd()), unix.LOOP_CLR_FD, 0)
		_ = device.Close()
	})
	return path
}

// directIO does n reads and n writes of 4 KiB that do not go through the page cache.
func directIO(t *testing.T, path string, n int) {
	t.Helper()
	device, err := os.OpenFile(path, os.O_RDWR|unix.O_DIRECT, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer device.Close()
	buffer, err := unix.Mmap(-1, 0, 4096, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = unix.Munmap(buffer) }()
	for i := range n {
		if _, err := device.ReadAt(buffer, int64(i%64)*4096); err != nil {
			t.Fatal(err)
		}
		if _, err := device.WriteAt(buffer, int64(i%64)*4096); err != nil {
			t.Fatal(err)
		}
	}
}

// A completion that interrupts the program while it counts another one on that CPU is lost, and counted as that.
func TestBlockRequestsAreCountedExactly(t *testing.T) {
	for _, how := range []string{TpBTF, RawTracepoint} {
		t.Run(how, func(t *testing.T) {
			path := loopDevice(t, 1<<20)
			k := open(t, how, SourceConfig{Name: "block"})
			name := strings.TrimPrefix(path, "/dev/")
			readsBefore := events(sample(t, k, "block_io_latency_seconds", name, "read"))
			directIO(t, path, 100)
			reads, _ := sampleAndSkipped(t, k, "block_io_latency_seconds", name, "read")
			writes, lost := sampleAndSkipped(t, k, "block_io_latency_seconds", name, "write")
			for operation, n := range map[string]uint64{"reads": events(reads) - readsBefore, "writes": events(writes)} {
				if n > 100 || n+lost < 100 {
					t.Errorf("counted %d %s of %s, want 100, of which %d may be lost", n, operation, name, lost)
				}
			}
		})
	}
}

// Label sets beyond the bound are counted under "other", and nothing is lost.
func TestBlockLabelSetsAreBounded(t *testing.T) {
	path := loopDevice(t, 1<<20)
	k := open(t, "", SourceConfig{Name: "block", MaxLabelSets: 1})
	name := strings.TrimPrefix(path, "/dev/")
	directIO(t, path, 50)
	reads, writes := events(sample(t, k, "block_io_latency_seconds", name, "read")), events(sample(t, k, "block_io_latency_seconds", name, "write"))
	rest, lost := sampleAndSkipped(t, k, "block_io_latency_seconds", other, other)
	others := events(rest) + lost
	if reads != 0 && writes != 0 {
		t.Errorf("two label sets in a map for one: %d reads, %d writes", reads, writes)
	}
	if reads+writes+others < 100 || others < 50 {
		t.Errorf("counted %d reads, %d writes and %d others, want 100 together", reads, writes, others)
	}
}
