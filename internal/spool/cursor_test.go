package spool

import (
	"bytes"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus/testutil"
)

// The line is a promise to every spool in the field.
func TestCursorLine(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		progress progress
		line     string
	}{
		{progress{}, "latpush-cursor v2 0 - 6acec7bb\n"},
		{progress{delivered: 1234}, "latpush-cursor v2 1234 - 9de5d690\n"},
		{progress{delivered: 1234, state: []byte(`{"last":1793514600250}`)}, "latpush-cursor v2 1234 eyJsYXN0IjoxNzkzNTE0NjAwMjUwfQ== c85a7867\n"},
		{progress{delivered: 9223372036854775807, state: []byte{0, 255}}, "latpush-cursor v2 9223372036854775807 AP8= 5bb71c84\n"},
	} {
		line := encodeCursor(test.progress)
		if string(line) != test.line {
			t.Errorf("cursor at %+v is %q, want %q", test.progress, line, test.line)
		}
		if got, err := decodeCursor(line); !reflect.DeepEqual(got, test.progress) || err != nil {
			t.Errorf("%q reads back as %+v, %v", line, got, err)
		}
	}
}

// What the first version wrote is still read.
func TestCursorLineOfVersion1(t *testing.T) {
	t.Parallel()
	for line, want := range map[string]Position{
		"latpush-cursor v1 0 a921c0ce\n":                   0,
		"latpush-cursor v1 1234 93d8b724\n":                1234,
		"latpush-cursor v1 9223372036854775807 46e3a7a5\n": 9223372036854775807,
	} {
		if got, err := decodeCursor([]byte(line)); got.delivered != want || got.state != nil || err != nil {
			t.Errorf("%q reads as %+v, %v", line, got, err)
		}
	}
}

// signed appends the right checksum to a line.
func signed(line string) string { return fmt.Sprintf("%s %08x\n", line, cursorChecksum(line)) }

func TestBadCursorLines(t *testing.T) {
	t.Parallel()
	good := string(encodeCursor(progress{delivered: 77}))
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
		"version rotten":   {strings.Replace(good, "v2", "v1", 1), errBadCursor, "checksum"},
		"another word":     {signed("lathpush-cursor v1 77"), errBadCursor, "does not start with"},
		"no version":       {signed("latpush-cursor 77"), errBadCursor, "does not start with"},
		"version 0":        {signed("latpush-cursor v0 77"), errBadCursor, "does not start with"},
		"newer":            {signed("latpush-cursor v3 77 and more"), ErrVersion, "cursor has version 3, this latpush reads up to 2"},
		"no position":      {signed("latpush-cursor v1"), errBadCursor, "not a number"},
		"negative":         {signed("latpush-cursor v1 -1"), errBadCursor, "not a number"},
		"past all numbers": {signed("latpush-cursor v1 9223372036854775808"), errBadCursor, "not a number"},
		"more behind":      {signed("latpush-cursor v1 7 8"), errBadCursor, "number of words"},
		"no state":         {signed("latpush-cursor v2 7"), errBadCursor, "number of words"},
		"empty state":      {signed("latpush-cursor v2 7 "), errBadCursor, "state is not base64"},
		"state no base64":  {signed("latpush-cursor v2 7 A"), errBadCursor, "state is not base64"},
		"state, more":      {signed("latpush-cursor v2 7 AP8= 8"), errBadCursor, "state is not base64"},
		"state too long":   {signed("latpush-cursor v2 7 " + strings.Repeat("AAAA", 1366)), errBadCursor, "state is not base64 of 1 to 4096 bytes"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if p, err := decodeCursor([]byte(test.line)); !errors.Is(err, test.want) || !strings.Contains(err.Error(), test.text) {
				t.Errorf("got %+v, %v, want %v with %q", p, err, test.want, test.text)
			}
		})
	}
}

func FuzzDecodeCursor(f *testing.F) {
	f.Add([]byte("latpush-cursor v1 1234 93d8b724\n"))
	f.Add([]byte(signed("latpush-cursor v3 77")))
	f.Add(encodeCursor(progress{delivered: 77, state: []byte("state")}))
	f.Fuzz(func(t *testing.T, b []byte) {
		p, err := decodeCursor(b)
		if err != nil {
			if !errors.Is(err, errBadCursor) && !errors.Is(err, ErrVersion) {
				t.Fatalf("error of neither kind: %v", err)
			}
			return
		}
		if again, err := decodeCursor(encodeCursor(p)); !reflect.DeepEqual(again, p) || err != nil {
			t.Errorf("%+v reads back as %+v, %v", p, again, err)
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
		if err := r.Commit(p, nil); err != nil {
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
	if got := string(l.disk.contents(t, "bad.cursor").seen); got != string(encodeCursor(progress{})) || last == 0 {
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
	if _, err := f.WriteAt([]byte(signed("latpush-cursor v3 77")), 0); err != nil {
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
	if err := fast.Commit(last, nil); err != nil {
		t.Fatal(err)
	}
	numbers, _ := drain(t, readerOf(t, s, "slow"))
	wantNumbers(t, "slow reader", numbers, upTo(1, 40))
}
