package segment

import (
	"bytes"
	"cmp"
	"fmt"
	"io"
	"slices"
)

const (
	window = 64 << 10 // bytes read ahead
	block  = 4 << 10  // bytes skipped at once where the disk refuses to read
)

// Record is one frame that was found whole.
type Record struct {
	Location
	Payload []byte // valid until the next call of Next
}

// Scanner walks through all frames of a segment, past damage.
type Scanner struct {
	name   string
	file   io.ReaderAt
	header Header
	size   int64  // of the file
	offset int64  // where the next frame should begin
	last   uint64 // highest sequence number of a frame header so far

	ahead       []byte // file contents at aheadOffset
	aheadOffset int64
}

// NewScanner returns a scanner for a segment of size bytes, whose file header was read before.
func NewScanner(name string, file io.ReaderAt, header Header, size int64) *Scanner {
	return &Scanner{name: name, file: file, header: header, size: size, offset: HeaderSize}
}

// Last returns the highest sequence number seen so far, damaged payloads included; 0 before the first.
func (s *Scanner) Last() uint64 { return s.last }

// Next returns the next record. The error is io.EOF at the end, or a *CorruptError for a stretch that is damaged; Next goes on behind it
// when called again.
func (s *Scanner) Next() (Record, error) {
	if s.offset >= s.size {
		return Record{}, io.EOF
	}
	start := s.offset
	f, reason, err := s.frameAt(start)
	if reason != "" {
		unread := s.resync(start + 1)
		return Record{}, s.corrupt(start, 0, reason, cmp.Or(err, unread))
	}
	s.last = f.sequence
	s.offset = start + FrameSize + int64(f.length)
	payload, err := s.view(start+FrameSize, f.length)
	if err != nil {
		return Record{}, s.corrupt(start, f.sequence, "unreadable payload", err)
	}
	if checksum(payload) != f.checksum {
		return Record{}, s.corrupt(start, f.sequence, reasonPayload, nil)
	}
	at := Location{Sequence: f.sequence, Offset: start, Length: FrameSize + f.length}
	return Record{Location: at, Payload: payload}, nil
}

// corrupt describes the stretch from start to s.offset.
func (s *Scanner) corrupt(start int64, sequence uint64, reason string, err error) *CorruptError {
	return &CorruptError{
		Segment: s.name, Offset: start, Length: s.offset - start, Sequence: sequence,
		Tail: s.offset >= s.size, Reason: reason, Err: err,
	}
}

// frameAt reads the frame header at an offset. When there is none that can follow what was read so far, reason says why.
func (s *Scanner) frameAt(offset int64) (f frame, reason string, err error) {
	if s.size-offset < FrameSize {
		return frame{}, "frame header cut short", nil
	}
	b, err := s.view(offset, FrameSize)
	if err != nil {
		return frame{}, "unreadable frame header", err
	}
	f, reason = s.header.parseFrame(b)
	switch {
	case reason != "":
	case f.sequence <= s.last || f.sequence < s.header.First:
		reason = fmt.Sprintf("sequence number %d does not ascend", f.sequence)
	case offset+FrameSize+int64(f.length) > s.size:
		reason = fmt.Sprintf("payload of %d bytes cut short", f.length)
	}
	return f, reason, nil
}

// resync moves to the first frame header at or after an offset, or to the end of the file. It returns why it could not read all of the
// bytes in between, when it could not.
func (s *Scanner) resync(offset int64) (unread error) {
	for s.size-offset >= FrameSize {
		b, err := s.view(offset, int(min(block, s.size-offset)))
		if err != nil {
			unread = cmp.Or(unread, err)
			offset = (offset/block + 1) * block
			continue
		}
		i := bytes.Index(b, []byte(frameMagic))
		if i < 0 {
			offset += int64(len(b)) - int64(len(frameMagic)) + 1
			continue
		}
		offset += int64(i)
		if _, reason, _ := s.frameAt(offset); reason == "" {
			s.offset = offset
			return unread
		}
		offset++
	}
	s.offset = s.size
	return unread
}

// view returns n bytes at an offset, reading ahead unless the disk refuses.
func (s *Scanner) view(offset int64, n int) ([]byte, error) {
	if from := offset - s.aheadOffset; from >= 0 && from+int64(n) <= int64(len(s.ahead)) {
		return s.ahead[from : from+int64(n)], nil
	}
	want := int(min(max(int64(n), window), s.size-offset))
	err := s.fill(offset, want)
	if err != nil && want > n {
		err = s.fill(offset, n)
	}
	if err != nil {
		return nil, err
	}
	return s.ahead[:n], nil
}

func (s *Scanner) fill(offset int64, n int) error {
	s.ahead, s.aheadOffset = slices.Grow(s.ahead[:0], n)[:n], offset
	if got, err := s.file.ReadAt(s.ahead, offset); got < n {
		s.ahead = s.ahead[:0]
		if err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
		return fmt.Errorf("read at offset %d: %w", offset, err)
	}
	return nil
}
