//go:build guest

// Package guesttest holds what the test packages of the guests share: the machine's services for as long as a test runs. Whatever cannot be had
// fails the test, and what a test leaves behind is cleared away after it.
package guesttest

import (
	"fmt"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/latpush/latpush/internal/vm/guest"
)

// Main runs the tests, on a guest only.
func Main(m *testing.M) {
	if guest.Kernel() == "" {
		fmt.Fprintln(os.Stderr, "these tests mount file systems and slow down lo: run them in a guest only (go test ./internal/vm/matrix)")
		os.Exit(2)
	}
	os.Exit(m.Run())
}

// Succeed demands that f gives no error.
func Succeed(t *testing.T, f func() error) {
	t.Helper()
	if err := f(); err != nil {
		t.Error(err)
	}
}

// Monotonic returns CLOCK_MONOTONIC.
func Monotonic(t *testing.T) time.Duration {
	t.Helper()
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &now); err != nil {
		t.Fatal(err)
	}
	return time.Duration(now.Nano())
}

// ServeNFS runs the NFS server for as long as the test.
func ServeNFS(t *testing.T) {
	t.Helper()
	server, err := guest.ServeNFS(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { Succeed(t, server.Close) })
}

// MountNFS mounts the server's export for as long as the test, in a folder that is named after the version and name.
func MountNFS(t *testing.T, version, name string) (folder string) {
	t.Helper()
	folder = "/mnt/" + version + "-" + name
	if err := guest.MountNFS(version, folder); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { Succeed(t, func() error { return guest.Unmount(folder) }) })
	return folder
}

// Prepare makes a workload's files for as long as the test.
func Prepare(t *testing.T, w guest.Workload, folder string) *guest.Runner {
	t.Helper()
	runner, err := w.Prepare(folder)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { Succeed(t, runner.Close) })
	return runner
}

// NullBlock makes a block device of known latency for as long as the test.
func NullBlock(t *testing.T, o guest.NullBlockOptions) *guest.NullBlockDevice {
	t.Helper()
	device, err := guest.NullBlock(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { Succeed(t, device.Close) })
	return device
}

// OpenDirect opens a device with O_DIRECT for as long as the test.
func OpenDirect(t *testing.T, path string) (descriptor int) {
	t.Helper()
	descriptor, err := unix.Open(path, unix.O_RDWR|unix.O_DIRECT|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(os.NewSyscallError("open", err))
	}
	t.Cleanup(func() { Succeed(t, func() error { return unix.Close(descriptor) }) })
	return descriptor
}

// Page returns memory that O_DIRECT takes, for as long as the test.
func Page(t *testing.T) []byte {
	t.Helper()
	memory, err := unix.Mmap(-1, 0, 4096, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { Succeed(t, func() error { return unix.Munmap(memory) }) })
	return memory
}

// DelayedDisk makes a disk of the device mapper for as long as the test.
func DelayedDisk(t *testing.T, o guest.DelayedDiskOptions) *guest.DelayedDisk {
	t.Helper()
	disk, err := guest.NewDelayedDisk(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { Succeed(t, disk.Close) })
	return disk
}

// Mirror makes a disk that is on each of others for as long as the test.
func Mirror(t *testing.T, name string, lower ...string) *guest.Mirror {
	t.Helper()
	disk, err := guest.NewMirror(name, lower...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { Succeed(t, disk.Close) })
	return disk
}

// FileSystem makes an empty file system on a device of its own, of which the requests take a known time, and mounts it for as long as the test.
func FileSystem(t *testing.T, kind string, completion time.Duration) (folder string) {
	t.Helper()
	device := NullBlock(t, guest.NullBlockOptions{Completion: completion, BlockSize: 4096, SizeMiB: 512, MemoryBacked: true})
	if err := guest.MakeFileSystem(t.Context(), kind, device.Path); err != nil {
		t.Fatal(err)
	}
	folder = "/mnt/" + kind + "-" + device.Name
	if err := guest.Mount(device.Path, folder, kind, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { Succeed(t, func() error { return guest.Unmount(folder) }) })
	return folder
}

// Overlay stacks a writable layer, kept in a folder, on a lower folder for as long as the test.
func Overlay(t *testing.T, lower, layer string) (folder string) {
	t.Helper()
	folder, err := os.MkdirTemp("/mnt", "overlay-")
	if err != nil {
		t.Fatal(err)
	}
	if err := guest.MountOverlay(lower, layer, folder); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { Succeed(t, func() error { return guest.Unmount(folder) }) })
	return folder
}

// FUSE serves a file system of this process for as long as the test: see guest.ServeFUSE.
func FUSE(t *testing.T, delay func()) (folder string) {
	t.Helper()
	folder, err := os.MkdirTemp("/mnt", "fuse-")
	if err != nil {
		t.Fatal(err)
	}
	stop, err := guest.ServeFUSE(folder, t.TempDir(), delay)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { Succeed(t, stop) })
	return folder
}
