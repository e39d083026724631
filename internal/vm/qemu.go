package vm

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/latpush/latpush/internal/vm/handover"
)

// qemu is one running emulator. Its console and its report port are pipes, so that no name and no socket outlives it.
type qemu struct {
	console *os.File // reading end
	report  *os.File // reading end
	done    chan struct{}

	complaint strings.Builder // what qemu itself printed; read after done
	err       error           // how it ended; read after done
	kill      context.CancelFunc
}

// arguments returns qemu's command line for a machine. The pipes are its file descriptors 3 and 4.
func (m machine) arguments(kernel, image string) []string {
	// An oops ends the guest at once instead of leaving a half-dead kernel; -no-reboot turns the reboot after a panic into the end of qemu.
	commandLine := "console=" + m.console + " panic=-1 oops=panic quiet mitigations=off random.trust_cpu=on"
	return append(append([]string{}, m.options...),
		"-nodefaults", "-no-user-config", "-display", "none", "-monitor", "none", "-nic", "none", "-no-reboot",
		"-smp", "2", "-m", "2048",
		"-kernel", kernel, "-initrd", image, "-append", commandLine,
		"-chardev", "file,id=console,path=/dev/fd/3", "-serial", "chardev:console",
		"-device", "virtio-serial-pci",
		"-chardev", "file,id=report,path=/dev/fd/4", "-device", "virtserialport,chardev=report,name="+handover.PortName,
	)
}

// start starts an emulator that is killed when ctx ends, when stop is called and when this process dies.
func (m machine) start(ctx context.Context, kernel, image string) (*qemu, error) {
	program, err := m.emulator()
	if err != nil {
		return nil, fmt.Errorf("start guest: %w", err)
	}
	console, consoleEnd, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("start guest: %w", err)
	}
	report, reportEnd, err := os.Pipe()
	if err != nil {
		return nil, errors.Join(fmt.Errorf("start guest: %w", err), console.Close(), consoleEnd.Close())
	}
	q := &qemu{console: console, report: report, done: make(chan struct{})}
	ctx, q.kill = context.WithCancel(ctx)
	cmd := exec.CommandContext(ctx, program, m.arguments(kernel, image)...)
	cmd.ExtraFiles = []*os.File{consoleEnd, reportEnd}
	cmd.Stdout, cmd.Stderr = &q.complaint, &q.complaint
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	started := make(chan error)
	go func() {
		runtime.LockOSThread() // the death signal comes when the thread that started the process ends
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		_, _ = consoleEnd.Close(), reportEnd.Close() // qemu's copies are the only ones now, so that the pipes end with it
		started <- err
		if err == nil {
			q.err = cmd.Wait()
			close(q.done)
		}
	}()
	if err := <-started; err != nil {
		q.kill()
		return nil, errors.Join(fmt.Errorf("start guest: %w", err), console.Close(), report.Close())
	}
	return q, nil
}

// stop waits a while for the guest to power off, kills it if it does not, and says which it was.
func (q *qemu) stop(patience time.Duration) (poweredOff bool) {
	defer q.kill()
	select {
	case <-q.done:
		return q.err == nil
	case <-time.After(patience):
		q.kill()
		<-q.done
		return false
	}
}

// drain runs the readers of both pipes until the guest has ended.
func (q *qemu) drain(console, report func(io.Reader)) *sync.WaitGroup {
	var readers sync.WaitGroup
	for _, end := range []struct {
		pipe *os.File
		read func(io.Reader)
	}{{q.console, console}, {q.report, report}} {
		readers.Go(func() {
			end.read(end.pipe)
			_ = end.pipe.Close()
		})
	}
	return &readers
}
