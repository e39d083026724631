package guest

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// makers are the programs that make file systems, with their options: nothing is discarded or filled in advance or in the background.
func makers() map[string][]string {
	return map[string][]string{
		"btrfs": {"mkfs.btrfs", "-q", "-f", "-K"},
		"ext4":  {"mke2fs", "-q", "-F", "-t", "ext4", "-N", "1024", "-E", "nodiscard,lazy_itable_init=0,lazy_journal_init=0", "-J", "size=4"},
		"f2fs":  {"mkfs.f2fs", "-q", "-f", "-t", "0"},
		"xfs":   {"mkfs.xfs", "-q", "-f", "-K"},
	}
}

// MakeFileSystem makes an empty file system on a device: btrfs, ext4, f2fs or xfs.
func MakeFileSystem(ctx context.Context, kind, device string) error {
	command, ok := makers()[kind]
	if !ok {
		return fmt.Errorf("make file system: kind %q (btrfs, ext4, f2fs and xfs are known)", kind)
	}
	return tool(ctx, command[0], append(command[1:], device)...)
}

// Mount mounts a file system on a folder, which it creates. The kernel loads the module through modprobe.
func Mount(source, folder, kind, options string) error {
	if err := os.MkdirAll(folder, 0o755); err != nil {
		return fmt.Errorf("mount %s: %w", kind, err)
	}
	if err := unix.Mount(source, folder, kind, 0, options); err != nil {
		return fmt.Errorf("mount %s on %s: %w", kind, folder, err)
	}
	return nil
}

// MountOverlay mounts an overlay on a folder, which it creates: a lower folder with a writable layer on it, which is kept below the folder layer.
func MountOverlay(lower, layer, folder string) error {
	upper, work := filepath.Join(layer, "upper"), filepath.Join(layer, "work")
	for _, dir := range []string{upper, work} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return fmt.Errorf("mount overlay: %w", err)
		}
	}
	return Mount("overlay", folder, "overlay", "lowerdir="+lower+",upperdir="+upper+",workdir="+work)
}
