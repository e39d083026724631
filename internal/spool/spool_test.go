package spool

import (
	"bytes"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sys/unix"

	"github.com/latpush/latpush/internal/latency"
	"github.com/latpush/latpush/internal/spool/spooltest"
)

// smallOptions make segments of some ten numbered snapshots.
func smallOptions() Options {
	return Options{Directory: "spool", MaxBytes: 1 << 20, SegmentBytes: 4096}
}

func openOn(t testing.TB, d *memoryDisk, o Options) *Spool {
	t.Helper()
	s, err := open(o, d, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

func appendAll(t testing.TB, s *Spool, from, to int) {
	t.Helper()
	for i := from; i <= to; i++ {
		if err := s.Append(spooltest.Snapshot(i)); err != nil {
			t.Fatal(err)
		}
	}
}

// appendRebooted is appendAll with snapshots that cannot be left out.
func appendRebooted(t testing.TB, s *Spool, from, to int) {
	t.Helper()
	for i := from; i <= to; i++ {
		if err := s.Append(spooltest.Rebooted(i)); err != nil {
			t.Fatal(err)
		}
	}
}

func readerOf(t testing.TB, s *Spool, name string) *Reader {
	t.Helper()
	r, err := s.Reader(name)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// drain returns the numbers of all snapshots up to the end and the last position, checking the contents of each.
func drain(t testing.TB, r *Reader) (numbers []int, last Position) {
	t.Helper()
	for {
		snapshot, p, ok, err := r.TryNext()
		if err != nil {
			t.Fatal(err)
		}
		if !ok {
			return numbers, last
		}
		i := spooltest.Number(snapshot.Taken)
		if !reflect.DeepEqual(snapshot, spooltest.Snapshot(i)) && !reflect.DeepEqual(snapshot, spooltest.Rebooted(i)) {
			t.Fatalf("snapshot %d came back as %+v", i, snapshot)
		}
		if p <= last {
			t.Fatalf("position %d after %d", p, last)
		}
		numbers, last = append(numbers, i), p
	}
}

// upTo returns the numbers from one to another, both included.
func upTo(from, to int) []int {
	var all []int
	for i := from; i <= to; i++ {
		all = append(all, i)
	}
	return all
}

func wantNumbers(t testing.TB, what string, got, want []int) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Errorf("%s: got snapshots %v, want %v", what, got, want)
	}
}

func TestAppendAndRead(t *testing.T) {
	t.Parallel()
	for _, fsync := range []Fsync{FsyncAlways, FsyncNever} {
		t.Run(string(fsync), func(t *testing.T) {
			t.Parallel()
			o := Options{Directory: filepath.Join(t.TempDir(), "a", "b"), SegmentBytes: 4096, Fsync: fsync}
			for round := range 3 {
				s, err := Open(o, nil, nil)
				if err != nil {
					t.Fatal(err)
				}
				appendAll(t, s, round*40+1, round*40+40)
				numbers, _ := drain(t, readerOf(t, s, "late"))
				wantNumbers(t, "reader that never commits", numbers, upTo(1, round*40+40))
				r := readerOf(t, s, "prompt")
				numbers, last := drain(t, r)
				wantNumbers(t, "reader that commits", numbers, upTo(round*40+1, round*40+40))
				if err := r.Commit(last, nil); err != nil {
					t.Fatal(err)
				}
				if err := s.Close(); err != nil {
					t.Fatal(err)
				}
			}
		})
	}
}

func TestOneAppenderManyReaders(t *testing.T) {
	t.Parallel()
	const count = 400
	s := openOn(t, newMemoryDisk(), smallOptions())
	registry := prometheus.NewPedanticRegistry()
	registry.MustRegister(s.metrics)
	var group sync.WaitGroup
	for _, name := range []string{"a", "b", "c"} {
		r := readerOf(t, s, name)
		group.Go(func() {
			for i := 1; i <= count; i++ {
				snapshot, p, err := r.Next(t.Context())
				if err != nil || spooltest.Number(snapshot.Taken) != i {
					t.Errorf("reader %s: got %v, %v, want snapshot %d", name, snapshot, err, i)
					return
				}
				if i%7 == 0 {
					if err := r.Commit(p, nil); err != nil {
						t.Error(err)
					}
					r.Rewind()
				}
			}
		})
	}
	group.Go(func() {
		for range 50 {
			if _, err := registry.Gather(); err != nil {
				t.Error(err)
			}
		}
	})
	appendAll(t, s, 1, count)
	group.Wait()
}

func TestClosed(t *testing.T) {
	t.Parallel()
	s := openOn(t, newMemoryDisk(), smallOptions())
	r := readerOf(t, s, "r")
	if err := errors.Join(s.Close(), s.Close()); err != nil {
		t.Fatal(err)
	}
	_, _, _, tryErr := r.TryNext()
	_, readerErr := s.Reader("x")
	for what, err := range map[string]error{
		"Append": s.Append(spooltest.Snapshot(1)), "TryNext": tryErr, "Commit": r.Commit(0, nil), "Reader": readerErr, "Forget": s.Forget("x"),
	} {
		if !errors.Is(err, ErrClosed) {
			t.Errorf("%s gives %v, want ErrClosed", what, err)
		}
	}
}

func TestLock(t *testing.T) {
	t.Parallel()
	o := Options{Directory: t.TempDir()}
	first, err := Open(o, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	_, err = Open(o, nil, nil)
	if !errors.Is(err, ErrLocked) || !strings.Contains(err.Error(), o.Directory) || !strings.Contains(err.Error(), "(stop it, or set spool.directory") {
		t.Errorf("second open gives %v, want ErrLocked with the directory", err)
	}
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	second, err := Open(o, nil, nil)
	if err != nil {
		t.Fatalf("open after close gives %v", err)
	}
	if err := second.Close(); err != nil {
		t.Fatal(err)
	}
}

// A process that is started has copies of all open files for a moment. They must not hold the lock of a spool that was closed meanwhile.
func TestLockIsGivenUp(t *testing.T) {
	t.Parallel()
	o := Options{Directory: t.TempDir()}
	first, err := Open(o, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	held, ok := first.lock.(flock)
	if !ok {
		t.Fatalf("lock is a %T", first.lock)
	}
	duplicate, err := unix.FcntlInt(held.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(duplicate)
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	second, err := Open(o, nil, nil)
	if err != nil {
		t.Fatalf("open after close gives %v", err)
	}
	if err := second.Close(); err != nil {
		t.Fatal(err)
	}
}

func TestOpenErrors(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(Options{Directory: path}, nil, nil); err == nil || !strings.Contains(err.Error(), "open spool "+path+": make directory") {
		t.Errorf("open on a file gives %v", err)
	}
	registry := prometheus.NewRegistry()
	registry.MustRegister(prometheus.NewCounter(prometheus.CounterOpts{Name: "latpush_spool_appended_total", Help: "Of another."}))
	d := newMemoryDisk()
	if _, err := open(smallOptions(), d, nil, registry); err == nil || !strings.Contains(err.Error(), "register metrics") {
		t.Errorf("open with metrics that are taken gives %v", err)
	}
	if d.locked {
		t.Error("a failed open keeps the lock")
	}
}

func TestAppendRefuses(t *testing.T) {
	t.Parallel()
	o := smallOptions()
	o.MaxBytes, o.SegmentBytes = 64<<10, 4096
	s := openOn(t, newMemoryDisk(), o)
	invalid := &latency.Snapshot{Families: []latency.Family{{Name: "x"}}}
	if err := s.Append(invalid); !errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), "append to spool spool: ") {
		t.Errorf("got %v, want ErrInvalid", err)
	}
	if err := s.Append(spooltest.Large(1, 3000, 27)); !errors.Is(err, ErrTooLarge) || !strings.Contains(err.Error(), "at most 32732 are allowed") {
		t.Errorf("got %v, want ErrTooLarge", err)
	}
	appendAll(t, s, 1, 3)
	numbers, _ := drain(t, readerOf(t, s, "r"))
	wantNumbers(t, "afterwards", numbers, upTo(1, 3))
}

// A snapshot larger than a segment gets one of its own.
func TestLargeSnapshots(t *testing.T) {
	t.Parallel()
	d := newMemoryDisk()
	s := openOn(t, d, smallOptions())
	want := []*latency.Snapshot{spooltest.Snapshot(1), spooltest.Large(2, 500, 27), spooltest.Large(3, 500, 27), spooltest.Snapshot(4)}
	for _, snapshot := range want {
		if err := s.Append(snapshot); err != nil {
			t.Fatal(err)
		}
	}
	if n := countFiles(d, segmentSuffix); n != 4 {
		t.Errorf("%d segments, want 4", n)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	r := readerOf(t, openOn(t, d, smallOptions()), "r")
	for i, snapshot := range want {
		if got, _, _, err := r.TryNext(); err != nil || !reflect.DeepEqual(got, snapshot) {
			t.Errorf("snapshot %d does not come back (%v)", i, err)
		}
	}
}

// countFiles counts the files whose names end in a suffix.
func countFiles(d *memoryDisk, suffix string) int {
	names, _ := d.List("")
	return len(slices.DeleteFunc(names, func(name string) bool { return !strings.HasSuffix(name, suffix) }))
}

// logTo returns a logger whose lines are text in a buffer, without the time.
func logTo(b *bytes.Buffer) *slog.Logger {
	return slog.New(slog.NewTextHandler(b, &slog.HandlerOptions{ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
		if a.Key == slog.TimeKey {
			return slog.Attr{}
		}
		return a
	}}))
}
