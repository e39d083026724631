package segment

import (
	"errors"
	"fmt"
)

var (
	// ErrCorrupt is what every *CorruptError is.
	ErrCorrupt = errors.New("corrupt segment")

	// ErrVersion is returned for a segment of a format version that this program does not know.
	ErrVersion = errors.New("unsupported segment version")

	// ErrSync is returned by Writer.Append when the bytes were written and the sync failed. Nothing is known then about what reached
	// the disk, and the kernel may have dropped the dirty pages: the record belongs into a new segment.
	ErrSync = errors.New("sync segment")
)

// CorruptError is one stretch of a segment that cannot be read.
type CorruptError struct {
	Segment  string // file name
	Offset   int64  // where the stretch begins, bytes
	Length   int64  // bytes
	Sequence uint64 // of the record that is lost; 0 when that could not be read
	Tail     bool   // nothing valid follows in this segment
	Reason   string
	Err      error // what reading the file returned, nil when the bytes were read and are wrong
}

// Error names the segment, the offset and the reason.
func (e *CorruptError) Error() string {
	message := fmt.Sprintf("%s: segment %s, offset %d, %d bytes: %s", ErrCorrupt, e.Segment, e.Offset, e.Length, e.Reason)
	if e.Err != nil {
		message += ": " + e.Err.Error()
	}
	return message
}

// Unwrap makes errors.Is(err, ErrCorrupt) true and gives the cause, when there is one.
func (e *CorruptError) Unwrap() []error {
	if e.Err == nil {
		return []error{ErrCorrupt}
	}
	return []error{ErrCorrupt, e.Err}
}
