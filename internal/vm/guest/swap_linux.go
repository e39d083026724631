package guest

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// SwapOn writes the header of swap space on a disk, all of which is used, and swaps to it. The disk has to be larger than two pages.
func SwapOn(path string, bytes int64) error {
	page := os.Getpagesize()
	header := make([]byte, page)
	binary.NativeEndian.PutUint32(header[1024:], 1)                           // version
	binary.NativeEndian.PutUint32(header[1028:], uint32(bytes/int64(page)-1)) // the last page
	copy(header[page-10:], "SWAPSPACE2")
	if err := writeNow(path, header); err != nil {
		return fmt.Errorf("make swap space: %w", err)
	}
	return swap(unix.SYS_SWAPON, path)
}

// writeNow writes the beginning of a disk.
func writeNow(path string, content []byte) (err error) {
	disk, err := os.OpenFile(path, os.O_WRONLY|os.O_SYNC, 0)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, disk.Close()) }()
	_, err = disk.Write(content)
	return err
}

// SwapOff reads back all that is swapped out to a disk and stops to swap to it.
func SwapOff(path string) error { return swap(unix.SYS_SWAPOFF, path) }

func swap(call uintptr, path string) error {
	name, err := unix.BytePtrFromString(path)
	if err != nil {
		return fmt.Errorf("swap to %s: %w", path, err)
	}
	if _, _, errno := unix.Syscall(call, uintptr(unsafe.Pointer(name)), 0, 0); errno != 0 {
		return fmt.Errorf("swap to %s: %w", path, errno)
	}
	return nil
}
