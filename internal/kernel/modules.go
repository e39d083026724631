package kernel

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// moduleWatch reports that modules come, from the kernel's announcements.
type moduleWatch struct{ socket *os.File }

// ueventGroup is the multicast group of the kernel's own announcements.
const ueventGroup = 1

// pollModules is how often waiting hooks are tried when nothing was announced: announcements do not reach every container.
const pollModules = 2 * time.Second

// settleModules is how long a module may take from its announcement to running, and how often it is tried meanwhile.
const (
	settleModules = 500 * time.Millisecond
	settleStep    = 10 * time.Millisecond
)

// newModuleWatch listens until ctx ends.
func newModuleWatch(ctx context.Context) (*moduleWatch, error) {
	socket, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_KOBJECT_UEVENT)
	if err != nil {
		return nil, fmt.Errorf("open socket for module announcements: %w", err)
	}
	if err := unix.Bind(socket, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: ueventGroup}); err != nil {
		_ = unix.Close(socket)
		return nil, fmt.Errorf("bind socket for module announcements: %w", err)
	}
	w := &moduleWatch{socket: os.NewFile(uintptr(socket), "module announcements")}
	context.AfterFunc(ctx, func() { _ = w.socket.Close() })
	return w, nil
}

// wait returns when a module was announced, or after a while; true if it was announced.
func (w *moduleWatch) wait() bool {
	buffer := make([]byte, 4096)
	_ = w.socket.SetReadDeadline(time.Now().Add(pollModules)) // a closed socket ends the read at once
	for {
		n, err := w.socket.Read(buffer)
		if err != nil {
			return errors.Is(err, unix.ENOBUFS) // announcements were missed: look
		}
		if bytes.HasPrefix(buffer[:n], []byte("add@/module/")) {
			return true
		}
	}
}

// attachLate attaches waiting hooks as their modules come, until ctx ends.
func (k *Kernel) attachLate(ctx context.Context) {
	watch, err := newModuleWatch(ctx)
	if err != nil {
		k.log.Warn("modules are looked for every few seconds instead of when they are announced", "err", err)
	}
	for ctx.Err() == nil {
		announced := false
		if watch != nil {
			announced = watch.wait()
		} else {
			sleep(ctx, pollModules)
		}
		k.attachWaiting()
		for settled := time.Duration(0); announced && settled < settleModules && ctx.Err() == nil; settled += settleStep {
			sleep(ctx, settleStep)
			k.attachWaiting()
		}
	}
}

func sleep(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}

// attachWaiting tries the hooks of every source that waits for a module.
func (k *Kernel) attachWaiting() {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, s := range k.sources {
		if s.loaded == nil || !s.loaded.waits() {
			continue
		}
		if s.loaded.attachMissing() {
			k.log.Info("attached to modules that were loaded", "name", s.config.Name, "hooks", s.loaded.summary())
		}
	}
	k.environment.forget()
}
