// Package segment is one file of the spool: a header, then frames, each holding one record with its sequence number and checksums.
//
// What enters: records as bytes (package record makes them) and a file. What leaves: the same bytes with their sequence numbers.
// What can go wrong: writes and syncs fail (Writer says what is left usable), bytes rot or were never written (CorruptError, the
// frames after them are still found), the file was written by a newer latpush (ErrVersion).
//
// Numbers are little-endian, checksums are CRC-32C (Castagnoli).
//
//	file header, 36 bytes
//	0                 8                 12                16                24                 32              36
//	+-----------------+-----------------+-----------------+-----------------+------------------+---------------+
//	| magic           | version u32 = 1 | crc of 0..12    | segment id u64  | first sequence   | crc of 0..32  |
//	| "latspool"      |                 |                 | random          | number u64       |               |
//	+-----------------+-----------------+-----------------+-----------------+------------------+---------------+
//
//	frame, 24 bytes and the payload
//	0                 4                 8                 16                20                 24
//	+-----------------+-----------------+-----------------+-----------------+------------------+------//
//	| magic           | payload length  | sequence number | crc of payload  | crc of segment id| payload
//	| f5 'l' 'p' b5   | u32, bytes      | u64             |                 | and 0..20        |
//	+-----------------+-----------------+-----------------+-----------------+------------------+------//
//
// The first 16 bytes of the file header stay as they are in every version to come, so that a newer file is told from a damaged one.
// A frame's header has a checksum of its own: a damaged payload does not lose the frames after it, and when the header itself is
// damaged the next one is searched for by its magic. The segment id in that checksum keeps frames of other segments, which a file
// system may leave behind in reused blocks, from being taken for frames of this one. Sequence numbers start at 1 and ascend
// within a segment, not necessarily by one. A frame whose number is not below the first number of the next segment is void: the
// writer left this segment without knowing what had reached the disk, and wrote the record again there.
package segment

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"io"
)

const (
	// Version is the format version that Writer writes and the newest that ParseHeader accepts.
	Version = 1

	// HeaderSize is the length of the file header in bytes.
	HeaderSize = 36

	// FrameSize is what a frame adds to its payload, in bytes.
	FrameSize = 24

	// MaxPayload is the largest payload of a frame in bytes.
	MaxPayload = 64 << 20

	preludeSize = 16
	fileMagic   = "latspool"
	frameMagic  = "\xf5lp\xb5"
)

// Header is what the file header says.
type Header struct {
	ID    uint64 // random, different for every segment
	First uint64 // sequence number of the first record that may be in the segment
}

// Append appends the bytes of the file header to dst.
func (h Header) Append(dst []byte) []byte {
	b := append(dst, fileMagic...)
	b = binary.LittleEndian.AppendUint32(b, Version)
	b = binary.LittleEndian.AppendUint32(b, checksum(b[len(dst):]))
	b = binary.LittleEndian.AppendUint64(b, h.ID)
	b = binary.LittleEndian.AppendUint64(b, h.First)
	return binary.LittleEndian.AppendUint32(b, checksum(b[len(dst):]))
}

// ReadHeader reads the file header of a segment; name is the segment's in errors. The error is a *CorruptError, wraps ErrVersion, or
// is the file's own.
func ReadHeader(name string, r io.ReaderAt) (Header, error) {
	var b [HeaderSize]byte
	n, err := r.ReadAt(b[:], 0)
	if err != nil && err != io.EOF {
		return Header{}, fmt.Errorf("read header of segment %s: %w", name, err)
	}
	return ParseHeader(name, b[:n])
}

// ParseHeader reads the file header at the start of b. The error is a *CorruptError or wraps ErrVersion.
func ParseHeader(name string, b []byte) (Header, error) {
	corrupt := func(reason string) error {
		return &CorruptError{Segment: name, Length: int64(min(len(b), HeaderSize)), Reason: reason}
	}
	if len(b) < preludeSize {
		return Header{}, corrupt("file header cut short")
	}
	if !bytes.HasPrefix(b, []byte(fileMagic)) {
		return Header{}, corrupt("file does not start with " + fileMagic)
	}
	if binary.LittleEndian.Uint32(b[12:]) != checksum(b[:12]) {
		return Header{}, corrupt("checksum of the format version does not match")
	}
	version := binary.LittleEndian.Uint32(b[8:])
	if version > Version {
		return Header{}, fmt.Errorf("read header of segment %s: %w: it has version %d, this latpush reads up to %d", name, ErrVersion, version, Version)
	}
	switch {
	case version != Version:
		return Header{}, corrupt(fmt.Sprintf("format version %d does not exist", version))
	case len(b) < HeaderSize:
		return Header{}, corrupt("file header cut short")
	case binary.LittleEndian.Uint32(b[32:]) != checksum(b[:32]):
		return Header{}, corrupt("checksum of the file header does not match")
	}
	return Header{ID: binary.LittleEndian.Uint64(b[16:]), First: binary.LittleEndian.Uint64(b[24:])}, nil
}

// Seal fills the frame header in the first FrameSize bytes of frame for the payload behind them.
func (h Header) Seal(frame []byte, sequence uint64) {
	payload := frame[FrameSize:]
	copy(frame, frameMagic)
	binary.LittleEndian.PutUint32(frame[4:], uint32(len(payload)))
	binary.LittleEndian.PutUint64(frame[8:], sequence)
	binary.LittleEndian.PutUint32(frame[16:], checksum(payload))
	binary.LittleEndian.PutUint32(frame[20:], h.frameChecksum(frame))
}

// frame is a parsed frame header.
type frame struct {
	length   int // of the payload, bytes
	sequence uint64
	checksum uint32 // of the payload
}

// parseFrame reads a frame header. When it is not one, reason says why.
func (h Header) parseFrame(b []byte) (f frame, reason string) {
	switch {
	case len(b) < FrameSize:
		return frame{}, "frame header cut short"
	case string(b[:4]) != frameMagic:
		return frame{}, "no frame header"
	case binary.LittleEndian.Uint32(b[20:]) != h.frameChecksum(b):
		return frame{}, "checksum of the frame header does not match"
	}
	length := binary.LittleEndian.Uint32(b[4:])
	if length > MaxPayload {
		return frame{}, fmt.Sprintf("payload of %d bytes", length)
	}
	return frame{length: int(length), sequence: binary.LittleEndian.Uint64(b[8:]), checksum: binary.LittleEndian.Uint32(b[16:])}, ""
}

// ReadPayload reads and checks the frame that a Record or Writer.Append located, into buf, which is at.Length bytes long, and returns the
// part of buf that is the payload. Damage is a *CorruptError, other errors are the file's own.
func (h Header) ReadPayload(name string, r io.ReaderAt, at Location, buf []byte) ([]byte, error) {
	if n, err := r.ReadAt(buf, at.Offset); n < len(buf) {
		if err == io.EOF {
			return nil, &CorruptError{Segment: name, Offset: at.Offset, Length: int64(n), Sequence: at.Sequence, Reason: "frame cut short"}
		}
		return nil, fmt.Errorf("read segment %s at offset %d: %w", name, at.Offset, err)
	}
	corrupt := &CorruptError{Segment: name, Offset: at.Offset, Length: int64(at.Length), Sequence: at.Sequence}
	f, reason := h.parseFrame(buf)
	switch {
	case reason != "":
		corrupt.Reason = reason
	case f.length+FrameSize != at.Length || f.sequence != at.Sequence:
		corrupt.Reason = fmt.Sprintf("another frame: sequence number %d, payload of %d bytes", f.sequence, f.length)
	case checksum(buf[FrameSize:]) != f.checksum:
		corrupt.Reason = reasonPayload
	default:
		return buf[FrameSize:], nil
	}
	return nil, corrupt
}

// Location is where a frame is in its segment.
type Location struct {
	Sequence uint64
	Offset   int64 // of the frame in the file, bytes
	Length   int   // of the frame, header included, bytes
}

const reasonPayload = "checksum of the payload does not match"

func (h Header) frameChecksum(b []byte) uint32 {
	var id [8]byte
	binary.LittleEndian.PutUint64(id[:], h.ID)
	table := crc32.MakeTable(crc32.Castagnoli)
	return crc32.Update(crc32.Checksum(id[:], table), table, b[:20])
}

// checksum is cheap to set up: MakeTable returns the one table of the standard library.
func checksum(b []byte) uint32 { return crc32.Checksum(b, crc32.MakeTable(crc32.Castagnoli)) }
