package confine

import (
	"errors"
	"fmt"
	"runtime"
	"unsafe"

	"github.com/elastic/go-seccomp-bpf/arch"
	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// installFilter puts the filter in force in all threads.
func installFilter() error {
	machine, err := arch.GetInfo("")
	if err != nil {
		return fmt.Errorf("choose system calls: %w", err)
	}
	program, err := filter(machine)
	if err != nil {
		return err
	}
	raw, err := bpf.Assemble(program)
	if err != nil {
		return fmt.Errorf("assemble seccomp filter: %w", err)
	}
	instructions := make([]unix.SockFilter, len(raw))
	for i, r := range raw {
		instructions[i] = unix.SockFilter{Code: r.Op, Jt: r.Jt, Jf: r.Jf, K: r.K}
	}
	in := &unix.SockFprog{Len: uint16(len(instructions)), Filter: &instructions[0]}
	thread, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, unix.SECCOMP_FILTER_FLAG_TSYNC, uintptr(unsafe.Pointer(in)))
	runtime.KeepAlive(instructions)
	switch {
	case errors.Is(errno, unix.EINVAL), errors.Is(errno, unix.ENOSYS):
		return fmt.Errorf("install seccomp filter: %w (this kernel has no filters: CONFIG_SECCOMP_FILTER)", errno)
	case errno != 0:
		return fmt.Errorf("install seccomp filter: %w", errno)
	case thread != 0:
		return fmt.Errorf("install seccomp filter: thread %d has a filter of its own", thread)
	}
	return nil
}
