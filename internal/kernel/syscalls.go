package kernel

import (
	"fmt"
	"slices"

	"github.com/elastic/go-seccomp-bpf/arch"
)

// syscallNumbers is the size of the table that the programs look a system call up in.
const syscallNumbers = 1024

// neverReturns returns whether a system call has no exit, and so no latency. rt_sigreturn "returns" to wherever the signal came.
func neverReturns(name string) bool {
	return name == "exit" || name == "exit_group" || name == "rt_sigreturn"
}

// DefaultSyscalls returns the system calls that the syscalls source times when it has no allow list, those that this architecture has: calls
// that wait for storage, for memory, for a local socket or for other tasks' locks, and are not meant to wait. Calls that sleep by design
// (poll and epoll_wait, nanosleep, futex, wait4, accept, receiving, and the like) say nothing about the kernel's health when they take long;
// they can be put on the allow list.
func DefaultSyscalls() []string {
	names := []string{
		"read", "write", "pread64", "pwrite64", "readv", "writev", "preadv", "pwritev", "sendfile", "copy_file_range", "splice",
		"open", "openat", "openat2", "close", "stat", "lstat", "fstat", "newfstatat", "statx", "access", "faccessat", "faccessat2", "readlinkat",
		"fsync", "fdatasync", "sync_file_range", "sync", "syncfs", "msync", "fallocate", "ftruncate",
		"getdents64", "mkdir", "mkdirat", "rename", "renameat", "renameat2", "unlink", "unlinkat", "linkat",
		"mmap", "munmap", "mprotect", "madvise", "brk",
		"clone", "clone3", "fork", "vfork", "execve", "execveat",
		"socket", "connect", "sendto", "sendmsg", "sendmmsg",
	}
	return slices.DeleteFunc(names, func(name string) bool {
		_, err := syscallNumber(name)
		return err != nil
	})
}

// syscallNumber returns the number of a system call on this architecture.
func syscallNumber(name string) (int, error) {
	info, err := arch.GetInfo("")
	if err != nil {
		return 0, fmt.Errorf("read system call table: %w", err)
	}
	number, known := info.SyscallNames[name]
	if !known || number < 0 || number >= syscallNumbers {
		return 0, fmt.Errorf("unknown system call %q on %s", name, info.Name)
	}
	return number, nil
}
