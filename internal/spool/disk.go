package spool

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/latpush/latpush/internal/spool/segment"
)

// file is an open file.
type file interface {
	segment.File
	Size() (int64, error) // bytes
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

// Lock uses a file rather than the directory itself because NFS locks only files that are open for writing.
func (disk) Lock(path string) (io.Closer, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, fileMode)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		_ = f.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, fmt.Errorf("%w by another process (stop it, or set spool.directory to another directory)", ErrLocked)
		}
		return nil, fmt.Errorf("flock: %w", err)
	}
	return f, nil
}

type diskFile struct{ *os.File }

func (f diskFile) Size() (int64, error) {
	info, err := f.Stat()
	if err != nil {
		return 0, err
	}
	return info.Size(), nil
}
