// Package record turns one latency.Snapshot into the bytes of one spool record and back. It is pure: no files, no clocks.
//
// What enters: a snapshot, or the bytes of a record whose checksum was found right (package segment keeps the checksums).
// What leaves: the bytes, or an equal snapshot. Equal means: empty slices come back nil, the wall clock comes back in UTC without Go's
// monotonic reading, and fields that do not belong to a family's kind are zero.
// What can go wrong: a snapshot that breaks its own rules (ErrInvalid) or is too large (ErrTooLarge), bytes that are not a
// record (ErrMalformed), a record of a newer latpush (ErrVersion).
//
// Every record stands alone: it needs no record before it, so any record may be left out, and the fixed header can be read
// with ReadInstant without touching the rest.
//
//	0        1        2                 18                26                34                 38
//	+--------+--------+-----------------+-----------------+-----------------+------------------+------//
//	| version| flags  | boot id         | boottime        | wall seconds    | wall nanoseconds | body
//	| u8 = 1 | u8     | 16 bytes        | i64 nanoseconds | i64 since 1970  | u32              |
//	+--------+--------+-----------------+-----------------+-----------------+------------------+------//
//
// Fixed-width numbers are little-endian. Flag bit 0 says that the body is one snappy block; the other bits are zero. The body is:
//
//	body     strings families
//	strings  n, then n lengths in bytes, then the bytes of all strings          each distinct string once, in order of first use
//	families n, then n times: family
//	family   name help unit (string numbers), kind (u8), bounds, label names, n, then n times: series
//	bounds   n, then the first bound, then n-1 differences (at least 1)         nanoseconds
//	labels   n, then n string numbers
//	series   one string number per label name, start, then by kind:
//	           histogram       sum in nanoseconds, then the counts of n bounds + 1 buckets
//	           counter, gauge  IEEE 754 bits, u64
//	start    difference from the start of the series before it in the record, zigzag
//	counts   not cumulative; a count above zero is itself, a run of zeros is 0 followed by its length minus 1
//
// Every number in the body that has no width given is an unsigned varint as in encoding/binary.
package record

import (
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"github.com/latpush/latpush/internal/latency"
)

const (
	// Version is the record version that Encoder writes and the newest that Decoder reads.
	Version = 1

	// HeaderSize is the length in bytes of the fixed part in front of the body.
	HeaderSize = 38

	// maxBody bounds the uncompressed body in bytes, so that a few hostile bytes cannot make the decoder allocate without end.
	maxBody = 64 << 20

	// maxCounts bounds the bucket counts of one record (8 bytes each in memory) for the same reason: zero runs make them cheap to write.
	maxCounts = 8 << 20

	flagSnappy = 1 << 0
)

var (
	// ErrInvalid is returned for a snapshot that breaks its own rules, such as a series with fewer label values than label names.
	ErrInvalid = errors.New("invalid snapshot")

	// ErrTooLarge is returned for a snapshot that is larger than a record may be.
	ErrTooLarge = errors.New("snapshot too large")

	// ErrMalformed is returned for bytes that are not a record.
	ErrMalformed = errors.New("malformed record")

	// ErrVersion is returned for a record of a version that this program does not know.
	ErrVersion = errors.New("unsupported record version")
)

// ReadInstant returns the boot id, boottime and wall clock (UTC) of a record without decoding its body.
// The error is ErrMalformed or ErrVersion.
func ReadInstant(b []byte) (latency.Instant, error) {
	if len(b) == 0 {
		return latency.Instant{}, fmt.Errorf("read record header: %w: no bytes", ErrMalformed)
	}
	if b[0] > Version {
		return latency.Instant{}, fmt.Errorf("read record header: %w: record has version %d, this latpush reads up to %d", ErrVersion, b[0], Version)
	}
	switch {
	case b[0] != Version:
		return latency.Instant{}, fmt.Errorf("read record header: %w: version %d does not exist", ErrMalformed, b[0])
	case len(b) < HeaderSize:
		return latency.Instant{}, fmt.Errorf("read record header: %w: %d bytes, shorter than the header", ErrMalformed, len(b))
	case b[1]&^flagSnappy != 0:
		return latency.Instant{}, fmt.Errorf("read record header: %w: unknown flags %#02x", ErrMalformed, b[1])
	}
	instant := latency.Instant{Boottime: time.Duration(binary.LittleEndian.Uint64(b[18:]))}
	copy(instant.BootID[:], b[2:18])
	seconds, nanoseconds := int64(binary.LittleEndian.Uint64(b[26:])), binary.LittleEndian.Uint32(b[34:])
	if nanoseconds >= uint32(time.Second) {
		return latency.Instant{}, fmt.Errorf("read record header: %w: wall clock has %d nanoseconds", ErrMalformed, nanoseconds)
	}
	instant.Wall = time.Unix(seconds, int64(nanoseconds)).UTC()
	return instant, nil
}

// appendHeader appends the fixed part, with no flags set.
func appendHeader(dst []byte, taken latency.Instant) []byte {
	dst = append(dst, Version, 0)
	dst = append(dst, taken.BootID[:]...)
	dst = binary.LittleEndian.AppendUint64(dst, uint64(taken.Boottime))
	dst = binary.LittleEndian.AppendUint64(dst, uint64(taken.Wall.Unix()))
	return binary.LittleEndian.AppendUint32(dst, uint32(taken.Wall.Nanosecond()))
}
