package kernel

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
	"unsafe"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// pinnedLife is what a process is told that pins sources and is killed.
type pinnedLife struct {
	Path    string
	Configs []SourceConfig
	KillAt  int  // kills itself before that change of the pins, counted from 1; 0: never
	Close   bool // counts from Close on, which it calls at once
	Detach  bool // has detached the sources for what they cost when it says its status
}

const lifeVariable = "LATPUSH_TEST_LIFE"

// livePinned runs the sources until it is killed, by itself before a change or by the test after it has said its status; with Close it ends by itself.
func livePinned() error {
	var l pinnedLife
	if err := json.Unmarshal([]byte(os.Getenv(lifeVariable)), &l); err != nil {
		return err
	}
	changes, counting := 0, !l.Close
	k, err := Open(context.Background(), l.Configs, Options{PinPath: l.Path, pinFault: func() error {
		if !counting {
			return nil
		}
		if changes++; changes == l.KillAt {
			return errors.Join(unix.Kill(os.Getpid(), unix.SIGKILL), errors.New("still alive"))
		}
		return nil
	}})
	if err != nil {
		return err
	}
	if l.Close {
		counting = true
		return k.Close()
	}
	if l.Detach {
		if err := detachAll(k); err != nil {
			return err
		}
	}
	if _, _, err := k.Read(); err != nil {
		return err
	}
	if err := json.NewEncoder(os.Stdout).Encode(k.Sources()); err != nil {
		return err
	}
	_, err = io.Copy(io.Discard, os.Stdin) // until the test is gone
	return errors.Join(err, k.Close())
}

// detachAll detaches all sources as max_cpu does.
func detachAll(k *Kernel) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	var errs []error
	for _, s := range k.sources {
		s.loaded.account.detach(time.Now())
		errs = append(errs, s.loaded.detach(errors.New("it takes too much")))
	}
	return errors.Join(errs...)
}

// pinnedChild is such a process.
type pinnedChild struct {
	command *exec.Cmd
	sources []Status // empty if it was killed before it had attached them, or ended
}

func (l pinnedLife) start(t *testing.T) *pinnedChild {
	t.Helper()
	text, err := json.Marshal(l)
	if err != nil {
		t.Fatal(err)
	}
	c := &pinnedChild{command: exec.Command(os.Args[0])}
	c.command.Env = append(os.Environ(), childEnvironment+"=pinned", lifeVariable+"="+string(text))
	c.command.Stderr = os.Stderr
	input, err := c.command.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	output, err := c.command.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.command.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = input.Close()
		_ = c.command.Process.Kill()
		_ = c.command.Wait()
	})
	line, err := bufio.NewReader(output).ReadString('\n')
	if err == nil {
		err = json.Unmarshal([]byte(line), &c.sources)
	}
	if err != nil && !errors.Is(err, io.EOF) {
		t.Fatalf("the process said %q: %v", line, err)
	}
	return c
}

// kill ends the process with SIGKILL, if it has not done so itself, and returns whether it was killed.
func (c *pinnedChild) kill() bool {
	_ = c.command.Process.Kill()
	_ = c.command.Wait()
	return !c.command.ProcessState.Exited()
}

// runAndKill runs sources in a process of its own that is killed when they run.
func runAndKill(t *testing.T, path string, configs ...SourceConfig) []Status {
	t.Helper()
	c := pinnedLife{Path: path, Configs: configs}.start(t)
	if len(c.sources) != len(configs) {
		t.Fatalf("the process ended by itself: %+v", c.sources)
	}
	for _, s := range c.sources {
		if !s.Pinned || s.Err != nil {
			t.Fatalf("source %s is not pinned: %+v", s.Source, s)
		}
	}
	c.kill()
	return c.sources
}

// bpffs mounts a BPF file system of the test's own and returns a path for pins on it.
func bpffs(t *testing.T) string {
	t.Helper()
	folder := t.TempDir()
	if err := unix.Mount("bpf", folder, "bpf", 0, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		// A process that a parallel test is starting may have it open until it runs another program.
		if err := unix.Unmount(folder, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return filepath.Join(folder, "latpush")
}

// openPinned runs sources that are pinned, until closeUnpinned or the end of the test.
func openPinned(t *testing.T, path string, configs ...SourceConfig) *Kernel {
	t.Helper()
	k, err := Open(t.Context(), configs, Options{PinPath: path})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = k.Close() })
	for _, s := range k.Sources() {
		if s.Err != nil || !s.Pinned || s.PinErr != nil {
			t.Fatalf("source %s is not pinned: %+v", s.Source, s)
		}
		for _, h := range s.Hooks {
			if h.Err != nil {
				t.Fatalf("hook %s of %s is %s: %v", h.Name, s.Source, h.How, h.Err)
			}
		}
	}
	return k
}

// closeUnpinned ends the sources and demands that nothing is left of them.
func closeUnpinned(t *testing.T, k *Kernel, path string) {
	t.Helper()
	var left []ebpf.ProgramID
	for _, s := range k.sources {
		left = append(left, programsOf(t, s.loaded)...)
	}
	if err := k.Close(); err != nil {
		t.Error(err)
	}
	if pinned := pinnedBelow(t, path); len(pinned) > 0 {
		t.Errorf("pins are left: %v", pinned)
	}
	soon(t, func() error {
		for _, id := range left {
			if program, err := ebpf.NewProgramFromID(id); err == nil {
				return errors.Join(fmt.Errorf("program %v is left", program), program.Close())
			}
		}
		return nil
	})
}

// soon waits until check has no complaint: the kernel keeps programs for a moment after they were detached.
func soon(t *testing.T, check func() error) {
	t.Helper()
	err := check()
	for deadline := time.Now().Add(5 * time.Second); err != nil && time.Now().Before(deadline); err = check() {
		time.Sleep(5 * time.Millisecond)
	}
	if err != nil {
		t.Error(err)
	}
}

// pinnedBelow lists what is below a pin path.
func pinnedBelow(t *testing.T, path string) []string {
	t.Helper()
	var found []string
	err := filepath.WalkDir(path, func(name string, _ os.DirEntry, err error) error {
		if err == nil && name != path {
			found = append(found, strings.TrimPrefix(name, path+"/"))
		}
		return err
	})
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	return found
}

// programsOf returns the programs in the kernel that use any of the maps of a source that hold counts or what is under way.
func programsOf(t *testing.T, s *loadedSource) []ebpf.ProgramID {
	t.Helper()
	ours := make(map[ebpf.MapID]bool)
	for name, m := range s.maps {
		info, err := m.Info()
		if err != nil {
			t.Fatal(err)
		}
		if id, ok := info.ID(); ok && !isConstants(name) {
			ours[id] = true
		}
	}
	var found []ebpf.ProgramID
	for id, err := ebpf.ProgramGetNextID(0); !errors.Is(err, os.ErrNotExist); id, err = ebpf.ProgramGetNextID(id) {
		if err != nil {
			t.Fatal(err)
		}
		program, err := ebpf.NewProgramFromID(id)
		if err != nil {
			continue // it has just gone
		}
		info, err := program.Info()
		if err != nil {
			t.Fatal(err)
		}
		if maps, _ := info.MapIDs(); slices.ContainsFunc(maps, func(m ebpf.MapID) bool { return ours[m] }) {
			found = append(found, id)
		}
		_ = program.Close()
	}
	return found
}

// wantOnce demands that each program that the hooks of a source need is in the kernel once.
func wantOnce(t *testing.T, s *loadedSource) {
	t.Helper()
	want := 0
	for _, h := range s.hooks {
		want += len(h.attached)
	}
	soon(t, func() error {
		if got := programsOf(t, s); len(got) != want || want == 0 {
			return fmt.Errorf("%d programs use the maps of source %s, want %d", len(got), s.source.name, want)
		}
		return nil
	})
}

// timedCall is a system call that nobody else on this machine makes.
type timedCall struct {
	name   string
	number uintptr
}

func (c timedCall) config() SourceConfig {
	return SourceConfig{Name: "syscalls", Allow: []string{c.name}}
}

// do calls it that many times.
func (c timedCall) do(times int) {
	onThread(func() {
		for range times {
			_, _, _ = unix.RawSyscall(c.number, 0, 0, 0)
		}
	})
}

// counted demands that the source has counted that many calls, and no loss.
func (c timedCall) counted(t *testing.T, k *Kernel, want uint64) {
	t.Helper()
	if got := events(sample(t, k, "syscall_latency_seconds", c.name)); got != want {
		t.Errorf("counted %d calls of %s, want %d", got, c.name, want)
	}
}

func getsid() timedCall { return timedCall{"getsid", unix.SYS_GETSID} }

// waitedFor is a call that takes that long, on a thread of its own. The returned function waits for its end.
func waitedFor(d time.Duration) (end func()) {
	done := make(chan struct{})
	started := make(chan struct{})
	go func() {
		defer close(done)
		onThread(func() {
			var all unix.Sigset_t // the thread ends with f, so they stay blocked
			for i := range all.Val {
				all.Val[i] = ^all.Val[i]
			}
			if err := unix.PthreadSigmask(unix.SIG_BLOCK, &all, nil); err != nil {
				panic(err)
			}
			close(started)
			timeout := unix.NsecToTimespec(d.Nanoseconds())
			var none uint64
			_, _, _ = unix.Syscall6(unix.SYS_RT_SIGTIMEDWAIT, uintptr(unsafe.Pointer(&none)), 0, uintptr(unsafe.Pointer(&timeout)), 8, 0, 0)
		})
	}()
	<-started
	time.Sleep(50 * time.Millisecond) // until it is in the kernel
	return func() { <-done }
}
