package spool

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
)

// readCursor reads the cursor file at a path. The error is errBadCursor, ErrVersion, or the file's own.
func readCursor(fsys fileSystem, path string) (progress, error) {
	f, err := fsys.Open(path, false)
	if err != nil {
		return progress{}, err
	}
	defer f.Close()
	b := make([]byte, maxCursorSize+1)
	n, err := f.ReadAt(b, 0)
	if err != nil && !errors.Is(err, io.EOF) {
		return progress{}, err
	}
	return decodeCursor(b[:n])
}

// saveCursor writes the file of a cursor unless it holds the present progress already.
func (s *Spool) saveCursor(c *cursor) error {
	c.saving.Lock()
	defer c.saving.Unlock()
	s.mu.Lock()
	now, change, isDurable := c.progress, c.changes, c.durable == c.changes || s.cursors[c.name] != c
	s.mu.Unlock()
	if isDurable {
		return nil
	}
	err := s.writeCursor(c.name, now)
	if err != nil {
		s.metrics.diskErrors.Inc()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	c.failing = err != nil
	if err == nil {
		c.durable = change
	}
	return err
}

// saveCursors writes the files of all cursors that are behind. An error is in the log already or will be at the reader's next Commit.
func (s *Spool) saveCursors() error {
	s.mu.Lock()
	cursors := slices.Collect(maps.Values(s.cursors))
	s.mu.Unlock()
	var errs []error
	for _, c := range cursors {
		errs = append(errs, s.saveCursor(c))
	}
	return errors.Join(errs...)
}

// cursorsBehind reports whether a cursor has changed since it was written. The caller holds mu.
func (s *Spool) cursorsBehind() bool {
	for _, c := range s.cursors {
		if c.durable != c.changes {
			return true
		}
	}
	return false
}

// cursorsFail reports whether a cursor file could not be written the last time.
func (s *Spool) cursorsFail() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range s.cursors {
		if c.failing {
			return true
		}
	}
	return false
}

// writeCursor replaces a cursor file. The directory is synced last, which also makes the removal of delivered segments durable.
func (s *Spool) writeCursor(name string, p progress) error {
	path := s.path(name + cursorSuffix)
	if err := s.writeFile(path+temporarySuffix, encodeCursor(p)); err != nil {
		return fmt.Errorf("write cursor of reader %s: %w", name, err)
	}
	if err := s.fs.Rename(path+temporarySuffix, path); err != nil {
		return fmt.Errorf("write cursor of reader %s: %w", name, err)
	}
	if err := s.syncDirectory(); err != nil {
		return fmt.Errorf("write cursor of reader %s: sync directory: %w", name, err)
	}
	return nil
}

// writeFile makes a file with some contents, synced.
func (s *Spool) writeFile(path string, b []byte) error {
	f, err := s.fs.Create(path)
	if err != nil {
		return err
	}
	_, err = f.WriteAt(b, 0)
	if err == nil && s.policy.syncsFiles() {
		err = f.Sync()
	}
	return errors.Join(err, f.Close())
}
