package endtoend

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestMain makes the test binary its own child process too: with a life in the environment it appends until it is killed.
func TestMain(m *testing.M) {
	if text := os.Getenv(childEnvironment); text != "" {
		if err := live(text); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	code := m.Run()
	_ = os.RemoveAll(built.folder)
	os.Exit(code)
}

// built is the agent, built once for all tests that need it.
var built struct {
	once   sync.Once
	folder string
	lock   *os.File // open until the process ends
	err    error
}

// binary returns the agent. Its sources count the calls of the whole machine, so while one test process uses it, another one on the same machine waits.
func binary(t *testing.T) string {
	t.Helper()
	built.once.Do(func() {
		if built.lock, built.err = lockFile(filepath.Join(os.TempDir(), "latpush-counting-tests.lock")); built.err != nil {
			return
		}
		if built.folder, built.err = os.MkdirTemp("", "latpush-endtoend"); built.err != nil {
			return
		}
		build := exec.Command("go", "build", "-o", built.folder, "github.com/latpush/latpush/agent/latpush")
		build.Env = append(os.Environ(), "CGO_ENABLED=0")
		if output, err := build.CombinedOutput(); err != nil {
			built.err = fmt.Errorf("build agent: %w\n%s", err, output)
		}
	})
	if built.err != nil {
		t.Fatal(built.err)
	}
	return filepath.Join(built.folder, "latpush")
}

// lockFile waits until no other process has the file locked.
func lockFile(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o666)
	if err != nil {
		return nil, err
	}
	for {
		if err := unix.Flock(int(f.Fd()), unix.LOCK_EX); !errors.Is(err, unix.EINTR) {
			return f, err
		}
	}
}

// runningAgent is the agent as a process of its own.
type runningAgent struct {
	t       *testing.T
	command *exec.Cmd
	config  string // path of its file
	log     *lockedBuffer
	exited  chan error
}

// lockedBuffer is written by the process and read by the test.
type lockedBuffer struct {
	mu     sync.Mutex
	buffer bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buffer.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buffer.String()
}

// configFile writes a configuration that pushes to url every second, with a spool and pins in folder. Sources may cost what they cost on a busy machine,
// unless they say otherwise.
func configFile(t *testing.T, folder, url, sources string) string {
	t.Helper()
	path := filepath.Join(folder, "latpush.yml")
	text := fmt.Sprintf("interval: 1s\nmax_cpu: 0\nexternal_labels: {instance: edge-1}\npin_path: %s\nsources:\n%s\nremote_write:\n  - url: %s\n    name: main\n"+
		"    queue_config: {min_backoff: 50ms, max_backoff: 500ms}\nspool:\n  directory: %s\n", pinPath(t, folder), sources, url, filepath.Join(folder, "spool"))
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func startAgent(t *testing.T, config string) *runningAgent {
	t.Helper()
	return startAgentWith(t, config, func(command *exec.Cmd) {
		if err := command.Start(); err != nil {
			t.Fatal(err)
		}
	})
}

// startAgentWith leaves it to start where the process is.
func startAgentWith(t *testing.T, config string, start func(*exec.Cmd)) *runningAgent {
	t.Helper()
	a := &runningAgent{t: t, config: config, log: &lockedBuffer{}, exited: make(chan error, 1)}
	a.command = exec.Command(binary(t), "run", "--config.file", config)
	a.command.Stdout, a.command.Stderr = a.log, a.log
	start(a.command)
	go func() { a.exited <- a.command.Wait() }()
	t.Cleanup(func() {
		_ = a.command.Process.Kill()
		if t.Failed() {
			t.Logf("log of the agent:\n%s", a.log)
		}
	})
	return a
}

// limit is how long the tests wait for what should come soon.
const limit = 20 * time.Second

// waitLog waits until the agent's log has text.
func (a *runningAgent) waitLog(text string) {
	a.t.Helper()
	eventually(a.t, limit, func() error {
		if !strings.Contains(a.log.String(), text) {
			return fmt.Errorf("the agent's log has no %q", text)
		}
		return nil
	})
}

// stop sends SIGTERM and demands a clean exit.
func (a *runningAgent) stop() {
	a.t.Helper()
	if err := a.command.Process.Signal(syscall.SIGTERM); err != nil {
		a.t.Fatal(err)
	}
	select {
	case err := <-a.exited:
		if err != nil {
			a.t.Fatalf("the agent ended with %v:\n%s", err, a.log)
		}
	case <-time.After(20 * time.Second):
		a.t.Fatalf("the agent did not stop within 20 s:\n%s", a.log)
	}
}

// kill sends SIGKILL.
func (a *runningAgent) kill() {
	a.t.Helper()
	if err := a.command.Process.Kill(); err != nil {
		a.t.Fatal(err)
	}
	<-a.exited
}

// eventually waits until check has no complaint.
func eventually(t *testing.T, limit time.Duration, check func() error) {
	t.Helper()
	deadline := time.Now().Add(limit)
	for {
		err := check()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("after %v: %v", limit, err)
		}
		time.Sleep(100 * time.Millisecond)
	}
}
