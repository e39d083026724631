package capability

import (
	"errors"
	"fmt"
	"runtime"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// sets are what a thread has in the form of capget(2) and capset(2).
type sets struct {
	header unix.CapUserHeader
	data   [2]unix.CapUserData // the lower and the upper 32 capabilities
}

// current returns the sets of the calling thread.
func current() (*sets, error) {
	s := &sets{header: unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}}
	if err := unix.Capget(&s.header, &s.data[0]); err != nil {
		return nil, fmt.Errorf("read capabilities: %w", err)
	}
	return s, nil
}

func (s *sets) effective() Set { return join(s.data[0].Effective, s.data[1].Effective) }

func (s *sets) permitted() Set { return join(s.data[0].Permitted, s.data[1].Permitted) }

func join(low, high uint32) Set { return Set(low) | Set(high)<<32 }

func (s *sets) setEffective(to Set) {
	s.data[0].Effective, s.data[1].Effective = uint32(to), uint32(to>>32)
}

func (s *sets) setPermitted(to Set) {
	s.data[0].Permitted, s.data[1].Permitted = uint32(to), uint32(to>>32)
}

// Effective returns the capabilities that are in force for the calling thread. All threads of latpush have the same, but for those in Without.
func Effective() (Set, error) {
	s, err := current()
	if err != nil {
		return None, err
	}
	return s.effective(), nil
}

// Without runs f on a thread that does not hold some capabilities until f returns.
func Without(aside Set, f func() error) error {
	outcome := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // a thread that cannot be put right ends with the goroutine
		s, err := current()
		if err != nil {
			outcome <- err
			return
		}
		held := s.effective()
		set := func(effective Set) error {
			s.setEffective(effective)
			if err := unix.Capset(&s.header, &s.data[0]); err != nil {
				return fmt.Errorf("set capabilities aside: %w", err)
			}
			return nil
		}
		if err := set(held &^ aside); err != nil {
			outcome <- err
			return
		}
		// Once this returns the thread is like all others: the runtime dies of a call on all threads that one of them may not make.
		err = f()
		restored := set(held)
		if restored == nil {
			runtime.UnlockOSThread()
		}
		outcome <- errors.Join(err, restored)
	}()
	return <-outcome
}

// Keep gives up, for all threads and for good, every capability that is not in the set: from the effective, permitted, inheritable and ambient
// sets, and all of the bounding set, as far as the process may change that one (CAP_SETPCAP).
func Keep(keep Set) error {
	s, err := current()
	if err != nil {
		return err
	}
	if s.effective().Has(setPCap) {
		if err := emptyBoundingSet(); err != nil {
			return err
		}
	}
	// Nothing that latpush starts is to inherit anything; latpush starts nothing.
	if err := allThreads(unix.SYS_PRCTL, unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_CLEAR_ALL, 0); err != nil {
		return fmt.Errorf("clear ambient capabilities: %w", err)
	}
	s.setPermitted(s.permitted() & keep)
	s.setEffective(s.permitted())
	s.data[0].Inheritable, s.data[1].Inheritable = 0, 0
	// AllThreadsSyscall keeps what it is given the addresses of where it is.
	_, _, errno := syscall.AllThreadsSyscall(unix.SYS_CAPSET, uintptr(unsafe.Pointer(&s.header)), uintptr(unsafe.Pointer(&s.data[0])), 0)
	return failure("give up capabilities", errno)
}

const setPCap = Set(1) << unix.CAP_SETPCAP

func emptyBoundingSet() error {
	for n := range uintptr(numbers) {
		bounding, err := unix.PrctlRetInt(unix.PR_CAPBSET_READ, n, 0, 0, 0)
		if errors.Is(err, unix.EINVAL) {
			return nil // the kernel has no more capabilities
		}
		if err == nil && bounding == 1 {
			err = allThreads(unix.SYS_PRCTL, unix.PR_CAPBSET_DROP, n, 0)
		}
		if err != nil {
			return fmt.Errorf("remove %s from the bounding set: %w", Set(1)<<n, err)
		}
	}
	return nil
}

// NoNewPrivileges makes sure that no thread, and nothing that it starts, gets privileges by execve(2), for good.
func NoNewPrivileges() error {
	return allThreads(unix.SYS_PRCTL, unix.PR_SET_NO_NEW_PRIVS, 1, 0)
}

// allThreads makes a system call without pointers in all threads.
func allThreads(trap, a, b, c uintptr) error {
	_, _, errno := syscall.AllThreadsSyscall6(trap, a, b, c, 0, 0, 0)
	return failure("change all threads", errno)
}

func failure(what string, errno syscall.Errno) error {
	switch errno {
	case 0:
		return nil
	case unix.ENOTSUP:
		return fmt.Errorf("%s: this binary was built with cgo (build it with CGO_ENABLED=0)", what)
	}
	return fmt.Errorf("%s: %w", what, errno)
}
