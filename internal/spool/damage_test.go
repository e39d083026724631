package spool

import (
	"bytes"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/latpush/latpush/internal/spool/segment"
)

// layout is where everything is in a spool of three segments, the last of which is active.
type layout struct {
	disk     *memoryDisk
	segments []*logSegment
}

// held is how many snapshots the tests of damage begin with.
const held = 40

// damageable returns a closed spool with snapshots 1 to held.
func damageable(t *testing.T) layout {
	t.Helper()
	l := layout{disk: newMemoryDisk()}
	s := openOn(t, l.disk, smallOptions())
	appendAll(t, s, 1, held)
	l.segments = s.segments
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if len(l.segments) != 3 || len(l.segments[0].entries) < 5 || len(l.segments[2].entries) < 5 {
		t.Fatalf("%d segments, the tests are made for three of at least five snapshots each", len(l.segments))
	}
	return l
}

// numbers returns the snapshots in a segment.
func (l layout) numbers(g int) []int {
	var all []int
	for _, e := range l.segments[g].entries {
		all = append(all, int(e.position))
	}
	return all
}

func (l layout) file(t *testing.T, g int) *inode { return l.disk.contents(t, l.segments[g].name) }

// flip flips a bit at an offset from the beginning of a frame.
func (l layout) flip(t *testing.T, g, frame, offset int) {
	l.file(t, g).seen[int(l.segments[g].entries[frame].offset)+offset] ^= 4
}

const payloadAt = segment.FrameSize + 10

func TestDamage(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		mutate   func(t *testing.T, l layout)
		lost     func(l layout) []int // of 1 to held
		records  int                  // counted as damaged
		segments int                  // set aside
	}{
		"none":         {mutate: func(*testing.T, layout) {}},
		"payload":      {mutate: func(t *testing.T, l layout) { l.flip(t, 0, 2, payloadAt) }, lost: one(0, 2), records: 1},
		"frame magic":  {mutate: func(t *testing.T, l layout) { l.flip(t, 1, 0, 0) }, lost: one(1, 0), records: 1},
		"frame length": {mutate: func(t *testing.T, l layout) { l.flip(t, 1, 1, 4) }, lost: one(1, 1), records: 1},
		"frame header": {mutate: func(t *testing.T, l layout) { l.flip(t, 2, 1, 21) }, lost: one(2, 1), records: 1},
		"last payload of a full segment": {
			mutate: func(t *testing.T, l layout) { l.flip(t, 0, len(l.segments[0].entries)-1, payloadAt) },
			lost:   func(l layout) []int { n := l.numbers(0); return n[len(n)-1:] }, records: 1,
		},
		"two apart": {
			mutate: func(t *testing.T, l layout) { l.flip(t, 0, 1, payloadAt); l.flip(t, 0, 3, 2) },
			lost:   func(l layout) []int { n := l.numbers(0); return []int{n[1], n[3]} }, records: 2,
		},
		"zeros over three frames": {
			mutate: func(t *testing.T, l layout) {
				e := l.segments[1].entries
				clear(l.file(t, 1).seen[e[1].offset+9 : e[3].offset+30])
			},
			lost: func(l layout) []int { return l.numbers(1)[1:4] }, records: 1,
		},
		"full segment cut in a payload": {
			mutate: func(t *testing.T, l layout) { f := l.file(t, 0); f.seen = f.seen[:l.segments[0].entries[2].offset+50] },
			lost:   func(l layout) []int { return l.numbers(0)[2:] }, records: 1,
		},
		"torn tail of the last segment": {
			mutate: func(t *testing.T, l layout) { f := l.file(t, 2); f.seen = f.seen[:len(f.seen)-1] },
			lost:   func(l layout) []int { n := l.numbers(2); return n[len(n)-1:] },
		},
		"last payload of all": {
			mutate: func(t *testing.T, l layout) { l.flip(t, 2, len(l.segments[2].entries)-1, payloadAt) },
			lost:   func(l layout) []int { n := l.numbers(2); return n[len(n)-1:] },
		},
		"garbage behind": {mutate: func(t *testing.T, l layout) {
			f := l.file(t, 2)
			f.seen = append(f.seen, bytes.Repeat([]byte("garbage "), 200)...)
		}},
		"zeros behind": {mutate: func(t *testing.T, l layout) { f := l.file(t, 2); f.seen = append(f.seen, make([]byte, 9000)...) }},
		"frames of another segment behind": {mutate: func(t *testing.T, l layout) {
			f := l.file(t, 2)
			f.seen = append(f.seen, l.file(t, 1).seen[segment.HeaderSize:]...)
		}},
		"own frames again behind": {mutate: func(t *testing.T, l layout) {
			f := l.file(t, 2)
			f.seen = append(f.seen, f.seen[segment.HeaderSize:]...)
		}},
		"file header": {
			mutate: func(t *testing.T, l layout) { l.file(t, 1).seen[17]++ },
			lost:   func(l layout) []int { return l.numbers(1) }, segments: 1,
		},
		"file header of the last segment": {
			mutate: func(t *testing.T, l layout) { l.file(t, 2).seen[0]++ },
			lost:   func(l layout) []int { return l.numbers(2) }, segments: 1,
		},
		"every file header": {
			mutate: func(t *testing.T, l layout) {
				for g := range l.segments {
					l.file(t, g).seen[33]++
				}
			},
			lost: func(layout) []int { return upTo(1, held) }, segments: 3,
		},
		"file shorter than its header": {
			mutate: func(t *testing.T, l layout) { f := l.file(t, 0); f.seen = f.seen[:20] },
			lost:   func(l layout) []int { return l.numbers(0) }, segments: 1,
		},
		"file under another name": {
			mutate: func(t *testing.T, l layout) {
				if err := l.disk.Rename(l.segments[1].name, segmentName(2)); err != nil {
					t.Fatal(err)
				}
			},
			lost: func(l layout) []int { return l.numbers(1) }, segments: 1,
		},
		"every record of a full segment": {
			mutate: func(t *testing.T, l layout) { clear(l.file(t, 1).seen[segment.HeaderSize:]) },
			lost:   func(l layout) []int { return l.numbers(1) }, records: 1, segments: 1,
		},
		"file gone": {
			mutate: func(t *testing.T, l layout) {
				if err := l.disk.Remove(l.segments[0].name); err != nil {
					t.Fatal(err)
				}
			},
			lost: func(l layout) []int { return l.numbers(0) },
		},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l := damageable(t)
			test.mutate(t, l)
			want := upTo(1, held)
			if test.lost != nil {
				lost := test.lost(l)
				want = slices.DeleteFunc(want, func(i int) bool { return slices.Contains(lost, i) })
			}
			var log bytes.Buffer
			s, err := open(smallOptions(), l.disk, logTo(&log), nil)
			if err != nil {
				t.Fatal(err)
			}
			if n := int(testutil.ToFloat64(s.metrics.corrupt.WithLabelValues(kindRecord))); n != test.records {
				t.Errorf("%d damaged records counted, want %d", n, test.records)
			}
			if n := countFiles(l.disk, corruptSuffix); n != test.segments || n != int(testutil.ToFloat64(s.metrics.corrupt.WithLabelValues(kindSegment))) {
				t.Errorf("%d segments set aside, want %d", n, test.segments)
			}
			wantLogged(t, log.String(), test.records+test.segments)
			numbers, _ := drain(t, readerOf(t, s, "r"))
			wantNumbers(t, "after the damage", numbers, want)

			appendAll(t, s, held+1, held+20)
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
			numbers, _ = drain(t, readerOf(t, openOn(t, l.disk, smallOptions()), "r"))
			wantNumbers(t, "after appending and another open", numbers, append(want, upTo(held+1, held+20)...))
		})
	}
}

// wantLogged checks that there is one error in the log for each damage, with its place.
func wantLogged(t *testing.T, log string, damages int) {
	t.Helper()
	errors := 0
	for line := range strings.Lines(log) {
		if !strings.HasPrefix(line, "level=ERROR") {
			continue
		}
		errors++
		if !strings.Contains(line, "segment=spool/0") || !strings.Contains(line, " offset=") {
			t.Errorf("no segment and offset in %s", line)
		}
	}
	if errors != damages {
		t.Errorf("%d errors logged, want %d:\n%s", errors, damages, log)
	}
}

func one(g, frame int) func(l layout) []int {
	return func(l layout) []int { return l.numbers(g)[frame : frame+1] }
}

// Wherever the last segment ends, all whole records in it are there, and the spool goes on.
func TestTornTailAtEveryByte(t *testing.T) {
	t.Parallel()
	l := damageable(t)
	last := l.segments[2]
	whole := l.file(t, 2).seen
	for size := int(last.entries[len(last.entries)-2].offset); size < len(whole); size++ {
		l.file(t, 2).seen = slices.Clone(whole[:size])
		want := upTo(1, int(last.header.First)-1)
		for _, e := range last.entries {
			if int(e.offset+e.length) <= size {
				want = append(want, int(e.position))
			}
		}
		s := openOn(t, l.disk, smallOptions())
		appendAll(t, s, 99, 99)
		r := readerOf(t, s, "r")
		numbers, _ := drain(t, r)
		wantNumbers(t, "cut", numbers, append(want, 99))
		if err := errors.Join(s.Close(), l.disk.Remove("r"+cursorSuffix)); err != nil {
			t.Fatal(err)
		}
	}
}

func TestNewerVersionIsRefused(t *testing.T) {
	t.Parallel()
	// A header with the prelude of version 2 and the right checksum over it.
	prelude := []byte("latspool\x02\x00\x00\x00\x4a\x2f\xbf\xef")
	l := damageable(t)
	copy(l.file(t, 1).seen, prelude)
	_, err := open(smallOptions(), l.disk, nil, nil)
	if !errors.Is(err, ErrVersion) {
		t.Fatalf("got %v, want ErrVersion", err)
	}
	for _, part := range []string{"open spool spool: ", l.segments[1].name, "it has version 2, this latpush reads up to 1", "(install the newer"} {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("%q is not in %q", part, err)
		}
	}
	if l.disk.locked || countFiles(l.disk, segmentSuffix) != 3 {
		t.Error("the directory was changed or is still locked")
	}
}

// rewrite replaces the payload of a frame by one of the same length, with the right checksums.
func (l layout) rewrite(t *testing.T, g, frame int, change func(payload []byte)) {
	e := l.segments[g].entries[frame]
	b := l.file(t, g).seen[e.offset : e.offset+e.length]
	change(b[segment.FrameSize:])
	l.segments[g].header.Seal(b, uint64(e.position))
}

func TestNewerRecordIsRefused(t *testing.T) {
	t.Parallel()
	l := damageable(t)
	l.rewrite(t, 0, 1, func(payload []byte) { payload[0] = 9 })
	_, err := open(smallOptions(), l.disk, nil, nil)
	if !errors.Is(err, ErrVersion) || !strings.Contains(err.Error(), "record has version 9") || !strings.Contains(err.Error(), l.segments[0].name) {
		t.Errorf("got %v, want ErrVersion", err)
	}
}

func TestSetAsideNeverOverwrites(t *testing.T) {
	t.Parallel()
	d := newMemoryDisk()
	for _, text := range []string{"first", "second", "third"} {
		f, err := d.Create(segmentName(7))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.WriteAt([]byte(text), 0); err != nil {
			t.Fatal(err)
		}
		s := openOn(t, d, smallOptions())
		appendAll(t, s, 1, 1)
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
	for name, want := range map[string]string{
		segmentName(7) + ".corrupt": "first", segmentName(7) + ".2.corrupt": "second", segmentName(7) + ".3.corrupt": "third",
	} {
		if got := string(d.contents(t, name).seen); got != want {
			t.Errorf("%s holds %q, want %q", name, got, want)
		}
	}
}

func TestUnfinishedFilesAreRemoved(t *testing.T) {
	t.Parallel()
	d := newMemoryDisk()
	for _, name := range []string{segmentName(3) + ".tmp", "r.cursor.tmp", "README", "lock", "other.tmp"} {
		if _, err := d.Create(name); err != nil {
			t.Fatal(err)
		}
	}
	openOn(t, d, smallOptions())
	if names, _ := d.List(""); !slices.Equal(names, []string{"README", "lock", "other.tmp"}) {
		t.Errorf("directory holds %q", names)
	}
}

// Damage in a segment must not make the spool forget which numbers it has used.
func TestNumbersAreNotUsedTwice(t *testing.T) {
	t.Parallel()
	l := damageable(t)
	s := openOn(t, l.disk, smallOptions())
	r := readerOf(t, s, "r")
	_, delivered := drain(t, r)
	if err := r.Commit(delivered, nil); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	// As after a power cut with fsync: never, which took the snapshots and left the cursor.
	for _, g := range l.segments {
		_ = l.disk.Remove(g.name)
	}
	s = openOn(t, l.disk, smallOptions())
	appendAll(t, s, held+1, held+2)
	numbers, first := drain(t, readerOf(t, s, "r"))
	wantNumbers(t, "behind the cursor", numbers, upTo(held+1, held+2))
	if first <= delivered {
		t.Errorf("position %d was given out again, the cursor is at %d", first, delivered)
	}
}
