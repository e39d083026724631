package spool

import (
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"strconv"
	"strings"
)

// Position is a place in the spool: every snapshot up to and including it. Positions ascend in the order of Append, and 0 is before the first
// snapshot.
type Position uint64

// cursor is what one reader has delivered, whether the reader is open or not. The spool's mutex guards it.
type cursor struct {
	name      string
	delivered Position
	durable   bool // delivered is in the cursor file
	open      bool
}

const (
	cursorVersion = 1
	cursorWord    = "latpush-cursor"
	maxCursorSize = 256 // bytes; a cursor file has less than 64
)

var errBadCursor = errors.New("bad cursor file")

// encodeCursor returns the contents of a cursor file: a word, the version, the position in decimal, and the CRC-32C of all before it in hex.
//
//	latpush-cursor v1 1234 93d8b724\n
func encodeCursor(p Position) []byte {
	line := fmt.Sprintf("%s v%d %d", cursorWord, cursorVersion, p)
	return fmt.Appendf(nil, "%s %08x\n", line, cursorChecksum(line))
}

// decodeCursor reads a cursor file. The error is errBadCursor or ErrVersion.
func decodeCursor(b []byte) (Position, error) {
	text, ok := strings.CutSuffix(string(b), "\n")
	cut := strings.LastIndexByte(text, ' ')
	if !ok || cut < 0 {
		return 0, fmt.Errorf("%w: cut short", errBadCursor)
	}
	line := text[:cut]
	if text[cut+1:] != fmt.Sprintf("%08x", cursorChecksum(line)) {
		return 0, fmt.Errorf("%w: checksum does not match", errBadCursor)
	}
	word, rest, _ := strings.Cut(line, " v")
	number, position, _ := strings.Cut(rest, " ")
	version, err := strconv.ParseUint(number, 10, 32)
	if word != cursorWord || err != nil || version == 0 {
		return 0, fmt.Errorf("%w: does not start with %s and a version", errBadCursor, cursorWord)
	}
	if version > cursorVersion {
		return 0, fmt.Errorf("%w: cursor has version %d, this latpush reads up to %d", ErrVersion, version, cursorVersion)
	}
	p, err := strconv.ParseUint(position, 10, 63)
	if err != nil {
		return 0, fmt.Errorf("%w: position %q is not a number", errBadCursor, position)
	}
	return Position(p), nil
}

func cursorChecksum(line string) uint32 {
	return crc32.Checksum([]byte(line), crc32.MakeTable(crc32.Castagnoli))
}

// readCursor reads the cursor file at a path. The error is errBadCursor, ErrVersion, or the file's own.
func (s *Spool) readCursor(path string) (Position, error) {
	f, err := s.fs.Open(path, false)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	b := make([]byte, maxCursorSize)
	n, err := f.ReadAt(b, 0)
	if err != nil && !errors.Is(err, io.EOF) {
		return 0, err
	}
	return decodeCursor(b[:n])
}

// writeCursor replaces a cursor file. The directory is synced last, which also makes the removal of delivered segments durable.
func (s *Spool) writeCursor(name string, p Position) error {
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
	if err == nil && s.fsync() {
		err = f.Sync()
	}
	return errors.Join(err, f.Close())
}

// checkReaderName returns an error unless the name can be the first part of a file name.
func checkReaderName(name string) error {
	valid := func(r rune) bool {
		return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '-' || r == '_'
	}
	if name == "" || len(name) > 128 || strings.ContainsFunc(name, func(r rune) bool { return !valid(r) }) {
		return fmt.Errorf("reader name %q is not usable [1 to 128 letters, digits, '-' and '_']", name)
	}
	return nil
}
