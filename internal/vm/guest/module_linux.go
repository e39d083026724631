package guest

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/latpush/latpush/internal/vm/handover"
	"github.com/latpush/latpush/internal/vm/kmod"
)

// Kernel returns the guest's name in the matrix, such as "6.1/amd64", and an empty string on a machine that is no guest.
func Kernel() string { return os.Getenv(handover.KernelVariable) }

// LoadModule loads a module and those it depends on. A module that is loaded already stays as it is. Parameters, such as "nr_devices=0", go to the
// named module.
func LoadModule(name string, parameters ...string) error {
	index, err := modules()
	if err != nil {
		return err
	}
	return index.Load(name, parameters...)
}

// UnloadModule removes one module, which nothing may be using, and none of those it depends on.
func UnloadModule(name string) error {
	if err := unix.DeleteModule(kmod.Canonical(name), unix.O_NONBLOCK); err != nil {
		return fmt.Errorf("unload module %s: %w", name, err)
	}
	return nil
}

// ModuleLoaded says whether a module is in the kernel now.
func ModuleLoaded(name string) bool { return kmod.Loaded(name) }

func modules() (kmod.Index, error) {
	text, err := os.ReadFile(handover.ManifestFile)
	if err != nil {
		return nil, fmt.Errorf("read manifest: %w (this is for guests only)", err)
	}
	var m handover.Manifest
	if err := json.Unmarshal(text, &m); err != nil {
		return nil, fmt.Errorf("read manifest: %w", err)
	}
	return m.Modules, nil
}

// DropCaches writes back dirty pages and forgets clean pages, and names and inodes too that nothing has open: the next open of a file is looked up anew.
func DropCaches() error {
	unix.Sync()
	if err := os.WriteFile("/proc/sys/vm/drop_caches", []byte("3"), 0); err != nil {
		return fmt.Errorf("drop caches: %w", err)
	}
	return nil
}

// Keep leaves a file for the host: it arrives in Result.Files of package vm under this name. It is for results, up to some MiB in all.
func Keep(name string, content []byte) error {
	file := filepath.Join(handover.OutFolder, filepath.Clean("/"+name))
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		return fmt.Errorf("keep %s: %w", name, err)
	}
	if err := os.WriteFile(file, content, 0o644); err != nil {
		return fmt.Errorf("keep %s: %w", name, err)
	}
	return nil
}
