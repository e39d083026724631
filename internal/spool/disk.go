package spool

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sys/unix"

	"github.com/latpush/latpush/internal/spool/segment"
)

// file is an open file.
type file interface {
	segment.File
	Size() (int64, error)   // bytes
	Removed() (bool, error) // whether it has no name any more
}

// fileSystem is what the spool needs of an operating system. Errors wrap those of package io/fs and syscall.
type fileSystem interface {
	MakeDirectory(path string) error            // with its parents, durable; not an error when it exists
	List(directory string) ([]string, error)    // names of everything that is not a directory, sorted
	Create(path string) (file, error)           // to read and write, emptied when it exists
	Open(path string, write bool) (file, error) // fs.ErrNotExist when it does not exist
	Rename(from, to string) error               // replaces to
	Remove(path string) error
	SyncDirectory(path string) error
	Lock(path string) (io.Closer, error) // ErrLocked when another process has it
}

// meter counts the bytes that are written to files.
type meter struct {
	fileSystem
	written prometheus.Counter
}

func (m meter) Create(path string) (file, error) {
	f, err := m.fileSystem.Create(path)
	return meteredFile{f, m.written}, err
}

func (m meter) Open(path string, write bool) (file, error) {
	f, err := m.fileSystem.Open(path, write)
	return meteredFile{f, m.written}, err
}

type meteredFile struct {
	file
	written prometheus.Counter
}

func (f meteredFile) WriteAt(b []byte, offset int64) (int, error) {
	n, err := f.file.WriteAt(b, offset)
	f.written.Add(float64(n))
	return n, err
}

// disk is the fileSystem of the operating system.
type disk struct{}

const (
	directoryMode = 0o750
	fileMode      = 0o640
)

func (d disk) MakeDirectory(path string) error {
	var missing []string
	for p := filepath.Clean(path); ; p = filepath.Dir(p) {
		if _, err := os.Stat(p); err == nil || !errors.Is(err, fs.ErrNotExist) {
			break
		}
		missing = append(missing, p)
	}
	if err := os.MkdirAll(path, directoryMode); err != nil {
		return err
	}
	for _, p := range missing {
		if err := d.SyncDirectory(filepath.Dir(p)); err != nil {
			return err
		}
	}
	return nil
}

func (disk) List(directory string) ([]string, error) {
	entries, err := os.ReadDir(directory)
	if err != nil {
		return nil, err
	}
	names := make([]string, 0, len(entries))
	for _, entry := range entries {
		if !entry.IsDir() {
			names = append(names, entry.Name())
		}
	}
	return names, nil
}

func (disk) Create(path string) (file, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_TRUNC, fileMode)
	if err != nil {
		return nil, err
	}
	return diskFile{f}, nil
}

func (disk) Open(path string, write bool) (file, error) {
	flags := os.O_RDONLY
	if write {
		flags = os.O_RDWR
	}
	f, err := os.OpenFile(path, flags, 0)
	if err != nil {
		return nil, err
	}
	return diskFile{f}, nil
}

func (disk) Rename(from, to string) error { return os.Rename(from, to) }

func (disk) Remove(path string) error { return os.Remove(path) }

func (disk) SyncDirectory(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	err = d.Sync()
	if closeErr := d.Close(); err == nil {
		err = closeErr
	}
	return err
}

// Lock uses a file rather than the directory itself because NFS locks only files that are open for writing. Where the file is there and cannot
// be written, as on a read-only file system, it is locked as it is.
func (disk) Lock(path string) (io.Closer, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, fileMode)
	if err != nil {
		refusal := err
		if f, err = os.Open(path); err != nil {
			return nil, fmt.Errorf("%w (spool.directory must be on a file system that can be written when latpush first starts)", refusal)
		}
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		_ = f.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, fmt.Errorf("%w by another process (stop it, or set spool.directory to another directory)", ErrLocked)
		}
		return nil, fmt.Errorf("flock: %w", err)
	}
	return flock{f}, nil
}

// flock is a file that is locked.
type flock struct{ *os.File }

// Close gives up the lock before the file: a process that is being started has copies of all open files until it runs its own program, and closing
// alone would leave the lock with them.
func (f flock) Close() error {
	return errors.Join(unix.Flock(int(f.Fd()), unix.LOCK_UN), f.File.Close())
}

type diskFile struct{ *os.File }

func (f diskFile) Removed() (bool, error) {
	var info unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &info); err != nil {
		return false, err
	}
	return info.Nlink == 0, nil
}

func (f diskFile) Size() (int64, error) {
	info, err := f.Stat()
	if err != nil {
		return 0, err
	}
	return info.Size(), nil
}
