//go:build linux

package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/latpush/latpush/internal/vm/handover"
)

// mounts are made in this order. Those marked optional depend on how the kernel was built.
func mounts() []mount {
	return []mount{
		{target: "/proc", kind: "proc"},
		{target: "/sys", kind: "sysfs"},
		{target: "/dev", kind: "devtmpfs"},
		{target: "/sys/kernel/debug", kind: "debugfs"},
		{target: "/sys/kernel/tracing", kind: "tracefs"},
		{target: "/sys/fs/bpf", kind: "bpf"},
		{target: "/sys/fs/cgroup", kind: "cgroup2"},
		{target: "/sys/kernel/security", kind: "securityfs", optional: true},
		{target: "/run", kind: "tmpfs"},
		{target: "/tmp", kind: "tmpfs"},
		{target: "/srv", kind: "tmpfs"},
		{target: handover.OutFolder, kind: "tmpfs"},
	}
}

type mount struct {
	target, kind string
	optional     bool
}

func mountAll() error {
	for _, m := range mounts() {
		err := os.MkdirAll(m.target, 0o755)
		if err == nil {
			err = unix.Mount(m.kind, m.target, m.kind, 0, "")
		}
		if err != nil && !m.optional {
			return fmt.Errorf("mount %s on %s: %w", m.kind, m.target, err)
		}
	}
	for link, target := range map[string]string{"/dev/fd": "/proc/self/fd", "/dev/stdin": "fd/0", "/dev/stdout": "fd/1", "/dev/stderr": "fd/2"} {
		if err := os.Symlink(target, link); err != nil && !errors.Is(err, fs.ErrExist) {
			return fmt.Errorf("link %s: %w", link, err)
		}
	}
	return nil
}

// loopbackUp sets the flag that makes the kernel give the interface its address.
func loopbackUp() error {
	socket, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("bring up lo: %w", err)
	}
	defer func() { _ = unix.Close(socket) }()
	request, err := unix.NewIfreq("lo")
	if err != nil {
		return fmt.Errorf("bring up lo: %w", err)
	}
	request.SetUint16(unix.IFF_UP | unix.IFF_RUNNING)
	if err := unix.IoctlIfreq(socket, unix.SIOCSIFFLAGS, request); err != nil {
		return fmt.Errorf("bring up lo: %w", err)
	}
	return nil
}

// openPort waits until the host's end of the serial port has got a name, which takes the driver some milliseconds.
func openPort() (*os.File, error) {
	deadline := time.Now().Add(30 * time.Second)
	for time.Now().Before(deadline) {
		names, err := filepath.Glob("/sys/class/virtio-ports/*/name")
		if err != nil {
			return nil, fmt.Errorf("find serial port: %w", err)
		}
		for _, file := range names {
			name, err := os.ReadFile(file)
			if err == nil && strings.TrimSpace(string(name)) == handover.PortName {
				return os.OpenFile(filepath.Join("/dev", filepath.Base(filepath.Dir(file))), os.O_WRONLY, 0)
			}
		}
		time.Sleep(5 * time.Millisecond)
	}
	return nil, fmt.Errorf("find serial port %s: not there after 30 s", handover.PortName)
}

func readManifest() (handover.Manifest, error) {
	var m handover.Manifest
	text, err := os.ReadFile(handover.ManifestFile)
	if err != nil {
		return m, fmt.Errorf("read manifest: %w", err)
	}
	if err := json.Unmarshal(text, &m); err != nil {
		return m, fmt.Errorf("read manifest: %w", err)
	}
	return m, nil
}

// modprobe is called by the kernel as "modprobe -q -- name".
func modprobe(arguments []string) error {
	m, err := readManifest()
	if err != nil {
		return err
	}
	for _, name := range arguments {
		if !strings.HasPrefix(name, "-") {
			return m.Modules.Load(name)
		}
	}
	return errors.New("name of the module is missing")
}
