package confine

import (
	"encoding/binary"
	"slices"
	"testing"

	"github.com/elastic/go-seccomp-bpf/arch"
	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// verdict runs a filter on a system call and returns the error number that the call fails with, 0 if it is made.
func verdict(t *testing.T, vm *bpf.VM, machine uint32, number int, argument uint32) unix.Errno {
	t.Helper()
	// The machine of package bpf reads words in network order, the kernel in its own.
	data := make([]byte, 64)
	binary.BigEndian.PutUint32(data[offsetNumber:], uint32(number))
	binary.BigEndian.PutUint32(data[offsetMachine:], machine)
	binary.BigEndian.PutUint32(data[offsetArgument:], argument)
	result, err := vm.Run(data)
	if err != nil {
		t.Fatal(err)
	}
	switch uint32(result) & unix.SECCOMP_RET_ACTION_FULL {
	case unix.SECCOMP_RET_ALLOW:
		return 0
	case unix.SECCOMP_RET_ERRNO:
		return unix.Errno(result & unix.SECCOMP_RET_DATA)
	}
	t.Fatalf("call %d is answered by %#x", number, result)
	return 0
}

// Each system call that an architecture has, and some that it does not have yet, is refused or made as the list says.
func TestFilter(t *testing.T) {
	t.Parallel()
	for _, machine := range []*arch.Info{arch.X86_64, arch.AARCH64} {
		program, err := filter(machine)
		if err != nil {
			t.Fatal(err)
		}
		vm, err := bpf.NewVM(program)
		if err != nil {
			t.Fatal(err)
		}
		own := uint32(machine.ID)
		for name, number := range machine.SyscallNames {
			var want unix.Errno
			switch {
			case slices.Contains(refused(), name), name == "clone":
				want = unix.EPERM
			case name == "clone3":
				want = unix.ENOSYS
			case name == "socket":
				want = unix.EAFNOSUPPORT
			}
			if got := verdict(t, vm, own, number, 0); got != want {
				t.Errorf("%s: %s is answered by %v, want %v", machine.Name, name, got, want)
			}
		}
		for _, number := range []int{470, 999, 0x3fffffff} {
			if got := verdict(t, vm, own, number, 0); got != 0 {
				t.Errorf("%s: call %d of the future is answered by %v", machine.Name, number, got)
			}
		}
		clone, socket := machine.SyscallNames["clone"], machine.SyscallNames["socket"]
		if got := verdict(t, vm, own, clone, unix.CLONE_VM|unix.CLONE_THREAD|unix.CLONE_SIGHAND); got != 0 {
			t.Errorf("%s: a thread is answered by %v", machine.Name, got)
		}
		if got := verdict(t, vm, own, clone, unix.CLONE_NEWUSER|uint32(unix.SIGCHLD)); got != unix.EPERM {
			t.Errorf("%s: a process in a namespace is answered by %v", machine.Name, got)
		}
		for family, want := range map[uint32]unix.Errno{
			unix.AF_UNIX: 0, unix.AF_INET: 0, unix.AF_INET6: 0, unix.AF_NETLINK: 0,
			unix.AF_PACKET: unix.EAFNOSUPPORT, unix.AF_ALG: unix.EAFNOSUPPORT, unix.AF_VSOCK: unix.EAFNOSUPPORT, 1000: unix.EAFNOSUPPORT,
		} {
			if got := verdict(t, vm, own, socket, family); got != want {
				t.Errorf("%s: a socket of family %d is answered by %v, want %v", machine.Name, family, got, want)
			}
		}
		if got := verdict(t, vm, uint32(arch.I386.ID), 0, 0); got != unix.EPERM {
			t.Errorf("%s: a call of another architecture is answered by %v", machine.Name, got)
		}
	}
}

func TestFilterRefusesTheOtherABI(t *testing.T) {
	t.Parallel()
	program, err := filter(arch.X86_64)
	if err != nil {
		t.Fatal(err)
	}
	vm, err := bpf.NewVM(program)
	if err != nil {
		t.Fatal(err)
	}
	if got := verdict(t, vm, uint32(arch.X86_64.ID), x32Bit|520, 0); got != unix.ENOSYS {
		t.Errorf("execve of x32 is answered by %v", got)
	}
}

// A name that is in neither table is a slip of the pen.
func TestRefusedCallsExist(t *testing.T) {
	t.Parallel()
	for _, name := range refused() {
		_, amd64 := arch.X86_64.SyscallNames[name]
		_, arm64 := arch.AARCH64.SyscallNames[name]
		if !amd64 && !arm64 {
			t.Errorf("there is no system call %s", name)
		}
	}
}
