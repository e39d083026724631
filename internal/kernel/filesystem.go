package kernel

import (
	"fmt"
	"slices"
	"strings"
)

// fileSystem is a file system of which the operations can be timed. Its name is that of its module and the value of the label.
type fileSystem struct {
	name   string
	anchor string // a function that it has in every kernel: where the kernel has it and no such module, the file system is built in
	hooks  []hook
}

const (
	spliceReads = "before 6.5 splice and sendfile go through the function of ordinary reads"
	noDirOpen   = "on this kernel directories have no open function of their own"
)

// fileSystems lists the functions in the tables of operations of each file system, which the VFS calls for files and for directories.
func fileSystems() []fileSystem {
	on := func(name, absent string) hook { return function("", name, absent) }
	return []fileSystem{
		{"ext4", "ext4_file_open", []hook{
			on("ext4_file_read_iter", ""), on("ext4_file_splice_read", spliceReads), on("ext4_file_write_iter", ""),
			on("ext4_file_open", ""), on("ext4_dir_open", noDirOpen), on("ext4_sync_file", ""), on("ext4_getattr", ""),
		}},
		{"xfs", "xfs_file_open", []hook{
			on("xfs_file_read_iter", ""), on("xfs_file_splice_read", spliceReads), on("xfs_file_write_iter", ""),
			on("xfs_file_open", ""), on("xfs_dir_open", ""), on("xfs_file_fsync", ""), on("xfs_dir_fsync", ""), on("xfs_vn_getattr", ""),
		}},
		{"btrfs", "btrfs_file_open", []hook{
			on("btrfs_file_read_iter", ""), on("btrfs_file_splice_read", "on this kernel splice and sendfile go through another function"),
			insteadOf("btrfs_file_splice_read", on("filemap_splice_read", "on this kernel splice and sendfile go through a function of btrfs")),
			on("btrfs_file_write_iter", ""), on("btrfs_file_open", ""), on("btrfs_opendir", noDirOpen), on("btrfs_sync_file", ""), on("btrfs_getattr", ""),
		}},
		{"f2fs", "f2fs_file_open", []hook{
			on("f2fs_file_read_iter", ""), on("f2fs_file_splice_read", spliceReads), on("f2fs_file_write_iter", ""),
			on("f2fs_file_open", ""), on("f2fs_dir_open", noDirOpen), on("f2fs_sync_file", ""), on("f2fs_getattr", ""),
		}},
		{"fuse", "fuse_file_read_iter", []hook{
			on("fuse_file_read_iter", ""), on("fuse_splice_read", "before 6.9 splice and sendfile go through other functions"),
			on("fuse_file_write_iter", ""), on("fuse_splice_write", "before 6.9 splice goes through the function of ordinary writes"),
			on("fuse_open", ""), on("fuse_dir_open", ""), on("fuse_atomic_open", ""), on("fuse_fsync", ""), on("fuse_dir_fsync", ""), on("fuse_getattr", ""),
		}},
		{"overlay", "ovl_open", []hook{
			on("ovl_read_iter", ""), on("ovl_splice_read", spliceReads), on("ovl_write_iter", ""), on("ovl_splice_write", ""),
			on("ovl_open", ""), on("ovl_dir_open", ""), on("ovl_fsync", ""), on("ovl_dir_fsync", ""), on("ovl_getattr", ""),
		}},
	}
}

// insteadOf describes a hook that is needed where the kernel does not have another function.
func insteadOf(name string, h hook) hook {
	h.insteadOf = name
	return h
}

// fileSystemHooks returns the hooks of all file systems. Each waits for its own module.
func fileSystemHooks() []hook {
	var hooks []hook
	for _, f := range fileSystems() {
		for _, h := range f.hooks {
			h.module, h.anchor = f.name, f.anchor
			hooks = append(hooks, h)
		}
	}
	return hooks
}

// FileSystems returns the names of the file systems of which the operations can be timed.
func FileSystems() []string {
	var names []string
	for _, f := range fileSystems() {
		names = append(names, f.name)
	}
	return names
}

func validateFileSystems(list []string) error {
	if len(list) == 0 {
		return keyErrorf("filesystems", "the list is empty (remove the key for all of %s, or the source to time none)", strings.Join(FileSystems(), ", "))
	}
	for i, name := range list {
		key := fmt.Sprintf("filesystems[%d]", i)
		switch {
		case !slices.Contains(FileSystems(), name):
			return keyErrorf(key, "unknown file system %q (known are %s)", name, strings.Join(FileSystems(), ", "))
		case slices.Contains(list[:i], name):
			return keyErrorf(key, "file system %s is listed twice", name)
		}
	}
	return nil
}
