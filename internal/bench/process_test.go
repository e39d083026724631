package bench

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// buildAgent builds the agent as it is shipped.
func buildAgent(b *testing.B) (path string) {
	b.Helper()
	path = filepath.Join(b.TempDir(), "latpush")
	build := exec.Command("go", "build", "-trimpath", "-ldflags", "-s -w", "-o", path, "github.com/latpush/latpush/agent/latpush")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if output, err := build.CombinedOutput(); err != nil {
		b.Fatalf("build agent: %v\n%s", err, output)
	}
	return path
}

// process is another program that is being measured.
type process struct {
	b       *testing.B
	command *exec.Cmd
	exited  chan struct{}
}

func startProcess(b *testing.B, path string, arguments ...string) *process {
	b.Helper()
	p := &process{b: b, command: exec.Command(path, arguments...), exited: make(chan struct{})}
	p.command.Stderr = os.Stderr
	if err := p.command.Start(); err != nil {
		b.Fatal(err)
	}
	go func() {
		defer close(p.exited)
		_ = p.command.Wait()
	}()
	b.Cleanup(func() {
		_ = p.command.Process.Kill()
		<-p.exited
	})
	return p
}

// stop ends it with SIGTERM.
func (p *process) stop() {
	p.b.Helper()
	if err := p.command.Process.Signal(syscall.SIGTERM); err != nil {
		p.b.Fatal(err)
	}
	<-p.exited
}

// until polls until done says so.
func (p *process) until(limit time.Duration, done func() bool) {
	p.b.Helper()
	for deadline := time.Now().Add(limit); !done(); time.Sleep(20 * time.Millisecond) {
		select {
		case <-p.exited:
			p.b.Fatalf("%s ended by itself: %s", filepath.Base(p.command.Path), p.command.ProcessState)
		default:
		}
		if time.Now().After(deadline) {
			p.b.Fatalf("%s is not done after %v", filepath.Base(p.command.Path), limit)
		}
	}
}

// cpu is the CPU time that it has taken.
func (p *process) cpu() time.Duration {
	p.b.Helper()
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p.command.Process.Pid))
	if err != nil {
		p.b.Fatal(err)
	}
	fields := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))
	ticks := 0
	for _, field := range fields[11:13] { // utime and stime, in hundredths of a second
		n, err := strconv.Atoi(field)
		if err != nil {
			p.b.Fatal(err)
		}
		ticks += n
	}
	return time.Duration(ticks) * 10 * time.Millisecond
}

// forgetPeak lets the peak of resident memory begin again at what it is now.
func (p *process) forgetPeak() {
	p.b.Helper()
	if err := os.WriteFile(fmt.Sprintf("/proc/%d/clear_refs", p.command.Process.Pid), []byte("5"), 0); err != nil {
		p.b.Fatal(err)
	}
}

// peak is the most memory that was resident, in MiB.
func (p *process) peak() float64 {
	p.b.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.command.Process.Pid))
	if err != nil {
		p.b.Fatal(err)
	}
	for line := range strings.Lines(string(status)) {
		if value, found := strings.CutPrefix(line, "VmHWM:"); found {
			kib, err := strconv.Atoi(strings.Fields(value)[0])
			if err != nil {
				p.b.Fatal(err)
			}
			return float64(kib) / 1024
		}
	}
	p.b.Fatal("no VmHWM")
	return 0
}
