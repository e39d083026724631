package quarantine

import (
	"errors"
	"os"
	"path/filepath"
)

// disk is what a Store changes through.
type disk interface {
	MakeDirectory(path string) error          // durable; not an error when it exists
	Write(path string, contents []byte) error // makes or replaces a file, synced
	Rename(from, to string) error             // replaces to
	Remove(path string) error                 // fs.ErrNotExist when it does not exist
	SyncDirectory(path string) error          // makes the names in it durable
}

// systemDisk is the disk of the operating system.
type systemDisk struct{}

const (
	directoryMode = 0o750
	fileMode      = 0o640
)

// MakeDirectory makes the last part of the path only: what is above it is the spool's.
func (d systemDisk) MakeDirectory(path string) error {
	if err := os.Mkdir(path, directoryMode); err != nil && !errors.Is(err, os.ErrExist) {
		return err
	}
	return d.SyncDirectory(filepath.Dir(path)) // also when it exists: its maker may not have come so far
}

func (systemDisk) Write(path string, contents []byte) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, fileMode)
	if err != nil {
		return err
	}
	_, err = f.Write(contents)
	if err == nil {
		err = f.Sync()
	}
	return errors.Join(err, f.Close())
}

func (systemDisk) Rename(from, to string) error { return os.Rename(from, to) }

func (systemDisk) Remove(path string) error { return os.Remove(path) }

func (systemDisk) SyncDirectory(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
