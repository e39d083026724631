package quarantine

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// Folder is the name of the directory in the spool's that holds the quarantine.
const Folder = "quarantine"

const (
	fileSuffix      = ".request"
	temporarySuffix = ".tmp"
)

// Entry is one file of a quarantine.
type Entry struct {
	Batch        // without the body; only the ID if the file cannot be read
	File  string // its name
	Size  int64  // of the file, in bytes
	Err   error  // why the file cannot be read, nil if it can; wraps ErrCorrupt, ErrVersion or what the operating system said
}

// List returns what is in a quarantine, oldest first. A directory that does not exist is an empty quarantine.
func List(directory string) ([]Entry, error) {
	found, err := scan(directory)
	if err != nil {
		return nil, fmt.Errorf("list quarantine: %w", err)
	}
	var entries []Entry
	for _, f := range found {
		e := Entry{File: f.name, Size: f.size}
		e.Batch, e.Err = Load(directory, f.id())
		if errors.Is(e.Err, fs.ErrNotExist) {
			continue // removed since
		}
		e.ID, e.Body = f.id(), nil
		entries = append(entries, e)
	}
	return entries, nil
}

// Load returns one request. The error wraps fs.ErrNotExist, ErrCorrupt or ErrVersion.
func Load(directory, id string) (Batch, error) {
	name, err := fileName(id)
	if err != nil {
		return Batch{}, fmt.Errorf("load quarantined request: %w", err)
	}
	contents, err := os.ReadFile(filepath.Join(directory, name))
	if err != nil {
		return Batch{}, fmt.Errorf("load quarantined request %s: %w", id, err)
	}
	b, err := decode(contents)
	if err != nil {
		return Batch{}, fmt.Errorf("load quarantined request %s from %s: %w", id, filepath.Join(directory, name), err)
	}
	b.ID = id
	return b, nil
}

// Remove removes one request for good, whatever is in its file. The error wraps fs.ErrNotExist or what the operating system said.
func Remove(directory, id string) error {
	name, err := fileName(id)
	if err != nil {
		return fmt.Errorf("remove quarantined request: %w", err)
	}
	if err := os.Remove(filepath.Join(directory, name)); err != nil {
		return fmt.Errorf("remove quarantined request %s: %w", id, err)
	}
	if err := (systemDisk{}).SyncDirectory(directory); err != nil {
		return fmt.Errorf("remove quarantined request %s: sync directory: %w", id, err)
	}
	return nil
}

// stored is a file of a quarantine as the directory shows it.
type stored struct {
	number uint64
	name   string
	size   int64 // bytes
}

func (f stored) id() string { return strconv.FormatUint(f.number, 10) }

// scan returns the files of complete requests, oldest first.
func scan(directory string) ([]stored, error) {
	entries, err := os.ReadDir(directory)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	var found []stored
	for _, entry := range entries {
		number, ok := parseFileName(entry.Name())
		if !ok {
			continue
		}
		info, err := entry.Info()
		switch {
		case errors.Is(err, fs.ErrNotExist):
			continue // removed since
		case err != nil:
			return nil, err
		}
		found = append(found, stored{number: number, name: entry.Name(), size: info.Size()})
	}
	return found, nil
}

// fileName returns the name of the file of an ID. Names sort like numbers.
func fileName(id string) (string, error) {
	number, err := strconv.ParseUint(id, 10, 63)
	if err != nil || number == 0 {
		return "", fmt.Errorf("%q is not the number of a request", id)
	}
	return fmt.Sprintf("%020d%s", number, fileSuffix), nil
}

// parseFileName returns the number in a file's name.
func parseFileName(name string) (uint64, bool) {
	digits, ok := strings.CutSuffix(name, fileSuffix)
	if !ok || len(digits) != 20 {
		return 0, false
	}
	number, err := strconv.ParseUint(digits, 10, 63)
	return number, err == nil && number != 0
}
