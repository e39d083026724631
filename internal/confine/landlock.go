package confine

import (
	"errors"
	"fmt"
	"path/filepath"

	"github.com/landlock-lsm/go-landlock/landlock"
	llsyscall "github.com/landlock-lsm/go-landlock/landlock/syscall"
	"golang.org/x/sys/unix"
)

// Paths are what a process may still use. What does not exist is left out.
//
// A rule belongs to what has the name when it is made. Files are often changed by putting a new one in their place, which a rule for the old one
// does not cover, so what is to be read later is better named by its folder.
type Paths struct {
	Read  []string // folders or files to read, with all that is below them
	Write []string // files to write as well
	Own   []string // folders in which files and folders are also made and removed
	Move  []string // folders below which they are also moved from one folder to another
}

// The rights, which are those of files and folders up to Landlock's ABI 5. To execute a file is not among them, nor are device nodes, sockets, pipes and links.
const (
	rightsRead  = llsyscall.AccessFSReadFile | llsyscall.AccessFSReadDir
	rightsWrite = llsyscall.AccessFSReadFile | llsyscall.AccessFSWriteFile | llsyscall.AccessFSTruncate
	rightsMove  = rightsOwn | llsyscall.AccessFSRefer
	rightsOwn   = rightsRead | rightsWrite | llsyscall.AccessFSMakeReg | llsyscall.AccessFSMakeDir | llsyscall.AccessFSRemoveFile | llsyscall.AccessFSRemoveDir
)

// errNoLandlock says that the kernel does not restrict anything.
var errNoLandlock = errors.New("this kernel has no Landlock (5.13 and later have it, with landlock in the list of the boot parameter lsm)")

// restrictPaths puts the strongest ruleset in force that the kernel knows.
//
// TCP ports stay free (ABI 4): a receiver is reached through redirects, proxies and resolvers whose ports no configuration names. Signals and
// abstract sockets (ABI 6) need no rule: the filter refuses signals to other processes.
func restrictPaths(paths Paths) error {
	abi, err := llsyscall.LandlockGetABIVersion()
	switch {
	case errors.Is(err, unix.ENOSYS), errors.Is(err, unix.EOPNOTSUPP):
		return errNoLandlock
	case err != nil:
		return fmt.Errorf("ask for Landlock: %w (a sandbox around latpush refuses it)", err)
	case abi < 1:
		return errNoLandlock
	case abi == 1 && len(paths.Move) > 0:
		return errors.New("this kernel's Landlock cannot let files be moved between folders (5.19), as pins are (with an empty pin_path it is of use)")
	}
	var rules []landlock.Rule
	for _, r := range []struct {
		rights landlock.AccessFSSet
		paths  []string
	}{{rightsRead, paths.Read}, {rightsWrite, paths.Write}, {rightsOwn, paths.Own}, {rightsMove, paths.Move}} {
		for _, path := range r.paths {
			// What the user cannot reach, such as debugfs, needs no rule, and would be an error.
			if fd, err := unix.Open(path, unix.O_PATH|unix.O_CLOEXEC, 0); err == nil {
				_ = unix.Close(fd)
				rules = append(rules, ruleFor(path, r.rights))
			}
		}
	}
	if err := landlock.V5.BestEffort().RestrictPaths(rules...); err != nil {
		return fmt.Errorf("restrict files with Landlock: %w", err)
	}
	return nil
}

// ruleFor leaves out the rights that only folders have when the path is a file: the kernel refuses them.
func ruleFor(path string, rights landlock.AccessFSSet) landlock.Rule {
	var info unix.Stat_t
	if err := unix.Stat(path, &info); err == nil && info.Mode&unix.S_IFMT != unix.S_IFDIR {
		rights &= rightsWrite
	}
	return landlock.PathAccess(rights, path).IgnoreIfMissing()
}

// Folders returns the folders that the names of files are in, those that they lead to through links among them, each once.
func Folders(files ...string) []string {
	var folders []string
	seen := make(map[string]bool)
	add := func(file string) {
		absolute, err := filepath.Abs(file)
		if folder := filepath.Dir(absolute); err == nil && !seen[folder] {
			seen[folder] = true
			folders = append(folders, folder)
		}
	}
	for _, file := range files {
		add(file)
		if target, err := filepath.EvalSymlinks(file); err == nil {
			add(target)
		}
	}
	return folders
}

// Remountable returns a folder, and the one that it is mounted in if it is where a file system is mounted. Landlock knows the folders of the file
// system that is there now; only a rule for a folder around it covers another one that takes its place, such as a repaired disk.
func Remountable(folder string) []string {
	target, err := filepath.EvalSymlinks(folder)
	if err != nil {
		return []string{folder}
	}
	var info unix.Statx_t
	err = unix.Statx(unix.AT_FDCWD, target, 0, unix.STATX_BASIC_STATS, &info)
	if err != nil || info.Attributes&unix.STATX_ATTR_MOUNT_ROOT == 0 {
		return []string{folder}
	}
	return []string{folder, filepath.Dir(target)}
}
