package confine

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/latpush/latpush/internal/capability"
)

// What confines a process cannot be undone, so each test has a process of its own: this test binary once more, built without cgo as latpush is.

const (
	childVariable  = "LATPUSH_TEST_CHILD"  // which of children runs
	folderVariable = "LATPUSH_TEST_FOLDER" // that the test prepared
)

func TestMain(m *testing.M) {
	name := os.Getenv(childVariable)
	if name == "" {
		os.Exit(m.Run())
	}
	if err := children()[name](os.Getenv(folderVariable)); err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
}

func children() map[string]func(folder string) error {
	return map[string]func(string) error{
		"files": files, "calls": calls, "capabilities": capabilities, "everything": everything, "speed": speed,
	}
}

// run runs a child and demands that it finds nothing wrong.
func run(t testing.TB, name, folder string) (output string) {
	t.Helper()
	command := exec.Command(static(t), "-test.run=none")
	command.Env = append(os.Environ(), childVariable+"="+name, folderVariable+"="+folder)
	out, err := command.CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s", name, err, out)
	}
	return string(out)
}

// static builds this test binary without cgo.
func static(t testing.TB) string {
	t.Helper()
	binary := filepath.Join(t.TempDir(), "confine.test")
	build := exec.Command("go", "test", "-c", "-o", binary, ".")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return binary
}

// expect returns an error unless got is what was wanted: nil is wanted for 0.
func expect(what string, got error, want unix.Errno) error {
	if (want == 0 && got != nil) || (want != 0 && !errors.Is(got, want)) {
		return fmt.Errorf("%s: %w, want %w", what, got, want)
	}
	return nil
}

// landlocked skips on a kernel without Landlock, which is an answer too: it must be this one.
func landlocked(t *testing.T) {
	t.Helper()
	version, _, errno := unix.Syscall(unix.SYS_LANDLOCK_CREATE_RULESET, 0, 0, unix.LANDLOCK_CREATE_RULESET_VERSION)
	if errno != 0 || version < 1 {
		if err := restrictPaths(Paths{}); !errors.Is(err, errNoLandlock) {
			t.Errorf("without Landlock the error is %v, want %v", err, errNoLandlock)
		}
		t.Skip("this kernel has no Landlock")
	}
}

func TestLandlockLeavesTheNamedFolders(t *testing.T) {
	t.Parallel()
	landlocked(t)
	folder := t.TempDir()
	for _, name := range []string{"read", "own", "own/other", "move", "move/other", "outside", "elsewhere"} {
		if err := os.Mkdir(filepath.Join(folder, name), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"read/file", "own/file", "move/file", "outside/file", "elsewhere/target", "write"} {
		if err := os.WriteFile(filepath.Join(folder, name), []byte(name), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("../elsewhere/target", filepath.Join(folder, "read/link")); err != nil {
		t.Fatal(err)
	}
	run(t, "files", folder)
}

// files checks what can be done in the folder that TestLandlockLeavesTheNamedFolders has made.
func files(folder string) error {
	in := func(name string) string { return filepath.Join(folder, name) }
	open, err := os.Open(in("outside/file")) // what is open stays open
	if err != nil {
		return err
	}
	var p Process
	paths := Paths{
		Read:  append(Folders(in("read/link")), in("missing"), "/proc"),
		Write: []string{in("write")},
		Own:   []string{in("own")},
	}
	version, _, _ := unix.Syscall(unix.SYS_LANDLOCK_CREATE_RULESET, 0, 0, unix.LANDLOCK_CREATE_RULESET_VERSION)
	if version > 1 {
		paths.Move = []string{in("move")}
	}
	if err := p.Landlock(paths); err != nil {
		return err
	}
	if _, err := open.Read(make([]byte, 1)); err != nil {
		return fmt.Errorf("read what was open before: %w", err)
	}
	read := func(name string) error { _, err := os.ReadFile(in(name)); return err }
	write := func(name string) error { return os.WriteFile(in(name), []byte("x"), 0o600) }
	appendTo := func(name string) error {
		f, err := os.OpenFile(in(name), os.O_APPEND|os.O_WRONLY, 0)
		if err == nil {
			_, err = f.WriteString("x")
			f.Close()
		}
		return err
	}
	list := func(name string) error { _, err := os.ReadDir(in(name)); return err }
	if version > 1 {
		if err := expect("move to another folder", os.Rename(in("move/file"), in("move/other/file")), 0); err != nil {
			return err
		}
	}
	return errors.Join(
		expect("move to another folder where nothing is moved", os.Rename(in("own/file"), in("own/other/file")), unix.EXDEV),
		expect("read", read("read/file"), 0),
		expect("read through a link", read("read/link"), 0),
		expect("read beside the target of a link", list("elsewhere"), 0),
		expect("list", list("read"), 0),
		expect("write where reading is allowed", write("read/file"), unix.EACCES),
		expect("create where reading is allowed", write("read/new"), unix.EACCES),
		expect("remove where reading is allowed", os.Remove(in("read/file")), unix.EACCES),
		expect("read outside", read("outside/file"), unix.EACCES),
		expect("list outside", list("outside"), unix.EACCES),
		expect("list the folder around", list(""), unix.EACCES),
		expect("append to a file", appendTo("write"), 0),
		expect("create", write("own/new"), 0),
		expect("replace", os.Rename(in("own/new"), in("own/file")), 0),
		expect("read what was replaced", read("own/file"), 0),
		expect("make a folder", os.Mkdir(in("own/sub"), 0o700), 0),
		expect("create in it", write("own/sub/new"), 0),
		expect("truncate", os.Truncate(in("own/sub/new"), 0), 0),
		expect("remove", os.RemoveAll(in("own/sub")), 0),
		expect("make a link", os.Symlink("/etc/passwd", in("own/link")), unix.EACCES),
		expect("make a pipe", unix.Mkfifo(in("own/pipe"), 0o600), unix.EACCES),
		expect("run a program", exec.Command("/proc/self/exe").Run(), unix.EACCES),
		onAllThreads(func(s Seen) bool { return s.NoNewPrivileges }),
	)
}

func TestFilterInForce(t *testing.T) {
	t.Parallel()
	run(t, "calls", t.TempDir())
}

// calls checks system calls as root with all capabilities: it is the filter that refuses.
func calls(folder string) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	var p Process
	if err := errors.Join(p.NoNewPrivileges(), p.Seccomp()); err != nil {
		return err
	}
	_, socket := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW, 0)
	_, listen := net.Listen("tcp", "127.0.0.1:0")
	dialed, dial := net.Dial("udp", "127.0.0.1:9")
	if dial == nil {
		dialed.Close()
	}
	return errors.Join(
		expect("execve", unix.Exec(self, []string{self}, os.Environ()), unix.EPERM),
		expect("start a process", exec.Command(self).Run(), unix.EPERM),
		expect("mount", unix.Mount("tmpfs", folder, "tmpfs", 0, ""), unix.EPERM),
		expect("unshare", unix.Unshare(unix.CLONE_NEWUTS), unix.EPERM),
		expect("sethostname", unix.Sethostname([]byte("x")), unix.EPERM),
		expect("load a module", unix.FinitModule(0, "", 0), unix.EPERM),
		expect("ptrace", unix.PtraceAttach(os.Getppid()), unix.EPERM),
		expect("a socket of packets", socket, unix.EAFNOSUPPORT),
		expect("listen", listen, unix.EPERM),
		expect("a socket to a receiver", dial, 0),
		threads(),
		onAllThreads(func(s Seen) bool { return s.NoNewPrivileges && s.Seccomp }),
	)
}

// threads starts threads, which the runtime must still be able to, and has them all look at once.
func threads() error {
	var started, ended sync.WaitGroup
	started.Add(20)
	outcomes := make([]error, 20)
	for i := range outcomes {
		ended.Go(func() {
			runtime.LockOSThread() // each a thread of its own, which ends with the goroutine
			started.Done()
			started.Wait()
			outcomes[i] = expect("mount on a new thread", unix.Mount("", "/", "", 0, ""), unix.EPERM)
		})
	}
	ended.Wait()
	return errors.Join(outcomes...)
}

// onAllThreads demands something of all threads of this process.
func onAllThreads(is func(s Seen) bool) error {
	names, err := filepath.Glob("/proc/self/task/*/status")
	if err != nil || len(names) < 3 {
		return fmt.Errorf("there are only %d threads: %w", len(names), err)
	}
	for _, name := range names {
		seen, err := Inspect(name)
		switch {
		case errors.Is(err, os.ErrNotExist), errors.Is(err, unix.ESRCH): // it has ended
		case err != nil:
			return err
		case !is(seen):
			return fmt.Errorf("%s: %+v", name, seen)
		}
	}
	return nil
}

func TestCapabilitiesAreGivenUpInAllThreads(t *testing.T) {
	t.Parallel()
	if held, err := capability.Effective(); err != nil || !held.Has(capability.BPF|capability.PerfMon|capability.SysAdmin) {
		t.Skip("takes root")
	}
	run(t, "capabilities", "")
}

func capabilities(string) error {
	var p Process
	stop := make(chan struct{})
	defer close(stop)
	var started sync.WaitGroup
	for range 10 {
		started.Add(1)
		go func() {
			runtime.LockOSThread()
			started.Done()
			<-stop
		}()
	}
	started.Wait()
	for _, keep := range []capability.Set{capability.BPF | capability.PerfMon, capability.BPF, capability.None} {
		if err := p.Keep(keep); err != nil {
			return err
		}
		held, err := p.Held()
		if err != nil || held != keep {
			return fmt.Errorf("holds %v, %w, want %v", held, err, keep)
		}
		err = onAllThreads(func(s Seen) bool {
			return s.Effective == keep && s.Permitted == keep && s.Inheritable == 0 && s.Ambient == 0 && s.Bounding == 0
		})
		if err != nil {
			return fmt.Errorf("kept %v: %w", keep, err)
		}
	}
	// There is no way back.
	if err := p.Keep(capability.BPF); err != nil {
		return err
	}
	if held, err := p.Held(); err != nil || held != capability.None {
		return fmt.Errorf("got %v back, %w", held, err)
	}
	return expect("set the name of the host as root without capabilities", unix.Sethostname([]byte("x")), unix.EPERM)
}

func TestEverythingAtOnce(t *testing.T) {
	t.Parallel()
	landlocked(t)
	run(t, "everything", t.TempDir())
}

func everything(folder string) error {
	var p Process
	if got := p.State(); got != (State{}) {
		return fmt.Errorf("in force before anything is done: %+v", got)
	}
	err := errors.Join(p.NoNewPrivileges(), p.Landlock(Paths{Own: []string{folder}, Read: []string{"/proc"}}), p.Seccomp(), p.Keep(capability.None))
	if err != nil {
		return err
	}
	if got, want := p.State(), (State{NoNewPrivileges: true, Landlock: true, Seccomp: true, Capabilities: true}); got != want {
		return fmt.Errorf("in force: %+v, want %+v", got, want)
	}
	return errors.Join(
		onAllThreads(func(s Seen) bool { return s.NoNewPrivileges && s.Seccomp && s.Permitted == 0 }),
		expect("write", os.WriteFile(filepath.Join(folder, "file"), nil, 0o600), 0),
	)
}

func TestFolders(t *testing.T) {
	t.Parallel()
	folder := t.TempDir()
	for _, name := range []string{"a", "b"} {
		if err := os.Mkdir(filepath.Join(folder, name), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(folder, "b/target"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("../b/target", filepath.Join(folder, "a/link")); err != nil {
		t.Fatal(err)
	}
	got := Folders(filepath.Join(folder, "a/link"), filepath.Join(folder, "a/other"), filepath.Join(folder, "missing/file"))
	want := []string{filepath.Join(folder, "a"), filepath.Join(folder, "b"), filepath.Join(folder, "missing")}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("folders are %v, want %v", got, want)
	}
}

func TestRemountable(t *testing.T) {
	t.Parallel()
	folder := t.TempDir()
	if got := Remountable(folder); fmt.Sprint(got) != fmt.Sprint([]string{folder}) {
		t.Errorf("a folder: %v", got)
	}
	if got := Remountable(folder + "/missing"); fmt.Sprint(got) != fmt.Sprint([]string{folder + "/missing"}) {
		t.Errorf("no folder: %v", got)
	}
	link := filepath.Join(folder, "link")
	if err := os.Symlink("/proc", link); err != nil {
		t.Fatal(err)
	}
	if got := Remountable(link); fmt.Sprint(got) != fmt.Sprint([]string{link, "/"}) {
		t.Errorf("a link to where a file system is mounted: %v", got)
	}
}

func TestInspectRefusesWhatIsNoStatus(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "status")
	for text, want := range map[string]string{
		"Name:\tx\n":        "does not have all 7 lines",
		"CapEff:\tzz\n":     "read CapEff of ",
		"NoNewPrivs:\tno\n": "read NoNewPrivs of ",
	} {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := Inspect(file); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %s", text, err, want)
		}
	}
	if _, err := Inspect(file + ".missing"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a process that is gone: %v", err)
	}
}

// BenchmarkFilter prints what the filter adds to the cheapest system call.
func BenchmarkFilter(b *testing.B) {
	for b.Loop() {
		b.Log(run(b, "speed", ""))
	}
}

func speed(string) error {
	const n = 2_000_000
	measure := func() time.Duration {
		begin := time.Now()
		for range n {
			_, _, _ = unix.RawSyscall(unix.SYS_GETPPID, 0, 0, 0)
		}
		return time.Since(begin) / n
	}
	before := measure()
	var p Process
	if err := errors.Join(p.NoNewPrivileges(), p.Seccomp()); err != nil {
		return err
	}
	fmt.Printf("getppid takes %v without the filter and %v with it\n", before, measure())
	return nil
}
