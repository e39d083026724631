package spool

import (
	"errors"

	"github.com/latpush/latpush/internal/spool/record"
	"github.com/latpush/latpush/internal/spool/segment"
)

// CorruptError says which stretch of which segment could not be read.
type CorruptError = segment.CorruptError

var (
	// ErrCorrupt is what every *CorruptError is.
	ErrCorrupt = segment.ErrCorrupt

	// ErrVersion is returned by Open when a newer latpush wrote the directory.
	ErrVersion = segment.ErrVersion

	// ErrTooLarge is returned by Append for a snapshot that is larger than half of MaxBytes, or than a record may be.
	ErrTooLarge = record.ErrTooLarge

	// ErrInvalid is returned by Append for a snapshot that breaks its own rules.
	ErrInvalid = record.ErrInvalid

	// ErrLocked is returned by Open when another process has the directory.
	ErrLocked = errors.New("spool directory is in use")

	// ErrClosed is returned by everything that is called on a closed spool or reader.
	ErrClosed = errors.New("spool is closed")

	// ErrNoSnapshot is returned for a position at which the spool holds no snapshot.
	ErrNoSnapshot = errors.New("no snapshot at this position")

	// ErrReaderOpen is returned for the name of a reader that is open already.
	ErrReaderOpen = errors.New("reader is open")
)
