//go:build linux

// Command guestinit is the first process of a test guest, or a service of systemd where that is the first process, and the modprobe that the guest's
// kernel calls.
//
// In: the manifest in the initial file system. It mounts the kernel's file systems unless systemd does, loads modules, brings up the loopback
// interface and runs the guest's program. Out: frames on a virtio serial port (see package handover): what the program printed, what it left in the out
// folder, its exit code. Then it powers the machine off. What goes wrong is said on the console and in the last frame; the machine is powered off in any
// case.
package main

import (
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/latpush/latpush/internal/vm/handover"
)

func main() {
	switch filepath.Base(os.Args[0]) {
	case filepath.Base(handover.Modprobe):
		if err := modprobe(os.Args[1:]); err != nil {
			fmt.Fprintln(os.Stderr, "modprobe:", err)
			os.Exit(1)
		}
		return
	case filepath.Base(handover.Guest): // systemd is the first process, and has mounted everything
		finish(run())
	}
	if os.Getpid() != 1 {
		fmt.Fprintln(os.Stderr, "guestinit: start as the first process of a guest only")
		os.Exit(1)
	}
	err := mountAll()
	if err == nil {
		err = run()
	}
	finish(err)
}

// finish says what went wrong, and powers the machine off.
func finish(err error) {
	if err != nil {
		fmt.Println("guestinit:", err)
	}
	powerOff()
}

// powerOff does not wait long for file systems: a test may have left an NFS mount whose server is gone, and nothing in a guest is worth keeping.
func powerOff() {
	synced := make(chan struct{})
	go func() {
		unix.Sync()
		close(synced)
	}()
	select {
	case <-synced:
	case <-time.After(5 * time.Second):
		fmt.Println("guestinit: power off without waiting for unwritten data any longer")
	}
	if err := unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF); err != nil {
		fmt.Println("guestinit: power off:", err) // the kernel panics when the first process ends, which the host sees
	}
}
