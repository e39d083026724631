package spool

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus/testutil"
)

// The line is a promise to every spool in the field.
func TestCursorLine(t *testing.T) {
	t.Parallel()
	for p, want := range map[Position]string{
		0:                   "latpush-cursor v1 0 a921c0ce\n",
		1234:                "latpush-cursor v1 1234 93d8b724\n",
		9223372036854775807: "latpush-cursor v1 9223372036854775807 46e3a7a5\n",
	} {
		line := encodeCursor(p)
		if string(line) != want {
			t.Errorf("cursor at %d is %q, want %q", p, line, want)
		}
		if got, err := decodeCursor(line); got != p || err != nil {
			t.Errorf("%q reads back as %d, %v", line, got, err)
		}
	}
}

// signed appends the right checksum to a line.
func signed(line string) string { return fmt.Sprintf("%s %08x\n", line, cursorChecksum(line)) }

func TestBadCursorLines(t *testing.T) {
	t.Parallel()
	good := string(encodeCursor(77))
	tests := map[string]struct {
		line string
		want error
		text string
	}{
		"empty":            {"", errBadCursor, "cut short"},
		"cut":              {good[:len(good)-1], errBadCursor, "cut short"},
		"one word":         {"latpush-cursor\n", errBadCursor, "cut short"},
		"zeros":            {string(make([]byte, 30)), errBadCursor, "cut short"},
		"position rotten":  {strings.Replace(good, "77", "78", 1), errBadCursor, "checksum"},
		"version rotten":   {strings.Replace(good, "v1", "v2", 1), errBadCursor, "checksum"},
		"another word":     {signed("lathpush-cursor v1 77"), errBadCursor, "does not start with"},
		"no version":       {signed("latpush-cursor 77"), errBadCursor, "does not start with"},
		"version 0":        {signed("latpush-cursor v0 77"), errBadCursor, "does not start with"},
		"newer":            {signed("latpush-cursor v2 77 and more"), ErrVersion, "cursor has version 2, this latpush reads up to 1"},
		"no position":      {signed("latpush-cursor v1"), errBadCursor, "not a number"},
		"negative":         {signed("latpush-cursor v1 -1"), errBadCursor, "not a number"},
		"past all numbers": {signed("latpush-cursor v1 9223372036854775808"), errBadCursor, "not a number"},
		"more behind":      {signed("latpush-cursor v1 7 8"), errBadCursor, "not a number"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if p, err := decodeCursor([]byte(test.line)); !errors.Is(err, test.want) || !strings.Contains(err.Error(), test.text) {
				t.Errorf("got %d, %v, want %v with %q", p, err, test.want, test.text)
			}
		})
	}
}

func FuzzDecodeCursor(f *testing.F) {
	f.Add([]byte("latpush-cursor v1 1234 93d8b724\n"))
	f.Add([]byte(signed("latpush-cursor v2 77")))
	f.Fuzz(func(t *testing.T, b []byte) {
		p, err := decodeCursor(b)
		if err != nil {
			if !errors.Is(err, errBadCursor) && !errors.Is(err, ErrVersion) {
				t.Fatalf("error of neither kind: %v", err)
			}
			return
		}
		if again, err := decodeCursor(encodeCursor(p)); again != p || err != nil {
			t.Errorf("%d reads back as %d, %v", p, again, err)
		}
	})
}

// A cursor that cannot be read costs deliveries again, never snapshots, and the file is kept.
func TestBadCursorIsSetAside(t *testing.T) {
	t.Parallel()
	l := damageable(t)
	s := openOn(t, l.disk, smallOptions())
	readerOf(t, s, "good")
	r := readerOf(t, s, "bad")
	for range 3 {
		_, p, _, _ := r.TryNext()
		if err := r.Commit(p); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	file := l.disk.contents(t, "bad.cursor")
	file.seen[18] = '9'
	var log bytes.Buffer
	s, err := open(smallOptions(), l.disk, logTo(&log), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	numbers, last := drain(t, readerOf(t, s, "bad"))
	wantNumbers(t, "from the oldest on", numbers, upTo(1, held))
	if got := l.disk.contents(t, "bad.cursor.corrupt").seen; !bytes.Equal(got, file.seen) {
		t.Errorf("cursor set aside holds %q", got)
	}
	if n := testutil.ToFloat64(s.metrics.corrupt.WithLabelValues(kindCursor)); n != 1 {
		t.Errorf("%v bad cursors counted, want 1", n)
	}
	if !strings.Contains(log.String(), "reader=bad err=\"bad cursor file: checksum") {
		t.Errorf("log does not name the reader:\n%s", &log)
	}
	if got := string(l.disk.contents(t, "bad.cursor").seen); got != string(encodeCursor(0)) || last == 0 {
		t.Errorf("new cursor is %q", got)
	}
}

func TestNewerCursorIsRefused(t *testing.T) {
	t.Parallel()
	l := damageable(t)
	f, err := l.disk.Create("central.cursor")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt([]byte(signed("latpush-cursor v2 77")), 0); err != nil {
		t.Fatal(err)
	}
	if _, err := open(smallOptions(), l.disk, nil, nil); !errors.Is(err, ErrVersion) || !strings.Contains(err.Error(), "cursor of reader central") {
		t.Errorf("got %v, want ErrVersion", err)
	}
}

// A new reader's cursor is on disk at once: after a power cut it holds its segments against a reader that is further on.
func TestNewReaderIsDurable(t *testing.T) {
	t.Parallel()
	d := newMemoryDisk()
	s := openOn(t, d, smallOptions())
	readerOf(t, s, "slow")
	readerOf(t, s, "fast")
	appendAll(t, s, 1, 40)
	s = openOn(t, d.powerCut(nil), smallOptions())
	fast := readerOf(t, s, "fast")
	_, last := drain(t, fast)
	if err := fast.Commit(last); err != nil {
		t.Fatal(err)
	}
	numbers, _ := drain(t, readerOf(t, s, "slow"))
	wantNumbers(t, "slow reader", numbers, upTo(1, 40))
}
