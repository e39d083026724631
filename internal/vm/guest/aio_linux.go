package guest

import (
	"fmt"
	"os"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// control is the kernel's struct iocb, for little-endian machines.
type control struct {
	_         uint64 // of the caller
	_         uint32
	_         int32
	operation uint16
	_         int16
	file      uint32
	buffer    uint64
	size      uint64
	_         int64 // where in the file: at its beginning
	_         [2]uint64
}

// completion is the kernel's struct io_event.
type completion struct {
	_, _   uint64
	result int64
	_      int64
}

// asynchronousRead is IOCB_CMD_PREAD.
const asynchronousRead = 0

// ReadAsynchronously fills a buffer from the beginning of a file that often, one after the other, with the kernel's asynchronous I/O: the file, which
// is open with O_DIRECT, is read after the call that asks for it has returned.
func ReadAsynchronously(descriptor int, into []byte, times int) error {
	var context uint64
	if err := callAsynchronous("io_setup", unix.SYS_IO_SETUP, 1, uintptr(unsafe.Pointer(&context)), 0, 0); err != nil {
		return err
	}
	request := &control{operation: asynchronousRead, file: uint32(descriptor), buffer: uint64(uintptr(unsafe.Pointer(&into[0]))), size: uint64(len(into))}
	requests := &[1]*control{request}
	event := &completion{}
	for range times {
		if err := callAsynchronous("io_submit", unix.SYS_IO_SUBMIT, uintptr(context), 1, uintptr(unsafe.Pointer(requests)), 0); err != nil {
			return err
		}
		if err := callAsynchronous("io_getevents", unix.SYS_IO_GETEVENTS, uintptr(context), 1, 1, uintptr(unsafe.Pointer(event))); err != nil {
			return err
		}
		if event.result != int64(len(into)) {
			return fmt.Errorf("read asynchronously: %d bytes of %d", event.result, len(into))
		}
	}
	runtime.KeepAlive(into)
	return callAsynchronous("io_destroy", unix.SYS_IO_DESTROY, uintptr(context), 0, 0, 0)
}

func callAsynchronous(name string, number, a, b, c, d uintptr) error {
	if _, _, err := unix.Syscall6(number, a, b, c, d, 0, 0); err != 0 {
		return fmt.Errorf("read asynchronously: %w", os.NewSyscallError(name, err))
	}
	return nil
}
