package vm

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/latpush/latpush/internal/vm/debian"
	"github.com/latpush/latpush/internal/vm/kmod"
)

// Kernels are those that latpush is tested with.
func Kernels() []Spec {
	return []Spec{
		{Name: "5.10", Suite: "bullseye", Arch: "amd64"}, // kprobes on modules, no module BTF
		{Name: "6.1", Suite: "bookworm", Arch: "amd64"},
		{Name: "6.12", Suite: "trixie", Arch: "amd64"},
		{Name: "newest", Suite: "sid", Arch: "amd64"},
		{Name: "newest", Suite: "sid", Arch: "arm64"},
	}
}

// GenericKernels are those that the few tests run on which need a module that Debian's kernels for clouds lack.
func GenericKernels() []Spec {
	return []Spec{
		{Name: "5.10-generic", Suite: "bullseye", Arch: "amd64", Generic: true},
		{Name: "6.1-generic", Suite: "bookworm", Arch: "amd64", Generic: true},
		{Name: "newest-generic", Suite: "sid", Arch: "amd64", Generic: true},
	}
}

// Spec names a kernel to fetch.
type Spec struct {
	Name    string // short name in tables and test names: 5.10, 6.1, 6.12, newest
	Suite   string // Debian suite: bullseye, bookworm, trixie, sid
	Arch    string // amd64 or arm64, both Debian's and Go's name
	Generic bool   // the kernel for real machines, several times as large, and not the one for clouds
}

// packages returns the names of the kernel's meta package and of its set in the cache.
func (s Spec) packages() (meta, set string) {
	if s.Generic {
		return "linux-image-" + s.Arch, "kernel-generic"
	}
	return "linux-image-cloud-" + s.Arch, "kernel"
}

// String returns the name that test names and LATPUSH_VM_KERNELS use, such as "6.1/amd64".
func (s Spec) String() string { return s.Name + "/" + s.Arch }

// Kernel is a kernel that is ready to boot.
type Kernel struct {
	Spec
	Release string // what uname -r will say
	Version string // version of the Debian package
	Image   string // file of the bootable image

	modules *kmod.Tree
}

// Kernel fetches the newest kernel of a suite, or takes it from the cache. It may download about 30 MB, of a generic kernel 100 MB, at most once a day.
func (h *Harness) Kernel(ctx context.Context, s Spec) (*Kernel, error) {
	if _, err := machineOf(s.Arch); err != nil {
		return nil, err
	}
	meta, name := s.packages()
	set, err := h.store.Resolve(ctx, name, s.Suite, s.Arch, func(ctx context.Context, a *debian.Archive) ([]debian.Package, error) {
		return resolveKernel(ctx, a, meta)
	})
	if err != nil {
		return nil, err
	}
	k := &Kernel{Spec: s, Version: set.Packages[0].Version}
	var trees []string
	for _, dir := range set.Folders() {
		for _, pattern := range []string{"lib/modules/*", "usr/lib/modules/*"} { // 7.x moved to usr
			found, err := filepath.Glob(filepath.Join(dir, pattern))
			if err != nil {
				return nil, fmt.Errorf("find modules of %s: %w", s, err)
			}
			trees = append(trees, found...)
		}
		for _, pattern := range []string{"boot/vmlinuz-*", "usr/lib/modules/*/vmlinuz"} {
			if found, err := filepath.Glob(filepath.Join(dir, pattern)); err == nil && len(found) == 1 {
				k.Image = found[0]
			}
		}
	}
	if k.Image == "" || len(trees) == 0 {
		return nil, fmt.Errorf("find image and modules of %s: not in %s", s, strings.Join(set.Folders(), ", "))
	}
	k.Release = filepath.Base(trees[0])
	k.modules, err = kmod.OpenTree(trees...)
	return k, err
}

// resolveKernel follows the meta package of that name. All packages of one kernel come from one source and depend on each other's exact version, whatever
// they are called and however many the suite splits a kernel into.
func resolveKernel(ctx context.Context, a *debian.Archive, name string) ([]debian.Package, error) {
	meta, err := a.Show(ctx, name)
	if err != nil {
		return nil, err
	}
	var packages []debian.Package
	seen := map[string]bool{meta.Name: true}
	queue := meta.Depends
	for len(queue) > 0 {
		d := queue[0]
		queue = queue[1:]
		if seen[d.Name] || d.Exact != meta.Version {
			continue
		}
		seen[d.Name] = true
		control, err := a.Show(ctx, d.Name)
		if err != nil {
			return nil, err
		}
		if control.Version != meta.Version {
			return nil, fmt.Errorf("resolve kernel: %s is at version %s, %s wants %s", d.Name, control.Version, meta.Name, meta.Version)
		}
		if _, err := a.Unpack(ctx, control.Package); err != nil {
			return nil, err
		}
		packages = append(packages, control.Package)
		queue = append(queue, control.Depends...)
	}
	if len(packages) == 0 {
		return nil, fmt.Errorf("resolve kernel: %s %s depends on no kernel of its own version", meta.Name, meta.Version)
	}
	return packages, nil
}

// ErrNoQEMU is returned when the emulator of the guest's architecture is not installed.
var ErrNoQEMU = errors.New("qemu is not installed")

// machine is what qemu and a kernel have to be told to boot one architecture.
type machine struct {
	program string   // of qemu
	apt     string   // Debian package of that program
	options []string // of qemu
	console string   // name of the kernel's console
	loader  string   // folder of multiarch libraries
}

func machineOf(arch string) (machine, error) {
	switch arch {
	case "amd64":
		// qemu 7.2 emulates cmpxchg16b with garbage in the flags: an interrupt right after it, in the kernel's memory allocator, is a double fault.
		// Both processors share a thread, because one that runs code while the other one patches it can hit a breakpoint that is gone already,
		// which the kernel takes for an oops: attaching a program to a tracepoint patches code.
		return machine{
			program: "qemu-system-x86_64", apt: "qemu-system-x86", console: "ttyS0", loader: "x86_64-linux-gnu",
			options: []string{"-machine", "q35", "-accel", "tcg,thread=single", "-cpu", "max,cx16=off"},
		}, nil
	case "arm64": // pointer authentication is very slow under emulation, and code is patched here as well
		return machine{
			program: "qemu-system-aarch64", apt: "qemu-system-arm", console: "ttyAMA0", loader: "aarch64-linux-gnu",
			options: []string{"-machine", "virt", "-accel", "tcg,thread=single", "-cpu", "max,pauth=off"},
		}, nil
	}
	return machine{}, fmt.Errorf("choose machine: architecture %q (amd64 and arm64 are known)", arch)
}

// Ready says whether this machine can run guests of an architecture, and if not, what to install.
func Ready(arch string) error {
	m, err := machineOf(arch)
	if err != nil {
		return err
	}
	_, err = m.emulator()
	return err
}

// emulator returns the file of qemu for the machine.
func (m machine) emulator() (string, error) {
	program, err := exec.LookPath(m.program)
	if err != nil {
		return "", fmt.Errorf("find %s: %w (apt-get install %s)", m.program, ErrNoQEMU, m.apt)
	}
	return program, nil
}

// readable says early, and by name, that a file of the cache has gone.
func readable(file string) error {
	f, err := os.Open(file)
	if err != nil {
		return fmt.Errorf("read image: %w (delete the cache folder to fetch it again)", err)
	}
	return f.Close()
}
