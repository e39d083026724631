//go:build guest

package guesttests

import (
	"errors"
	"os"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/latpush/latpush/internal/vm/guest"
	"github.com/latpush/latpush/internal/vm/guest/guesttest"
	"github.com/latpush/latpush/internal/vm/kmod"
)

func TestModule(t *testing.T) {
	if guest.ModuleLoaded("loop") {
		t.Fatal("module loop is loaded from the start")
	}
	if err := guest.LoadModule("loop", "max_loop=3"); err != nil {
		t.Fatal(err)
	}
	if !guest.ModuleLoaded("loop") {
		t.Error("module loop is not loaded after it was loaded")
	}
	if value, err := os.ReadFile("/sys/module/loop/parameters/max_loop"); err != nil || strings.TrimSpace(string(value)) != "3" {
		t.Errorf("parameter max_loop is %q, %v, want 3", value, err)
	}
	guesttest.Succeed(t, func() error { return guest.LoadModule("loop") }) // again
	if err := guest.LoadModule("loop", "max_loop=4"); !errors.Is(err, unix.EEXIST) {
		t.Errorf("loading it with other parameters gives %v, want EEXIST", err)
	}
	guesttest.Succeed(t, func() error { return guest.UnloadModule("loop") })
	if guest.ModuleLoaded("loop") {
		t.Error("module loop is loaded after it was unloaded")
	}
	if err := guest.LoadModule("no_such_module"); !errors.Is(err, kmod.ErrNotFound) {
		t.Errorf("loading a module that is not there gives %v, want %v", err, kmod.ErrNotFound)
	}
}

func TestSystem(t *testing.T) {
	for _, file := range []string{
		"/sys/kernel/btf/vmlinux", "/sys/kernel/tracing/available_events", "/sys/kernel/debug/bdi", "/sys/fs/cgroup/cgroup.controllers", "/dev/null",
	} {
		if _, err := os.Stat(file); err != nil {
			t.Error(err)
		}
	}
	var bpf unix.Statfs_t
	if err := unix.Statfs("/sys/fs/bpf", &bpf); err != nil || bpf.Type != unix.BPF_FS_MAGIC {
		t.Errorf("/sys/fs/bpf has file system type %#x, %v, want bpf", bpf.Type, err)
	}
	if name, err := os.Hostname(); err != nil || name != "guest" {
		t.Errorf("host name is %q, %v", name, err)
	}
	if n := runtime.NumCPU(); n != 2 {
		t.Errorf("the guest has %d processors, want 2", n)
	}
	var memory unix.Sysinfo_t
	if err := unix.Sysinfo(&memory); err != nil || memory.Totalram < 1800<<20 {
		t.Errorf("the guest has %d MiB of memory, %v, want about 2048", memory.Totalram>>20, err)
	}
}

// TestKeep leaves a file that the host can look for.
func TestKeep(t *testing.T) {
	version, err := os.ReadFile("/proc/version")
	if err != nil {
		t.Fatal(err)
	}
	guesttest.Succeed(t, func() error { return guest.Keep("system/version.txt", version) })
}
