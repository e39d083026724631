package kernel

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"github.com/cilium/ebpf/rlimit"
	"golang.org/x/sys/unix"
)

// childEnvironment names the variable that makes the test binary print what becomes of the sources, in an environment that lacks something.
const childEnvironment = "LATPUSH_TEST_CHILD"

// lockMachine waits until no other tests count what this machine does, until the process ends.
func lockMachine() error {
	lock, err := unix.Open(filepath.Join(os.TempDir(), "latpush-counting-tests.lock"), unix.O_RDWR|unix.O_CREAT|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return fmt.Errorf("open lock of tests that count: %w", err)
	}
	return os.NewSyscallError("flock", unix.Flock(lock, unix.LOCK_EX))
}

func TestMain(m *testing.M) {
	switch os.Getenv(childEnvironment) {
	case "":
		if err := rlimit.RemoveMemlock(); err != nil { // the tests load programs themselves, too
			fmt.Println("locked memory stays limited:", err)
		}
		if err := lockMachine(); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		os.Exit(m.Run())
	case "spinner":
		if err := spinner(); err != nil {
			fmt.Println(err)
		}
		os.Exit(1) // it ends by itself
	case "storm":
		fmt.Println(stormUntilEOF())
		os.Exit(0)
	case "pinned":
		if err := livePinned(); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		os.Exit(0)
	case "reader":
		if err := readInCgroup(); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		os.Exit(0)
	case "groups":
		if err := callInGroups(); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		os.Exit(0)
	case "no BTF":
		if err := hideBTF(); err != nil {
			fmt.Println("cannot hide type information:", err)
			os.Exit(2)
		}
	}
	printSources()
	fmt.Printf("symbols hidden=%t\n", symbolsHidden())
}

// hideBTF makes the kernel look as if it had been built without type information, to this process alone.
func hideBTF() error {
	runtime.LockOSThread()
	if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
		return err
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return err
	}
	return unix.Mount("tmpfs", "/sys/kernel/btf", "tmpfs", 0, "")
}

func printSources() {
	k, err := newKernel(AllConfigs(), Options{})
	if err != nil {
		fmt.Println("open:", err)
		return
	}
	defer k.Close()
	for _, s := range k.Sources() {
		fmt.Printf("%s attached=%t error=%v\n", s.Source, s.Attached(), s.Err)
		for _, h := range s.Hooks {
			fmt.Printf("%s/%s %s error=%v\n", s.Source, h.Name, h.How, h.Err)
		}
	}
}

func child(t *testing.T, environment string, attributes *syscall.SysProcAttr) string {
	t.Helper()
	command := exec.Command("/proc/self/exe")
	command.Env = append(os.Environ(), childEnvironment+"="+environment)
	command.SysProcAttr = attributes
	output, err := command.CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, output)
	}
	return string(output)
}

// Without the kernel's type information the sources that need none of it run, each in the way that is left, and the other says what is missing.
func TestWithoutBTF(t *testing.T) {
	output := child(t, "no BTF", nil)
	for _, want := range []string{
		"softirq/softirq raw_tracepoint error=<nil>\n",
		"syscalls/syscalls tracepoint error=<nil>\n",
		"runqueue/sched tracepoint error=<nil>\n",
		"block attached=false error=",
		"/sys/kernel/btf/vmlinux: it needs CONFIG_DEBUG_INFO_BTF",
	} {
		if !strings.Contains(output, want) {
			t.Errorf("no %q in:\n%s", want, output)
		}
	}
}

// Without capabilities every source says which are missing.
func TestWithoutCapabilities(t *testing.T) {
	output := child(t, "no capabilities", &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}})
	for _, name := range Names() {
		want := name + " attached=false error="
		_, rest, found := strings.Cut(output, want)
		line, _, _ := strings.Cut(rest, "\n")
		if found && name == "lock_wait" && strings.Contains(line, "only Linux 5.19 and later") {
			continue
		}
		if !found || !strings.Contains(line, "missing capability: CAP_PERFMON, CAP_BPF") {
			t.Errorf("%s: %q in:\n%s", name, line, output)
		}
	}
}

// The kernel shows where its functions are to this process, and not to one without capabilities.
func TestSymbolsHidden(t *testing.T) {
	if symbolsHidden() {
		t.Error("the kernel hides the addresses of its functions from a process with all capabilities (sysctl kernel.kptr_restrict=0)")
	}
	output := child(t, "no capabilities", &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}})
	if !strings.Contains(output, "symbols hidden=true\n") {
		t.Errorf("a process without capabilities sees them (sysctl kernel.perf_event_paranoid=2):\n%s", output)
	}
}
