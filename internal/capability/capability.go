// Package capability reads, sets aside and gives up the Linux capabilities of this process.
//
// What enters is a set of capabilities, or the text of /proc/PID/status; what leaves is the set that a thread holds, in the kernel's names. What can
// go wrong: giving up for the whole process takes a binary that was built without cgo, because all threads have to do it and Go knows only its own.
// What is given up never comes back.
package capability

import (
	"fmt"
	"math/bits"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Set is a set of capabilities: bit n is the capability with the number n.
type Set uint64

// What latpush has a use for.
const (
	None     Set = 0
	BPF      Set = 1 << unix.CAP_BPF       // load programs and maps
	PerfMon  Set = 1 << unix.CAP_PERFMON   // load programs that trace, and attach them
	SysAdmin Set = 1 << unix.CAP_SYS_ADMIN // read the type information of modules, and switch on the kernel's statistics of programs
	SysLog   Set = 1 << unix.CAP_SYSLOG    // see addresses in /proc/kallsyms
)

// numbers is how many capabilities a Set has room for, which is as many as the kernel's own type.
const numbers = 64

// names are in the order of their numbers.
func names() []string {
	return []string{
		"CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_DAC_READ_SEARCH", "CAP_FOWNER", "CAP_FSETID", "CAP_KILL", "CAP_SETGID", "CAP_SETUID", "CAP_SETPCAP",
		"CAP_LINUX_IMMUTABLE", "CAP_NET_BIND_SERVICE", "CAP_NET_BROADCAST", "CAP_NET_ADMIN", "CAP_NET_RAW", "CAP_IPC_LOCK", "CAP_IPC_OWNER",
		"CAP_SYS_MODULE", "CAP_SYS_RAWIO", "CAP_SYS_CHROOT", "CAP_SYS_PTRACE", "CAP_SYS_PACCT", "CAP_SYS_ADMIN", "CAP_SYS_BOOT", "CAP_SYS_NICE",
		"CAP_SYS_RESOURCE", "CAP_SYS_TIME", "CAP_SYS_TTY_CONFIG", "CAP_MKNOD", "CAP_LEASE", "CAP_AUDIT_WRITE", "CAP_AUDIT_CONTROL", "CAP_SETFCAP",
		"CAP_MAC_OVERRIDE", "CAP_MAC_ADMIN", "CAP_SYSLOG", "CAP_WAKE_ALARM", "CAP_BLOCK_SUSPEND", "CAP_AUDIT_READ", "CAP_PERFMON", "CAP_BPF",
		"CAP_CHECKPOINT_RESTORE",
	}
}

// Has returns whether all capabilities of another set are in this one.
func (s Set) Has(other Set) bool { return s&other == other }

// Each returns the capabilities one by one, in the order of their numbers.
func (s Set) Each() []Set {
	all := make([]Set, 0, bits.OnesCount64(uint64(s)))
	for n := range numbers {
		if one := Set(1) << n; s.Has(one) {
			all = append(all, one)
		}
	}
	return all
}

// Names returns the kernel's names; a capability that is younger than this list is called by its number, such as CAP_41.
func (s Set) Names() []string {
	var all []string
	known := names()
	for n := range numbers {
		switch {
		case !s.Has(Set(1) << n):
		case n < len(known):
			all = append(all, known[n])
		default:
			all = append(all, "CAP_"+strconv.Itoa(n))
		}
	}
	return all
}

// String returns the names in one line, and "none" for the empty set.
func (s Set) String() string {
	if s == None {
		return "none"
	}
	return strings.Join(s.Names(), ", ")
}

// Parse reads a set as /proc/PID/status writes it: 16 hexadecimal digits.
func Parse(text string) (Set, error) {
	number, err := strconv.ParseUint(strings.TrimSpace(text), 16, numbers)
	if err != nil {
		return None, fmt.Errorf("read set of capabilities %q: %w", text, err)
	}
	return Set(number), nil
}
