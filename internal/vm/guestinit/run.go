//go:build linux

package main

import (
	"archive/tar"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/latpush/latpush/internal/vm/handover"
)

// run does everything between mounting and power-off. Before the port is open, an error can only be said on the console.
func run() error {
	m, err := readManifest()
	if err != nil {
		return err
	}
	for _, name := range m.Transport {
		if err := m.Modules.Load(name); err != nil {
			return err
		}
	}
	port, err := openPort()
	if err != nil {
		return err
	}
	sender := handover.NewSender(port)
	exit, err := serve(m, sender)
	if err != nil {
		exit.Error = err.Error()
	}
	return errors.Join(err, sender.SendJSON(handover.KindExit, exit), port.Close())
}

func serve(m handover.Manifest, sender *handover.Sender) (handover.Exit, error) {
	if err := sendHello(sender); err != nil {
		return handover.Exit{}, err
	}
	if err := unix.Sethostname([]byte(m.Hostname)); err != nil {
		return handover.Exit{}, fmt.Errorf("set host name: %w", err)
	}
	if err := loopbackUp(); err != nil {
		return handover.Exit{}, err
	}
	for _, name := range m.Load {
		if err := m.Modules.Load(name); err != nil {
			return handover.Exit{}, err
		}
	}
	exit, err := runProgram(m, sender)
	if err != nil {
		return exit, err
	}
	return exit, sendFiles(sender)
}

func sendHello(sender *handover.Sender) error {
	var name unix.Utsname
	if err := unix.Uname(&name); err != nil {
		return fmt.Errorf("read kernel release: %w", err)
	}
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &now); err != nil {
		return fmt.Errorf("read clock: %w", err)
	}
	uptime := time.Duration(now.Nano()).Seconds()
	return sender.SendJSON(handover.KindHello, handover.Hello{Release: unix.ByteSliceToString(name.Release[:]), Uptime: uptime})
}

func runProgram(m handover.Manifest, sender *handover.Sender) (handover.Exit, error) {
	cmd := exec.Command(handover.Program, m.Arguments...)
	cmd.Env = m.Environ
	cmd.Dir = "/tmp"
	cmd.Stdout = sender.Stream(handover.KindOutput)
	cmd.Stderr = cmd.Stdout     // one stream keeps the order of the lines
	cmd.WaitDelay = time.Second // servers that the program started may still hold its output open
	err := cmd.Run()
	var ended *exec.ExitError
	if err != nil && !errors.As(err, &ended) && !errors.Is(err, exec.ErrWaitDelay) {
		return handover.Exit{}, fmt.Errorf("run %s: %w", handover.Program, err)
	}
	exit := handover.Exit{Code: cmd.ProcessState.ExitCode()}
	if status, ok := cmd.ProcessState.Sys().(syscall.WaitStatus); ok && status.Signaled() {
		exit.Signal = unix.SignalName(status.Signal())
	}
	return exit, nil
}

// sendFiles sends the out folder, and no frame at all when it is empty.
func sendFiles(sender *handover.Sender) error {
	entries, err := os.ReadDir(handover.OutFolder)
	if err != nil || len(entries) == 0 {
		return err
	}
	archive := tar.NewWriter(sender.Stream(handover.KindFiles))
	if err := archive.AddFS(os.DirFS(handover.OutFolder)); err != nil {
		return fmt.Errorf("send %s: %w", handover.OutFolder, err)
	}
	return archive.Close()
}
