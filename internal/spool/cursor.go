package spool

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"hash/crc32"
	"strconv"
	"strings"
	"sync"
)

// Position is a place in the spool: every snapshot up to and including it. Positions ascend in the order of Append, and 0 is before the first
// snapshot.
type Position uint64

// progress is what a cursor file holds.
type progress struct {
	delivered Position
	state     []byte // opaque, of the reader's owner; nil if there is none
}

// cursor is the progress of one reader, whether the reader is open or not.
type cursor struct {
	name   string
	saving sync.Mutex // held while the file is written

	// The spool's mutex guards the rest.
	progress
	changes int  // how often progress has changed
	durable int  // the change that is in the cursor file, -1 when there is no file
	failing bool // the file could not be written the last time
	open    bool // a Reader has it
}

// advance notes what was delivered. The caller holds the spool's mutex.
func (c *cursor) advance(p Position, state []byte) {
	if p <= c.delivered && (state == nil || bytes.Equal(state, c.state)) {
		return
	}
	c.delivered = max(c.delivered, p)
	if state != nil {
		c.state = bytes.Clone(state)
	}
	c.changes++
}

const (
	cursorVersion = 2
	cursorWord    = "latpush-cursor"
	noState       = "-"

	// MaxState is the largest state that Commit takes, in bytes.
	MaxState = 4 << 10

	maxCursorSize = 128 + MaxState*4/3 // bytes
)

var errBadCursor = errors.New("bad cursor file")

// encodeCursor returns the contents of a cursor file: a word, the version, the position in decimal, the state in base64 or a dash for none, and the
// CRC-32C of all before it in hex. Version 1 had no state.
//
//	latpush-cursor v2 1234 - 9de5d690\n
func encodeCursor(p progress) []byte {
	state := noState
	if len(p.state) != 0 {
		state = base64.StdEncoding.EncodeToString(p.state)
	}
	line := fmt.Sprintf("%s v%d %d %s", cursorWord, cursorVersion, p.delivered, state)
	return fmt.Appendf(nil, "%s %08x\n", line, cursorChecksum(line))
}

// decodeCursor reads a cursor file. The error is errBadCursor or ErrVersion.
func decodeCursor(b []byte) (progress, error) {
	text, ok := strings.CutSuffix(string(b), "\n")
	cut := strings.LastIndexByte(text, ' ')
	if !ok || cut < 0 {
		return progress{}, fmt.Errorf("%w: cut short", errBadCursor)
	}
	line := text[:cut]
	if text[cut+1:] != fmt.Sprintf("%08x", cursorChecksum(line)) {
		return progress{}, fmt.Errorf("%w: checksum does not match", errBadCursor)
	}
	word, rest, _ := strings.Cut(line, " v")
	number, rest, _ := strings.Cut(rest, " ")
	version, err := strconv.ParseUint(number, 10, 32)
	if word != cursorWord || err != nil || version == 0 {
		return progress{}, fmt.Errorf("%w: does not start with %s and a version", errBadCursor, cursorWord)
	}
	if version > cursorVersion {
		return progress{}, fmt.Errorf("%w: cursor has version %d, this latpush reads up to %d", ErrVersion, version, cursorVersion)
	}
	position, encoded, hasState := strings.Cut(rest, " ")
	delivered, err := strconv.ParseUint(position, 10, 63)
	if err != nil {
		return progress{}, fmt.Errorf("%w: position %q is not a number", errBadCursor, position)
	}
	if hasState != (version > 1) {
		return progress{}, fmt.Errorf("%w: number of words is not that of version %d", errBadCursor, version)
	}
	if !hasState || encoded == noState {
		return progress{delivered: Position(delivered)}, nil
	}
	state, err := base64.StdEncoding.Strict().DecodeString(encoded)
	if err != nil || len(state) == 0 || len(state) > MaxState {
		return progress{}, fmt.Errorf("%w: state is not base64 of 1 to %d bytes", errBadCursor, MaxState)
	}
	return progress{delivered: Position(delivered), state: state}, nil
}

func cursorChecksum(line string) uint32 {
	return crc32.Checksum([]byte(line), crc32.MakeTable(crc32.Castagnoli))
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
