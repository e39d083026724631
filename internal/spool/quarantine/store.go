package quarantine

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/prometheus/client_golang/prometheus"
)

// ErrTooLarge is returned by Put for a request that does not fit even an empty quarantine.
var ErrTooLarge = errors.New("request larger than the quarantine")

// Store puts requests into a quarantine. It is safe for concurrent use. What is in the directory is looked up each time, since another process
// may have removed something.
type Store struct {
	directory string
	maxBytes  int64
	disk      disk
	log       *slog.Logger
	registry  prometheus.Registerer
	metrics   *metrics

	putting sync.Mutex // held for a whole Put, disk included; guards next
	next    uint64     // number of the next request

	mu      sync.Mutex      // held for moments; guards damaged
	damaged map[string]bool // by file name: what could not be read, and is neither counted nor dropped
}

// Open opens the quarantine in a directory, which is made when it is first needed. MaxBytes bounds the files that can be read, together. What a
// crash left unfinished is removed, and a line is logged for each file that cannot be read. The registry may be nil; Close gives its metrics back.
func Open(directory string, maxBytes int64, log *slog.Logger, reg prometheus.Registerer) (*Store, error) {
	return open(directory, maxBytes, systemDisk{}, log, reg)
}

func open(directory string, maxBytes int64, d disk, log *slog.Logger, reg prometheus.Registerer) (*Store, error) {
	s := &Store{directory: directory, maxBytes: maxBytes, disk: d, log: log, registry: reg, next: 1, damaged: make(map[string]bool)}
	s.metrics = newMetrics(s)
	if err := s.clean(); err != nil {
		return nil, fmt.Errorf("open quarantine %s: %w", directory, err)
	}
	if reg != nil {
		if err := reg.Register(s.metrics); err != nil {
			return nil, fmt.Errorf("open quarantine %s: register metrics: %w", directory, err)
		}
	}
	return s, nil
}

// Close takes the metrics off the registry. The files stay.
func (s *Store) Close() {
	if s.registry != nil {
		s.registry.Unregister(s.metrics)
	}
}

// clean removes unfinished files and reports those that cannot be read.
func (s *Store) clean() error {
	names, err := os.ReadDir(s.directory)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	for _, name := range names {
		if !strings.HasSuffix(name.Name(), fileSuffix+temporarySuffix) {
			continue
		}
		if err := s.disk.Remove(filepath.Join(s.directory, name.Name())); err != nil {
			s.log.Warn("cannot remove unfinished file of the quarantine", "file", filepath.Join(s.directory, name.Name()), "err", err)
		}
	}
	entries, err := List(s.directory)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if number, ok := parseFileName(e.File); ok {
			s.next = max(s.next, number+1)
		}
		if e.Err != nil {
			s.reportDamage(e.File, e.Err)
		}
	}
	return nil
}

// reportDamage takes a file that cannot be read out of the account, once: it is not ours to delete, and must not crowd out those that can be.
func (s *Store) reportDamage(file string, err error) {
	s.mu.Lock()
	s.damaged[file] = true
	s.mu.Unlock()
	s.log.Error("quarantined request cannot be read, its file stays as it is", "file", filepath.Join(s.directory, file), "err", err)
}

// Put keeps a request and gives it a number; the ID of the Batch is not looked at. It is durable when Put returns nil. The oldest requests are
// dropped to make room, even if the disk refuses the new one then. The error wraps ErrTooLarge or what the operating system said.
func (s *Store) Put(b Batch) error {
	s.putting.Lock()
	defer s.putting.Unlock()
	if err := s.put(&b); err != nil {
		return fmt.Errorf("put request into quarantine %s: %w", s.directory, err)
	}
	return nil
}

func (s *Store) put(b *Batch) error {
	contents, err := encode(b)
	if err != nil {
		return err
	}
	size := int64(len(contents))
	if size > s.maxBytes {
		return fmt.Errorf("%w: %d bytes, at most %d are allowed (raise spool.quarantine_max_size)", ErrTooLarge, size, s.maxBytes)
	}
	if err := s.disk.MakeDirectory(s.directory); err != nil {
		return err
	}
	if err := s.makeRoom(size); err != nil {
		return err
	}
	name, err := fileName(strconv.FormatUint(s.next, 10))
	if err != nil {
		return err
	}
	if err := s.write(filepath.Join(s.directory, name), contents); err != nil {
		return err
	}
	s.next++
	return nil
}

// makeRoom drops the oldest requests until another one fits.
func (s *Store) makeRoom(size int64) error {
	found, err := s.readable()
	if err != nil {
		return err
	}
	for _, f := range found {
		size += f.size
	}
	for _, f := range found {
		if size <= s.maxBytes {
			return nil
		}
		dropped, err := Load(s.directory, f.id())
		switch {
		case errors.Is(err, fs.ErrNotExist): // removed since
		case err != nil:
			s.reportDamage(f.name, err)
		default:
			if err := s.disk.Remove(filepath.Join(s.directory, f.name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return err
			}
			s.metrics.dropped.Inc()
			s.log.Error("quarantine is full, its oldest request is dropped for good", "id", dropped.ID, "receiver", dropped.Receiver,
				"samples", dropped.Samples, "oldest", dropped.Oldest, "newest", dropped.Newest)
		}
		size -= f.size
	}
	return nil
}

// readable returns the files that are not known to be damaged, oldest first.
func (s *Store) readable() ([]stored, error) {
	found, err := scan(s.directory)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.DeleteFunc(found, func(f stored) bool { return s.damaged[f.name] }), nil
}

// write makes a file, whole or not at all.
func (s *Store) write(path string, contents []byte) error {
	temporary := path + temporarySuffix
	err := s.disk.Write(temporary, contents)
	if err == nil {
		err = s.disk.Rename(temporary, path)
	}
	if err != nil {
		_ = s.disk.Remove(temporary) // it holds nothing that was promised, and room that may be wanted
		return err
	}
	return s.disk.SyncDirectory(s.directory)
}
