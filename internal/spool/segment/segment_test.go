package segment

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// memory is a File in memory, with faults to order.
type memory struct {
	bytes    []byte
	writeErr error // of the next write, which keeps half of its bytes
	syncErr  error // of all syncs
	cutErr   error // of all truncates
	badBlock int64 // reads that touch this block fail; negative for none
	syncs    int
}

func newMemory(b []byte) *memory { return &memory{bytes: b, badBlock: -1} }

func (m *memory) ReadAt(b []byte, offset int64) (int, error) {
	if m.badBlock >= 0 && offset < (m.badBlock+1)*block && offset+int64(len(b)) > m.badBlock*block {
		return 0, syscall.EIO
	}
	return bytes.NewReader(m.bytes).ReadAt(b, offset)
}

func (m *memory) WriteAt(b []byte, offset int64) (int, error) {
	err := m.writeErr
	if m.writeErr = nil; err != nil {
		b = b[:len(b)/2]
	}
	if grow := int(offset) + len(b) - len(m.bytes); grow > 0 {
		m.bytes = append(m.bytes, make([]byte, grow)...)
	}
	return copy(m.bytes[offset:], b), err
}

func (m *memory) Truncate(size int64) error {
	if m.cutErr == nil {
		m.bytes = m.bytes[:size]
	}
	return m.cutErr
}

func (m *memory) Sync() error { m.syncs++; return m.syncErr }

func (m *memory) Close() error { return nil }

func frameOf(payload string) []byte { return append(make([]byte, FrameSize), payload...) }

// testHeader is the header of all segments in these tests.
func testHeader() Header { return Header{ID: 0x1122334455667788, First: 7} }

// written returns a segment with some payloads, and where each frame begins.
func written(t testing.TB, payloads ...string) (b []byte, offsets []int64) {
	t.Helper()
	file := newMemory(nil)
	w, err := Create("test.seg", file, testHeader(), true)
	if err != nil {
		t.Fatal(err)
	}
	for i, payload := range payloads {
		at, err := w.Append(frameOf(payload), testHeader().First+uint64(i))
		if err != nil {
			t.Fatal(err)
		}
		offsets = append(offsets, at.Offset)
	}
	if int64(len(file.bytes)) != w.Size() {
		t.Fatalf("file of %d bytes, writer says %d", len(file.bytes), w.Size())
	}
	return file.bytes, offsets
}

// scan returns what a scanner finds, one word per result: a payload, or !reason.
func scan(t testing.TB, file io.ReaderAt, size int64) []string {
	t.Helper()
	var found []string
	s := NewScanner("test.seg", file, testHeader(), size)
	end := int64(HeaderSize)
	for {
		record, err := s.Next()
		if errors.Is(err, io.EOF) {
			return found
		}
		var damage *CorruptError
		if errors.As(err, &damage) {
			if damage.Offset != end || damage.Length <= 0 || !errors.Is(err, ErrCorrupt) || damage.Tail != (damage.Offset+damage.Length == size) {
				t.Errorf("damage %+v does not continue at %d of %d", damage, end, size)
			}
			end += damage.Length
			found = append(found, "!"+damage.Reason)
			continue
		}
		if err != nil || record.Offset != end {
			t.Fatalf("record %+v, %v, want offset %d", record, err, end)
		}
		end += int64(record.Length)
		found = append(found, string(record.Payload))
		payload, err := testHeader().ReadPayload("test.seg", file, record.Location, make([]byte, record.Length))
		if err != nil || !bytes.Equal(payload, record.Payload) {
			t.Errorf("ReadPayload gives %q, %v, the scanner %q", payload, err, record.Payload)
		}
	}
}

var update = flag.Bool("update", false, "write the golden files")

// The bytes of version 1 are a promise to every spool in the field: a change here needs a new version.
func TestGoldenBytes(t *testing.T) {
	t.Parallel()
	got, _ := written(t, "one", "", "three")
	path := filepath.Join("testdata", "v1.hex")
	if *update {
		if err := os.WriteFile(path, []byte(hex.Dump(got)), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if hex.Dump(got) != string(want) {
		t.Errorf("got\n%swant\n%s", hex.Dump(got), want)
	}
	header, err := ReadHeader("test.seg", bytes.NewReader(got))
	if err != nil || header != testHeader() {
		t.Errorf("header reads back as %+v, %v", header, err)
	}
}

func TestBadHeaders(t *testing.T) {
	t.Parallel()
	edit := func(offset int, with ...byte) []byte {
		b := testHeader().Append(nil)
		copy(b[offset:], with)
		return b
	}
	// newer has a prelude that a newer version would write, with whatever behind it.
	newer := append([]byte(fileMagic), Version+1, 0, 0, 0)
	sum := checksum(newer)
	newer = append(newer, byte(sum), byte(sum>>8), byte(sum>>16), byte(sum>>24))
	older := append([]byte(fileMagic), 0, 0, 0, 0)
	sum = checksum(older)
	older = append(older, byte(sum), byte(sum>>8), byte(sum>>16), byte(sum>>24))
	tests := map[string]struct {
		bytes []byte
		want  error
		text  string
	}{
		"empty":             {nil, ErrCorrupt, "segment test.seg, offset 0, 0 bytes: file header cut short"},
		"prelude cut":       {edit(0)[:preludeSize-1], ErrCorrupt, "cut short"},
		"cut":               {edit(0)[:HeaderSize-1], ErrCorrupt, "cut short"},
		"magic":             {edit(0, 'L'), ErrCorrupt, "does not start with latspool"},
		"version rotten":    {edit(8, 2), ErrCorrupt, "checksum of the format version"},
		"version sum":       {edit(12, 0), ErrCorrupt, "checksum of the format version"},
		"segment id rotten": {edit(16, 0), ErrCorrupt, "checksum of the file header"},
		"first rotten":      {edit(24, 8), ErrCorrupt, "checksum of the file header"},
		"version 0":         {older, ErrCorrupt, "version 0 does not exist"},
		"newer":             {newer, ErrVersion, "test.seg: unsupported segment version: it has version 2, this latpush reads up to 1"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := ReadHeader("test.seg", bytes.NewReader(test.bytes))
			if !errors.Is(err, test.want) || !strings.Contains(err.Error(), test.text) {
				t.Errorf("got %v, want %v with %q", err, test.want, test.text)
			}
		})
	}
}

func TestHeaderReadError(t *testing.T) {
	t.Parallel()
	file := newMemory(testHeader().Append(nil))
	file.badBlock = 0
	if _, err := ReadHeader("test.seg", file); !errors.Is(err, syscall.EIO) || errors.Is(err, ErrCorrupt) {
		t.Errorf("got %v, want the I/O error alone", err)
	}
}

func TestScanDamage(t *testing.T) {
	t.Parallel()
	const header = "!checksum of the frame header does not match"
	big := strings.Repeat("x", 3*window/2)
	other := Header{ID: 1, First: 7}
	// huge is a frame header that is right in itself and announces more than a frame may hold.
	huge := frameOf("")
	testHeader().Seal(huge, 99)
	binary.LittleEndian.PutUint32(huge[4:], MaxPayload+1)
	binary.LittleEndian.PutUint32(huge[20:], testHeader().frameChecksum(huge))
	foreign := frameOf("foreign")
	other.Seal(foreign, 99)
	tests := map[string]struct {
		mutate func(b []byte, at []int64) []byte
		want   []string
	}{
		"none":                {func(b []byte, _ []int64) []byte { return b }, []string{"a", big, "c", "d"}},
		"payload":             {flip(1, FrameSize+window), []string{"a", "!" + reasonPayload, "c", "d"}},
		"last payload":        {flip(3, FrameSize), []string{"a", big, "c", "!" + reasonPayload}},
		"magic":               {flip(1, 0), []string{"a", "!no frame header", "c", "d"}},
		"length":              {flip(2, 6), []string{"a", big, header, "d"}},
		"sequence number":     {flip(0, 8), []string{header, big, "c", "d"}},
		"payload sum":         {flip(2, 16), []string{"a", big, header, "d"}},
		"header sum":          {flip(2, 20), []string{"a", big, header, "d"}},
		"two headers running": {both(flip(1, 1), flip(2, 1)), []string{"a", "!no frame header", "d"}},
		"cut in the header":   {cut(3, FrameSize-1), []string{"a", big, "c", "!frame header cut short"}},
		"cut in the payload":  {cut(1, FrameSize+5), []string{"a", fmt.Sprintf("!payload of %d bytes cut short", len(big))}},
		"cut between frames":  {cut(2, 0), []string{"a", big}},
		"header alone":        {cut(0, 0), nil},
		"zeros behind": {
			func(b []byte, _ []int64) []byte { return append(b, make([]byte, 3*block)...) },
			[]string{"a", big, "c", "d", "!no frame header"},
		},
		"frame of another segment behind": {
			func(b []byte, _ []int64) []byte { return append(b, foreign...) },
			[]string{"a", big, "c", "d", header},
		},
		"more than a frame holds": {
			func(b []byte, _ []int64) []byte { return append(b, huge...) },
			[]string{"a", big, "c", "d", "!payload of 67108865 bytes"},
		},
		"own frame twice": {
			func(b []byte, at []int64) []byte { return append(b, b[at[2]:at[3]]...) },
			[]string{"a", big, "c", "d", "!sequence number 9 does not ascend"},
		},
		"hole of zeros": {
			func(b []byte, at []int64) []byte { clear(b[at[0]+3 : at[2]+2]); return b },
			[]string{"!no frame header", "d"},
		},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b, at := written(t, "a", big, "c", "d")
			b = test.mutate(b, at)
			if got := scan(t, newMemory(b), int64(len(b))); strings.Join(got, "\n") != strings.Join(test.want, "\n") {
				t.Errorf("got %.60q, want %.60q", got, test.want)
			}
		})
	}
}

type mutation = func(b []byte, at []int64) []byte

func flip(frame int, offset int64) mutation {
	return func(b []byte, at []int64) []byte { b[at[frame]+offset] ^= 0x10; return b }
}

func cut(frame int, offset int64) mutation {
	return func(b []byte, at []int64) []byte { return b[:at[frame]+offset] }
}

func both(first, second mutation) mutation {
	return func(b []byte, at []int64) []byte { return second(first(b, at), at) }
}

// A block that the disk refuses to read costs the frames in it, not those around it.
func TestScanBadBlock(t *testing.T) {
	t.Parallel()
	payload := strings.Repeat("p", block/2)
	b, _ := written(t, payload, payload, payload, payload, payload, payload, payload, payload)
	file := newMemory(b)
	file.badBlock = 2
	s := NewScanner("test.seg", file, testHeader(), int64(len(b)))
	good, bad := 0, 0
	for {
		record, err := s.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err == nil {
			good++
			if overlaps := record.Offset < 3*block && record.Offset+int64(record.Length) > 2*block; overlaps {
				t.Errorf("frame at %d was read through the bad block", record.Offset)
			}
			continue
		}
		bad++
		if !errors.Is(err, ErrCorrupt) || !errors.Is(err, syscall.EIO) {
			t.Errorf("got %v, want damage because of EIO", err)
		}
	}
	// Block 2 touches the frames from 6216 to 8288, 8288 to 10360 (beginning within 8192 to 12288) and 10360 to 12432.
	if good != 5 || bad == 0 {
		t.Errorf("%d frames read past %d damaged stretches, want 5", good, bad)
	}
}

// A tail that could not be read is not a torn write: it must not look like one that may be cut off.
func TestScanBadBlockBehindDamage(t *testing.T) {
	t.Parallel()
	b, at := written(t, "a", "b", strings.Repeat("c", 2*block))
	b[at[1]] = 0
	b[at[2]] = 0
	file := newMemory(b)
	file.badBlock = 1
	s := NewScanner("test.seg", file, testHeader(), int64(len(b)))
	if _, err := s.Next(); err != nil {
		t.Fatal(err)
	}
	_, err := s.Next()
	var damage *CorruptError
	if !errors.As(err, &damage) || !damage.Tail || !errors.Is(damage.Err, syscall.EIO) {
		t.Errorf("got %+v, want a tail with EIO", err)
	}
}

func TestReadPayloadDamage(t *testing.T) {
	t.Parallel()
	b, at := written(t, "first", "second")
	location := Location{Sequence: 8, Offset: at[1], Length: FrameSize + len("second")}
	tests := map[string]struct {
		mutate func()
		at     Location
		want   string
	}{
		"file cut":      {func() { b = b[:len(b)-1] }, location, "frame cut short"},
		"other frame":   {func() {}, Location{Sequence: 9, Offset: location.Offset, Length: location.Length}, "another frame: sequence number 8"},
		"between":       {func() {}, Location{Sequence: 8, Offset: at[1] - 1, Length: location.Length}, "no frame header"},
		"too short":     {func() {}, Location{Sequence: 8, Offset: at[1], Length: 10}, "frame header cut short"},
		"payload wrong": {func() { b[at[1]+FrameSize]++ }, location, reasonPayload},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			saved := bytes.Clone(b)
			test.mutate()
			_, err := testHeader().ReadPayload("test.seg", newMemory(b), test.at, make([]byte, test.at.Length))
			if !errors.Is(err, ErrCorrupt) || !strings.Contains(err.Error(), test.want) {
				t.Errorf("got %v, want %q", err, test.want)
			}
			b = saved
		})
	}
}

// FuzzScan puts any bytes behind a valid header: the scanner must cover each of them once, in order, and return only frames that
// ReadPayload finds as well; scan checks that.
func FuzzScan(f *testing.F) {
	b, at := written(f, "a", strings.Repeat("b", 300), "c")
	f.Add(b[HeaderSize:])
	f.Add(b[HeaderSize : at[2]+3])
	f.Add(append(make([]byte, 100), b[at[1]:]...))
	f.Fuzz(func(t *testing.T, tail []byte) {
		all := append(testHeader().Append(nil), tail...)
		scan(t, newMemory(all), int64(len(all)))
	})
}

func FuzzParseHeader(f *testing.F) {
	f.Add(testHeader().Append(nil))
	f.Add(testHeader().Append(nil)[:20])
	f.Fuzz(func(t *testing.T, b []byte) {
		header, err := ParseHeader("test.seg", b)
		switch {
		case err == nil && !bytes.HasPrefix(b, header.Append(nil)):
			t.Errorf("%x is not what %+v is written as", b, header)
		case err != nil && !errors.Is(err, ErrCorrupt) && !errors.Is(err, ErrVersion):
			t.Errorf("error of neither kind: %v", err)
		}
	})
}
