package spool

import (
	"bytes"
	"errors"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/prometheus/client_golang/prometheus/testutil"
)

// A record whose checksum is right and which cannot be decoded is found when it is read, and counted once however many read it.
func TestUndecodableRecord(t *testing.T) {
	t.Parallel()
	l := damageable(t)
	l.rewrite(t, 0, 1, func(payload []byte) { payload[len(payload)-1] ^= 0xff; payload[50] ^= 0xff })
	l.rewrite(t, 0, 3, func(payload []byte) { payload[1] = 0x80 })
	s := openOn(t, l.disk, smallOptions())
	want := slices.DeleteFunc(upTo(1, held), func(i int) bool { return i == 2 || i == 4 })
	for _, name := range []string{"a", "b"} {
		numbers, _ := drain(t, readerOf(t, s, name))
		wantNumbers(t, name, numbers, want)
	}
	if n := testutil.ToFloat64(s.metrics.corrupt.WithLabelValues(kindRecord)); n != 2 {
		t.Errorf("%v damaged records counted, want 2", n)
	}
}

// Bytes that rot while the spool is open cost their record alone.
func TestDamageWhileOpen(t *testing.T) {
	t.Parallel()
	l := damageable(t)
	var log bytes.Buffer
	s, err := open(smallOptions(), l.disk, logTo(&log), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	l.flip(t, 1, 1, payloadAt)
	lost := l.numbers(1)[1]
	for _, name := range []string{"a", "b"} {
		numbers, _ := drain(t, readerOf(t, s, name))
		wantNumbers(t, name, numbers, slices.DeleteFunc(upTo(1, held), func(i int) bool { return i == lost }))
	}
	place := "segment=spool/" + l.segments[1].name + " offset="
	if n := strings.Count(log.String(), "damaged record skipped"); n != 1 || !strings.Contains(log.String(), place) {
		t.Errorf("log names the damage %d times, want once with its place:\n%s", n, &log)
	}
}

// Somebody removes files of an open spool: what was in them is counted, what is left is delivered, and appending goes on.
func TestFilesRemovedWhileOpen(t *testing.T) {
	t.Parallel()
	l := damageable(t)
	s := openOn(t, l.disk, smallOptions())
	for _, g := range []int{0, 2} {
		if err := l.disk.Remove(l.segments[g].name); err != nil {
			t.Fatal(err)
		}
	}
	r := readerOf(t, s, "r")
	numbers, _ := drain(t, r)
	wantNumbers(t, "what is left", numbers, l.numbers(1))
	if n := testutil.ToFloat64(s.metrics.dropped.WithLabelValues(reasonMissing, "false")); int(n) != held-len(l.numbers(1)) {
		t.Errorf("%v snapshots counted as missing, want %d", n, held-len(l.numbers(1)))
	}
	appendAll(t, s, held+1, held+3)
	numbers, _ = drain(t, r)
	wantNumbers(t, "afterwards", numbers, upTo(held+1, held+3))
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	numbers, _ = drain(t, readerOf(t, openOn(t, l.disk, smallOptions()), "r"))
	wantNumbers(t, "after another open", numbers, append(l.numbers(1), upTo(held+1, held+3)...))
}

// failReads makes reads at the frame of one snapshot fail.
func (l layout) failReads(g, frame int, err error) {
	name, e := l.segments[g].name, l.segments[g].entries[frame]
	l.disk.mu.Lock()
	defer l.disk.mu.Unlock()
	l.disk.readErr = func(path string, from, to int64) error {
		if path == name && from < int64(e.offset+e.length) && to > int64(e.offset) {
			return err
		}
		return nil
	}
}

// A bad block is an error twice, then it is given up.
func TestBadBlockWhileReading(t *testing.T) {
	t.Parallel()
	l := damageable(t)
	s := openOn(t, l.disk, smallOptions())
	l.failReads(0, 0, syscall.EIO)
	r := readerOf(t, s, "r")
	for range readAttempts - 1 {
		if _, _, ok, err := r.TryNext(); ok || !errors.Is(err, syscall.EIO) {
			t.Fatalf("got %v, %v, want EIO", ok, err)
		}
	}
	numbers, _ := drain(t, r)
	wantNumbers(t, "past the bad block", numbers, upTo(2, held))
	if n := testutil.ToFloat64(s.metrics.corrupt.WithLabelValues(kindRecord)); n != 1 {
		t.Errorf("%v damaged records counted, want 1", n)
	}
}

// Errors that say nothing of the medium never cost a snapshot.
func TestOtherErrorsWhileReading(t *testing.T) {
	t.Parallel()
	l := damageable(t)
	s := openOn(t, l.disk, smallOptions())
	l.failReads(0, 0, syscall.ENOMEM)
	r := readerOf(t, s, "r")
	for range 3 * readAttempts {
		if _, _, ok, err := r.TryNext(); ok || !errors.Is(err, syscall.ENOMEM) {
			t.Fatalf("got %v, %v, want ENOMEM", ok, err)
		}
	}
	l.disk.readErr = nil
	numbers, _ := drain(t, r)
	wantNumbers(t, "afterwards", numbers, upTo(1, held))
}

// A bad block in the last segment, found at open, is not taken for a torn tail: it stays in the file, which is not written again.
func TestBadBlockAtOpen(t *testing.T) {
	t.Parallel()
	l := damageable(t)
	last := len(l.segments[2].entries) - 1
	size := len(l.file(t, 2).seen)
	l.failReads(2, last, syscall.EIO)
	s := openOn(t, l.disk, smallOptions())
	appendAll(t, s, held+1, held+1)
	numbers, _ := drain(t, readerOf(t, s, "r"))
	wantNumbers(t, "around the bad block", numbers, append(upTo(1, held-1), held+1))
	if got := len(l.file(t, 2).seen); got != size {
		t.Errorf("segment has %d bytes, want all %d kept", got, size)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	l.disk.readErr = nil
	// The medium has recovered: the record in it is void or delivered, and the one written since is not lost to it.
	numbers, _ = drain(t, readerOf(t, openOn(t, l.disk, smallOptions()), "r"))
	wantNumbers(t, "after it became readable", numbers, upTo(1, held+1))
}

// An error at open that says nothing of the medium fails the open and changes no file; a bad block costs the file it is in.
func TestReadErrorsAtOpen(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		file func(l layout) string
		from int64 // the first byte that cannot be read
		bad  int   // files set aside because of a bad block
	}{
		"header of a segment": {func(l layout) string { return l.segments[1].name }, 0, 1},
		"record":              {func(l layout) string { return l.segments[1].name }, 100, 1}, // none of its records is readable
		"cursor":              {func(layout) string { return "r" + cursorSuffix }, 0, 1},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l := damageable(t)
			s := openOn(t, l.disk, smallOptions())
			readerOf(t, s, "r")
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
			before, _ := l.disk.List("")
			var reason error
			l.disk.readErr = func(path string, _, to int64) error {
				if path == test.file(l) && to > test.from {
					return reason
				}
				return nil
			}
			reason = syscall.ENFILE
			if _, err := open(smallOptions(), l.disk, nil, nil); !errors.Is(err, reason) {
				t.Fatalf("got %v, want ENFILE", err)
			}
			if after, _ := l.disk.List(""); !slices.Equal(before, after) {
				t.Errorf("files were %q, are %q", before, after)
			}
			reason = syscall.EIO
			openOn(t, l.disk, smallOptions())
			if n := countFiles(l.disk, corruptSuffix); n != test.bad {
				t.Errorf("%d files set aside, want %d", n, test.bad)
			}
		})
	}
}
