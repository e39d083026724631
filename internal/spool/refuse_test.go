package spool

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/prometheus/client_golang/prometheus/testutil"
	"golang.org/x/sys/unix"

	"github.com/latpush/latpush/internal/spool/segment"
	"github.com/latpush/latpush/internal/spool/spooltest"
)

// refuseAll makes every change to a disk fail.
func refuseAll(err error) func(int, string, string) fault {
	return func(int, string, string) fault { return fault{err: err, kept: 300} }
}

// A disk that refuses everything for a while costs nothing: readers get the snapshots all the same, and the disk gets them in order afterwards.
func TestDiskRefuses(t *testing.T) {
	t.Parallel()
	for _, reason := range []error{syscall.ENOSPC, syscall.EDQUOT, syscall.EROFS, syscall.EIO} {
		for _, policy := range []Fsync{FsyncAlways, FsyncNever, "1h"} {
			t.Run(fmt.Sprint(reason, policy), func(t *testing.T) {
				t.Parallel()
				o := smallOptions()
				o.Fsync = policy
				var log bytes.Buffer
				d := newMemoryDisk()
				s, err := open(o, d, logTo(&log), nil)
				if err != nil {
					t.Fatal(err)
				}
				r := readerOf(t, s, "r")
				appendAll(t, s, 1, 20)
				d.fault = refuseAll(reason)
				appendAll(t, s, 21, 60)
				numbers, last := drain(t, r)
				wantNumbers(t, "while the disk refuses", numbers, upTo(1, 60))
				st := s.status()
				if st.memory == 0 || st.healthy != 0 || st.snapshots != 60 || testutil.ToFloat64(s.metrics.diskErrors) == 0 {
					t.Errorf("status is %+v", st)
				}
				r.Rewind()
				d.fault = nil
				appendAll(t, s, 61, 62)
				if st := s.status(); st.memory != 0 || st.healthy != 1 {
					t.Errorf("status is %+v when the disk works again", st)
				}
				if n := strings.Count(log.String(), "\n"); n < 2 || n > 5 || !strings.Contains(log.String(), "level=ERROR msg=\"the disk refuses") ||
					!strings.Contains(log.String(), "level=INFO msg=\"the disk takes") {
					t.Errorf("log has %d lines:\n%s", n, &log)
				}
				if err := s.Close(); err != nil {
					t.Fatal(err)
				}
				after := d
				if policy != FsyncNever {
					after = d.powerCut(nil)
				}
				s = openOn(t, after, o)
				numbers, again := drain(t, readerOf(t, s, "r"))
				wantNumbers(t, "after a restart", numbers, upTo(1, 62))
				if again != last+2 {
					t.Errorf("last position is %d, was %d two snapshots ago", again, last)
				}
				if n := testutil.ToFloat64(s.metrics.corrupt.WithLabelValues(kindRecord)); n != 0 {
					t.Errorf("%v records counted as damaged", n)
				}
			})
		}
	}
}

// A commit that cannot be written is in force at once, and written as soon as the disk works again.
func TestCommitWhileDiskRefuses(t *testing.T) {
	t.Parallel()
	d := newMemoryDisk()
	s := openOn(t, d, smallOptions())
	r := readerOf(t, s, "r")
	appendAll(t, s, 1, 3)
	d.fault = refuseAll(syscall.EROFS)
	appendAll(t, s, 4, 6)
	_, last := drain(t, r)
	if err := r.Commit(last-1, []byte("kept")); !errors.Is(err, syscall.EROFS) {
		t.Errorf("commit gives %v", err)
	}
	if st := s.status(); st.snapshots != 1 || st.healthy != 0 || string(r.State()) != "kept" {
		t.Errorf("status is %+v, state is %q", st, r.State())
	}
	d.fault = nil
	appendAll(t, s, 7, 7)
	if st := s.status(); st.healthy != 1 {
		t.Errorf("status is %+v", st)
	}
	s = openOn(t, d.powerCut(nil), smallOptions())
	r = readerOf(t, s, "r")
	numbers, _ := drain(t, r)
	wantNumbers(t, "after a power cut", numbers, upTo(6, 7))
	if string(r.State()) != "kept" {
		t.Errorf("state is %q", r.State())
	}
}

// What is in memory is bounded, and thinned like what is on disk, so that the totals stay exact.
func TestMemoryIsThinned(t *testing.T) {
	t.Parallel()
	o, q := smallOptions(), newSequence(4000, 10)
	o.MaxMemory = 256 << 10
	d := newMemoryDisk()
	s := openOn(t, d, o)
	for _, snapshot := range q.snapshots[:50] {
		if err := s.Append(snapshot); err != nil {
			t.Fatal(err)
		}
	}
	d.fault = refuseAll(syscall.ENOSPC)
	for _, snapshot := range q.snapshots[50:] {
		if err := s.Append(snapshot); err != nil {
			t.Fatal(err)
		}
		if st := s.status(); st.memory > int64(o.MaxMemory) {
			t.Fatalf("%d bytes in memory", st.memory)
		}
	}
	if n := testutil.ToFloat64(s.metrics.dropped.WithLabelValues(reasonMemory, "false")); n != 0 {
		t.Errorf("%v snapshots dropped", n)
	}
	if n := testutil.ToFloat64(s.metrics.thinned); n < 500 {
		t.Errorf("%v snapshots thinned only, the test shows little", n)
	}
	if err := q.check(s, len(q.snapshots)); err != nil {
		t.Error(err)
	}
	d.fault = nil
	if err := s.Append(q.snapshots[len(q.snapshots)-1]); err != nil {
		t.Fatal(err)
	}
	if st := s.status(); st.memory != 0 {
		t.Errorf("status is %+v", st)
	}
}

// Where nothing can be left out, the oldest in memory go.
func TestMemoryDropsTheOldest(t *testing.T) {
	t.Parallel()
	o := smallOptions()
	o.MaxMemory = 256 << 10
	d := newMemoryDisk()
	var log bytes.Buffer
	s, err := open(o, d, logTo(&log), nil)
	if err != nil {
		t.Fatal(err)
	}
	d.fault = refuseAll(syscall.ENOSPC)
	appendRebooted(t, s, 1, 1000)
	numbers, _ := drain(t, readerOf(t, s, "r"))
	wantNumbers(t, "what is left", numbers, upTo(numbers[0], 1000))
	if n := testutil.ToFloat64(s.metrics.dropped.WithLabelValues(reasonMemory, "false")); int(n) != numbers[0]-1 || n == 0 {
		t.Errorf("%v snapshots counted as dropped, want %d", n, numbers[0]-1)
	}
	if n := strings.Count(log.String(), "oldest snapshots in memory dropped"); n != 1 {
		t.Errorf("%d lines about it:\n%s", n, &log)
	}
	if err := s.Close(); err == nil || !strings.Contains(err.Error(), fmt.Sprintf("%d snapshots that the disk refused are lost", len(numbers))) {
		t.Errorf("close gives %v", err)
	}
}

// A snapshot that fits neither on the disk nor into memory is the only one that Append gives back.
func TestTooLargeForMemory(t *testing.T) {
	t.Parallel()
	d := newMemoryDisk()
	o := smallOptions()
	o.MaxBytes, o.MaxMemory = 8<<20, minMemory
	s := openOn(t, d, o)
	large := spooltest.Large(1, 20_000, 27)
	d.fault = refuseAll(syscall.ENOSPC)
	if err := s.Append(large); !errors.Is(err, ErrTooLarge) || !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("got %v", err)
	}
	d.fault = nil
	if err := s.Append(large); err != nil {
		t.Error(err)
	}
}

// Somebody deletes the active file: that is noticed at the next append, which begins a new segment.
func TestActiveFileRemoved(t *testing.T) {
	t.Parallel()
	o := Options{Directory: t.TempDir()}
	var log bytes.Buffer
	s, err := Open(o, logTo(&log), nil)
	if err != nil {
		t.Fatal(err)
	}
	appendAll(t, s, 1, 3)
	if err := os.Remove(filepath.Join(o.Directory, segmentName(1))); err != nil {
		t.Fatal(err)
	}
	appendAll(t, s, 4, 5)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(log.String(), "segment of the spool is missing") {
		t.Errorf("log is %s", &log)
	}
	if s, err = Open(o, nil, nil); err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	numbers, _ := drain(t, readerOf(t, s, "r"))
	wantNumbers(t, "on disk", numbers, upTo(4, 5))
}

// A file system that is read-only from the start: what is on it is read, new snapshots are kept in memory, and damage is left as it is.
func TestOpenOnDiskThatRefuses(t *testing.T) {
	t.Parallel()
	l := damageable(t)
	l.file(t, 1).seen[17]++
	l.file(t, 2).seen = append(l.file(t, 2).seen, "torn"...)
	before, _ := l.disk.List("")
	l.disk.fault = refuseAll(syscall.EROFS)
	s := openOn(t, l.disk, smallOptions())
	appendAll(t, s, held+1, held+5)
	r := readerOf(t, s, "r")
	numbers, last := drain(t, r)
	wantNumbers(t, "all but the damaged segment", numbers, append(l.numbers(0), append(l.numbers(2), upTo(held+1, held+5)...)...))
	if err := r.Commit(last, nil); !errors.Is(err, syscall.EROFS) {
		t.Errorf("commit gives %v", err)
	}
	if after, _ := l.disk.List(""); fmt.Sprint(after) != fmt.Sprint(before) {
		t.Errorf("files were %q, are %q", before, after)
	}
}

// A real read-only file system, in a mount namespace of its own, and one without the lock file.
func TestOpenOnReadOnlyFileSystem(t *testing.T) {
	t.Parallel()
	o := Options{Directory: t.TempDir()}
	s, err := Open(o, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	appendAll(t, s, 1, 3)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount(o.Directory, o.Directory, "", unix.MS_BIND, ""); err != nil {
		if os.Getenv("CI") != "" {
			t.Fatal(err)
		}
		t.Skipf("cannot mount: %v", err)
	}
	defer func() { _ = unix.Unmount(o.Directory, unix.MNT_DETACH) }()
	if err := unix.Mount("", o.Directory, "", unix.MS_BIND|unix.MS_REMOUNT|unix.MS_RDONLY, ""); err != nil {
		t.Fatal(err)
	}
	if s, err = Open(o, nil, nil); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(o, nil, nil); !errors.Is(err, ErrLocked) {
		t.Errorf("second open gives %v, want ErrLocked", err)
	}
	appendAll(t, s, 4, 5)
	numbers, _ := drain(t, readerOf(t, s, "r"))
	wantNumbers(t, "read-only", numbers, upTo(1, 5))
	if err := s.Close(); err == nil || !strings.Contains(err.Error(), "2 snapshots that the disk refused are lost") {
		t.Errorf("close gives %v", err)
	}
	_, err = disk{}.Lock(filepath.Join(o.Directory, "other"))
	if !errors.Is(err, syscall.EROFS) || !strings.Contains(err.Error(), "(spool.directory must be on a file system that can be written") {
		t.Errorf("lock gives %v", err)
	}
}

// Writer.Sync never says that all is well after it has said that something was not.
func TestSyncStaysFailed(t *testing.T) {
	t.Parallel()
	d := newMemoryDisk()
	f, err := d.Create("x")
	if err != nil {
		t.Fatal(err)
	}
	w, err := segment.Create("x", f, segment.Header{First: 1}, false)
	if err != nil {
		t.Fatal(err)
	}
	d.fault = refuseAll(syscall.EIO)
	first := w.Sync()
	d.fault = nil
	if again := w.Sync(); !errors.Is(first, segment.ErrSync) || !errors.Is(again, first) {
		t.Errorf("first %v, then %v", first, again)
	}
}
