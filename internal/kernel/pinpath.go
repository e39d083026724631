package kernel

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// pinPath is the directory on a BPF file system in which the sources are pinned, so that a crash of the agent ends neither their programs nor
// their counts. A process that has it open has it locked.
//
//	SOURCE/FINGERPRINT/state                          what is known of the source beside its counts: pinnedState
//	                   maps/MAP                       all but the constants
//	                   hooks/HOOK/WAY/program-NN-NAME empty where the kernel cannot pin the links of this way
//	                                  link-NN-NAME
//	                   unfinished/                    a hook that is being pinned, or hooks that are being removed
//	SOURCE/unfinished/                                a source that is being pinned or removed
//
// The agent can be killed between any two steps. Whatever has its final name is whole, since a folder gets it, and loses it, by one rename. What is
// unfinished is never used: the next start removes it.
type pinPath struct {
	path  string
	lock  *os.File
	fault func() error // of tests: called before each change, which an error prevents; nil: none

	leaving []ebpf.ProgramID // programs that were removed, which the kernel may let go of a moment later
}

const unfinished = "unfinished"

// ErrPinPathInUse says that another agent uses the same directory for its pins.
var ErrPinPathInUse = errors.New("another latpush agent is running with it (stop that one, or give this one a pin_path of its own)")

// openPinPath makes and locks the directory. The error is an ErrPinPathInUse, or says why nothing can be pinned there.
func openPinPath(path string) (*pinPath, error) {
	if err := checkBPFFS(path); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(path, 0o700); err != nil {
		return nil, fmt.Errorf("make directory: %w", err)
	}
	if err := unix.Access(path, unix.W_OK|unix.X_OK); err != nil {
		return nil, fmt.Errorf("write to %s: %w", path, err)
	}
	return lockPinPath(path)
}

func lockPinPath(path string) (*pinPath, error) {
	lock, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("open directory: %w", err)
	}
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		_ = lock.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, fmt.Errorf("lock %s: %w", path, ErrPinPathInUse)
		}
		return nil, fmt.Errorf("lock %s: %w", path, err)
	}
	return &pinPath{path: path, lock: lock}, nil
}

// checkBPFFS returns an error unless path, or what there is of it, is on a BPF file system.
func checkBPFFS(path string) error {
	for {
		var stat unix.Statfs_t
		err := unix.Statfs(path, &stat)
		switch {
		case errors.Is(err, unix.ENOENT) && path != filepath.Dir(path):
			path = filepath.Dir(path)
			continue
		case err != nil:
			return fmt.Errorf("look at the file system of %s: %w", path, err)
		case stat.Type != unix.BPF_FS_MAGIC:
			return fmt.Errorf("%s is not on a BPF file system (mount one: mount -t bpf bpf /sys/fs/bpf)", path)
		}
		return nil
	}
}

// close unlocks the directory, which stays: an administrator may have made it for an agent that could not.
func (p *pinPath) close() error { return p.lock.Close() }

// change makes one change.
func (p *pinPath) change(f func() error) error {
	if p.fault != nil {
		if err := p.fault(); err != nil {
			return err
		}
	}
	return f()
}

func (p *pinPath) mkdir(path string) error {
	return p.change(func() error { return os.MkdirAll(path, 0o700) })
}

func (p *pinPath) rename(from, to string) error {
	return p.change(func() error { return os.Rename(from, to) })
}

// keepOnly removes what is pinned of all sources but the named ones.
func (p *pinPath) keepOnly(sources []string) error {
	found, err := p.sources()
	if err != nil {
		return err
	}
	var errs []error
	for _, source := range found {
		if !slices.Contains(sources, source) {
			errs = append(errs, p.remove(source, ""))
		}
	}
	return errors.Join(errs...)
}

// sources returns the folders that hold something that an agent has pinned. Other folders are none of its business.
func (p *pinPath) sources() ([]string, error) {
	entries, err := os.ReadDir(p.path)
	if err != nil {
		return nil, fmt.Errorf("list pins: %w", err)
	}
	var found []string
	for _, entry := range entries {
		folders, err := p.folders(entry.Name())
		if err != nil {
			return nil, err
		}
		if len(folders) > 0 {
			found = append(found, entry.Name())
		}
	}
	return found, nil
}

// folders returns what an agent has made in the folder of a source.
func (p *pinPath) folders(source string) ([]string, error) {
	entries, err := os.ReadDir(filepath.Join(p.path, source))
	if err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, unix.ENOTDIR) {
		return nil, fmt.Errorf("list pins of source %s: %w", source, err)
	}
	var names []string
	for _, entry := range entries {
		if name := entry.Name(); entry.IsDir() && (name == unfinished || isFingerprint(name)) {
			names = append(names, name)
		}
	}
	return names, nil
}

// remove removes what is pinned of a source, but not the folder of the fingerprint to keep, if any.
func (p *pinPath) remove(source, keep string) error {
	folders, err := p.folders(source)
	if err != nil {
		return err
	}
	for _, name := range folders {
		if name == keep {
			continue
		}
		folder := filepath.Join(p.path, source, name)
		if name != unfinished {
			if err := p.setAside(folder, filepath.Join(p.path, source, unfinished)); err != nil {
				return err
			}
		}
	}
	if err := p.removeTree(filepath.Join(p.path, source, unfinished)); err != nil {
		return err
	}
	if keep == "" {
		_ = os.Remove(filepath.Join(p.path, source)) // unless somebody has put something else into it
	}
	return nil
}

// setAside takes its final name from a folder. What was unfinished before is removed.
func (p *pinPath) setAside(folder, to string) error {
	if err := p.removeTree(to); err != nil {
		return err
	}
	if err := p.rename(folder, to); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove pins: %w", err)
	}
	return nil
}

// removeTree removes a folder and everything in it, first the links of a hook, in the reverse order of attaching.
func (p *pinPath) removeTree(folder string) error {
	var links []string
	err := filepath.WalkDir(folder, func(path string, entry fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case strings.HasPrefix(entry.Name(), linkPrefix):
			links = append(links, path)
		case strings.HasPrefix(entry.Name(), programPrefix):
			p.leave(path)
		}
		return nil
	})
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("remove pins: %w", err)
	}
	slices.Reverse(links)
	for _, link := range links {
		if err := p.change(func() error { return os.Remove(link) }); err != nil {
			return fmt.Errorf("remove pins: %w", err)
		}
	}
	if err := p.change(func() error { return os.RemoveAll(folder) }); err != nil {
		return fmt.Errorf("remove pins: %w", err)
	}
	return nil
}
