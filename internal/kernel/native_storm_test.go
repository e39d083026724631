package kernel

import (
	"io"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"
)

// storm makes calls on all CPUs, in a process of its own, until the returned function is called, which returns how many there were.
func storm(t *testing.T) (end func() uint64) {
	t.Helper()
	command := exec.Command("/proc/self/exe")
	command.Env = append(os.Environ(), childEnvironment+"=storm")
	var output strings.Builder
	command.Stdout = &output
	stdin, err := command.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := command.Start(); err != nil {
		t.Fatal(err)
	}
	end = sync.OnceValue(func() uint64 {
		_ = stdin.Close()
		if err := command.Wait(); err != nil {
			t.Error(err)
		}
		return parse(t, strings.TrimSpace(output.String()))
	})
	t.Cleanup(func() { end() })
	return end
}

// stormUntilEOF makes calls until the standard input ends, and returns how many.
func stormUntilEOF() uint64 {
	runtime.GOMAXPROCS(runtime.NumCPU() + 2) // someone has to see the end of it
	var over atomic.Bool
	var calls atomic.Uint64
	var threads sync.WaitGroup
	for range runtime.NumCPU() {
		threads.Go(func() {
			onThread(func() {
				var n uint64
				for ; !over.Load(); n++ {
					_, _, _ = unix.Syscall(unix.SYS_GETPPID, 0, 0, 0) // of which Go's scheduler knows
				}
				calls.Add(n)
			})
		})
	}
	_, _ = io.Copy(io.Discard, os.Stdin)
	over.Store(true)
	threads.Wait()
	return calls.Load()
}

// lines is written by several goroutines.
type lines struct {
	mu   sync.Mutex
	text strings.Builder
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}
