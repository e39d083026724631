package confine

import (
	"fmt"

	"github.com/elastic/go-seccomp-bpf/arch"
	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// refused returns the names of the system calls that an agent never makes. All others are allowed, those that no kernel has yet among them: a
// filter that lists what is allowed breaks with the first Go runtime that makes a new one. A refused call fails with EPERM and nothing is killed.
func refused() []string {
	return []string{
		// Other programs, and their memory.
		"execve", "execveat", "fork", "vfork", "ptrace", "process_vm_readv", "process_vm_writev", "process_madvise", "kcmp", "pidfd_getfd",
		"pidfd_send_signal", "uselib", "personality", "modify_ldt", "userfaultfd",
		// Mounts, roots and namespaces.
		"mount", "umount2", "pivot_root", "chroot", "move_mount", "open_tree", "fsopen", "fsconfig", "fsmount", "fspick", "mount_setattr",
		"setns", "unshare", "swapon", "swapoff", "quotactl", "quotactl_fd", "mknod", "mknodat",
		// The kernel and the machine.
		"init_module", "finit_module", "delete_module", "create_module", "kexec_load", "kexec_file_load", "reboot", "acct", "syslog", "ioperm",
		"iopl", "vhangup", "sethostname", "setdomainname", "settimeofday", "clock_settime",
		// Keys, and a way around filters.
		"add_key", "request_key", "keyctl", "io_uring_setup", "io_uring_enter", "io_uring_register",
		// Other users.
		"setuid", "setgid", "setreuid", "setregid", "setresuid", "setresgid", "setfsuid", "setfsgid", "setgroups",
		// There is no way in from outside.
		"listen", "accept", "accept4",
	}
}

// families returns the families of sockets that an agent makes: names and logs, receivers, the kernel's announcements of modules.
func families() []uint32 { return []uint32{unix.AF_UNIX, unix.AF_INET, unix.AF_INET6, unix.AF_NETLINK} }

// Where struct seccomp_data has what a filter looks at. Both architectures store the lower half of an argument first.
const (
	offsetNumber   = 0
	offsetMachine  = 4
	offsetArgument = 16 // the first one
)

// x32Bit is in the number of each system call of amd64's x32 ABI, under which all of them could be made once more.
const x32Bit = 0x40000000

// answer is what becomes of a call: it fails with an error number, or is made if that is 0.
func answer(failure unix.Errno) bpf.Instruction {
	if failure == 0 {
		return bpf.RetConstant{Val: unix.SECCOMP_RET_ALLOW}
	}
	return bpf.RetConstant{Val: unix.SECCOMP_RET_ERRNO | uint32(failure)}
}

// filter returns the program for an architecture.
func filter(machine *arch.Info) ([]bpf.Instruction, error) {
	program := []bpf.Instruction{
		bpf.LoadAbsolute{Off: offsetMachine, Size: 4},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: uint32(machine.ID), SkipTrue: 1},
		answer(unix.EPERM), // of another architecture, such as 32-bit programs', whose calls have other numbers
		bpf.LoadAbsolute{Off: offsetNumber, Size: 4},
	}
	if machine.ID == arch.X86_64.ID {
		program = append(program, bpf.JumpIf{Cond: bpf.JumpGreaterOrEqual, Val: x32Bit, SkipFalse: 1}, answer(unix.ENOSYS))
	}
	for _, name := range refused() {
		if number, has := machine.SyscallNames[name]; has { // an architecture that came later has fewer
			program = append(program, when(number, answer(unix.EPERM))...)
		}
	}
	for _, special := range []struct {
		name  string
		rules []bpf.Instruction
	}{
		// Its flags are out of a filter's reach. Whoever wants a thread goes back to clone, as with older kernels.
		{"clone3", []bpf.Instruction{answer(unix.ENOSYS)}},
		// Threads, and no processes and namespaces.
		{"clone", []bpf.Instruction{
			bpf.LoadAbsolute{Off: offsetArgument, Size: 4},
			bpf.JumpIf{Cond: bpf.JumpBitsSet, Val: unix.CLONE_THREAD, SkipTrue: 1},
			answer(unix.EPERM),
			answer(0),
		}},
		{"socket", socketRules()},
	} {
		number, has := machine.SyscallNames[special.name]
		if !has {
			return nil, fmt.Errorf("find the number of system call %s on %s: unknown", special.name, machine.Name)
		}
		program = append(program, when(number, special.rules...)...)
	}
	return append(program, answer(0)), nil
}

// when applies rules, which end with an answer, to one system call.
func when(number int, rules ...bpf.Instruction) []bpf.Instruction {
	return append([]bpf.Instruction{bpf.JumpIf{Cond: bpf.JumpEqual, Val: uint32(number), SkipFalse: uint8(len(rules))}}, rules...)
}

func socketRules() []bpf.Instruction {
	rules := []bpf.Instruction{bpf.LoadAbsolute{Off: offsetArgument, Size: 4}}
	for _, family := range families() {
		rules = append(rules, bpf.JumpIf{Cond: bpf.JumpEqual, Val: family, SkipFalse: 1}, answer(0))
	}
	return append(rules, answer(unix.EAFNOSUPPORT))
}
