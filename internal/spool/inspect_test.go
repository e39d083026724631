package spool

import (
	"errors"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/latpush/latpush/internal/latency"
	"github.com/latpush/latpush/internal/spool/spooltest"
)

func TestInspect(t *testing.T) {
	t.Parallel()
	l := damageable(t)
	s := openOn(t, l.disk, smallOptions())
	r := readerOf(t, s, "r")
	for range 5 {
		_, p, _, _ := r.TryNext()
		if err := r.Commit(p, []byte("five")); err != nil {
			t.Fatal(err)
		}
	}
	l.flip(t, 1, 1, payloadAt)
	for name, text := range map[string]string{
		"x.cursor": "rotten", "00000000000000000009.seg.corrupt": "set aside", "r.cursor.tmp": "tmp", "other": "", segmentName(999): "no header",
	} {
		f, err := l.disk.Create(name)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.WriteAt([]byte(text), 0); err != nil {
			t.Fatal(err)
		}
	}
	steps := l.disk.steps
	c, err := inspect("spool", l.disk)
	if err != nil {
		t.Fatal(err)
	}
	if len(c.Segments) != 4 || len(c.Cursors) != 2 {
		t.Fatalf("contents are %+v", c)
	}
	first, second, fourth := c.Segments[0], c.Segments[1], c.Segments[3]
	n := len(l.segments[0].entries)
	want := SegmentInfo{
		FileInfo: FileInfo{segmentName(1), l.segments[0].size}, Snapshots: n, First: 1, Last: Position(n),
		Oldest: spooltest.Instant(1), Newest: spooltest.Instant(n), Spacing: spooltest.Interval,
	}
	if first != want {
		t.Errorf("first segment is %+v, want %+v", first, want)
	}
	if second.Damaged != 1 || second.Snapshots != len(l.segments[1].entries)-1 || !errors.Is(fourth.Err, ErrCorrupt) || fourth.Snapshots != 0 {
		t.Errorf("damaged segments are %+v, %+v", second, fourth)
	}
	if c.Cursors[1].Err == nil || !reflect.DeepEqual(c.Cursors[0], CursorInfo{Name: "r", Position: 5, Pending: held - 6, State: []byte("five")}) {
		t.Errorf("cursors are %+v", c.Cursors)
	}
	if !reflect.DeepEqual(c.SetAside, []FileInfo{{"00000000000000000009.seg.corrupt", 9}}) || !reflect.DeepEqual(c.Unfinished, []FileInfo{{"r.cursor.tmp", 3}}) {
		t.Errorf("other files are %+v, %+v", c.SetAside, c.Unfinished)
	}
	lost := Position(l.numbers(1)[1])
	if p, ok := c.Following(lost - 1); p != lost+1 || !ok {
		t.Errorf("behind %d comes %d, %v", lost-1, p, ok)
	}
	if _, ok := c.Following(held); ok {
		t.Error("something follows the last snapshot")
	}
	if got, err := c.Snapshot(7); err != nil || !reflect.DeepEqual(got, spooltest.Snapshot(7)) {
		t.Errorf("snapshot 7 is %+v, %v", got, err)
	}
	if _, err := c.Snapshot(lost); !errors.Is(err, ErrNoSnapshot) || !strings.Contains(err.Error(), "of spool spool: ") {
		t.Errorf("snapshot that is lost gives %v", err)
	}
	if boots := c.Boots(); !reflect.DeepEqual(boots, s.Boots()) || len(boots) != 1 {
		t.Errorf("boots are %+v", boots)
	}
	if l.disk.steps != steps {
		t.Error("inspecting changed something")
	}
}

// A snapshot is found although its segment was rewritten since.
func TestInspectWhileThinning(t *testing.T) {
	t.Parallel()
	o := thinOptions()
	d := newMemoryDisk()
	s := openOn(t, d, o)
	appendAll(t, s, 1, 170)
	c, err := inspect("spool", d)
	if err != nil {
		t.Fatal(err)
	}
	appendAll(t, s, 171, 600)
	numbers, _ := drain(t, readerOf(t, s, "r"))
	for _, i := range numbers[:3] {
		if got, err := c.Snapshot(Position(i)); err != nil || !reflect.DeepEqual(got, spooltest.Snapshot(i)) {
			t.Errorf("snapshot %d is %+v, %v", i, got, err)
		}
	}
	if _, err := c.Snapshot(2); !errors.Is(err, ErrNoSnapshot) {
		t.Errorf("snapshot that was thinned since gives %v", err)
	}
	again, err := inspect("spool", d)
	if err != nil || again.Segments[0].Spacing <= c.Segments[0].Spacing {
		t.Errorf("spacing was %v, is %v (%v)", c.Segments[0].Spacing, again.Segments[0].Spacing, err)
	}
}

func TestInspectRefuses(t *testing.T) {
	t.Parallel()
	l := damageable(t)
	copy(l.file(t, 1).seen, "latspool\x02\x00\x00\x00\x4a\x2f\xbf\xef")
	if _, err := inspect("spool", l.disk); !errors.Is(err, ErrVersion) || !strings.Contains(err.Error(), "it has version 2, this latpush reads up to 1") {
		t.Errorf("got %v, want ErrVersion", err)
	}
	l = damageable(t)
	f, _ := l.disk.Create("central.cursor")
	if _, err := f.WriteAt([]byte(signed("latpush-cursor v3 77")), 0); err != nil {
		t.Fatal(err)
	}
	if _, err := inspect("spool", l.disk); !errors.Is(err, ErrVersion) || !strings.Contains(err.Error(), "cursor of reader central") {
		t.Errorf("got %v, want ErrVersion", err)
	}
	if _, err := Inspect(filepath.Join(t.TempDir(), "none")); err == nil || !strings.Contains(err.Error(), "inspect spool") {
		t.Errorf("no directory gives %v", err)
	}
}

func TestBoots(t *testing.T) {
	t.Parallel()
	d := newMemoryDisk()
	s := openOn(t, d, smallOptions())
	appendAll(t, s, 1, 30)
	appendRebooted(t, s, 31, 31)
	late := spooltest.Rebooted(31)
	late.Taken.Boottime += spooltest.Interval
	late.Taken.Wall = late.Taken.Wall.AddDate(10, 0, 0)
	if err := s.Append(late); err != nil {
		t.Fatal(err)
	}
	began := func(taken latency.Instant) Boot {
		return Boot{ID: taken.BootID, Began: taken.Wall.Add(-taken.Boottime), Last: taken.Boottime}
	}
	want := []Boot{began(spooltest.Instant(30)), began(late.Taken)}
	if got := s.Boots(); !reflect.DeepEqual(got, want) {
		t.Errorf("boots are %+v, want %+v", got, want)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if got := openOn(t, d, smallOptions()).Boots(); !reflect.DeepEqual(got, want) {
		t.Errorf("after a restart boots are %+v, want %+v", got, want)
	}
}

// The state comes back with the position it was committed with.
func TestState(t *testing.T) {
	t.Parallel()
	d := newMemoryDisk()
	s := openOn(t, d, smallOptions())
	r := readerOf(t, s, "r")
	appendAll(t, s, 1, 3)
	if r.State() != nil {
		t.Errorf("new reader has state %q", r.State())
	}
	_, last := drain(t, r)
	if err := r.Commit(last, make([]byte, MaxState+1)); err == nil || !strings.Contains(err.Error(), "state of 4097 bytes, at most 4096 are kept") {
		t.Errorf("large state gives %v", err)
	}
	large := []byte(strings.Repeat("x", MaxState))
	for _, step := range []struct {
		p           Position
		state, want []byte
	}{
		{1, []byte("one"), []byte("one")},
		{2, nil, []byte("one")},
		{2, []byte("two"), []byte("two")},
		{1, []byte("again"), []byte("again")},
		{3, large, large},
		{3, []byte{}, []byte{}},
	} {
		if err := r.Commit(step.p, step.state); err != nil {
			t.Fatal(err)
		}
		restarted := openOn(t, d.powerCut(nil), smallOptions())
		if got := readerOf(t, restarted, "r").State(); string(got) != string(step.want) || string(r.State()) != string(step.want) {
			t.Errorf("after committing %d with %.9q: state is %.9q, after a restart %.9q", step.p, step.state, r.State(), got)
		}
	}
}
