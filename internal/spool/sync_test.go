package spool

import (
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
)

func delayOptions() Options {
	o := smallOptions()
	o.Fsync = "10s"
	return o
}

// With a duration, what was appended and committed is durable at most that long afterwards, and not before.
func TestDelayedSync(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		d := newMemoryDisk()
		s := openOn(t, d, delayOptions())
		r := readerOf(t, s, "r")
		found := func() []int {
			after := openOn(t, d.powerCut(nil), delayOptions())
			defer after.Close()
			numbers, _ := drain(t, readerOf(t, after, "r"))
			return numbers
		}
		appendAll(t, s, 1, 2)
		time.Sleep(9 * time.Second)
		appendAll(t, s, 3, 3)
		wantNumbers(t, "after 9 s", found(), nil)
		time.Sleep(time.Second)
		synctest.Wait()
		wantNumbers(t, "after 10 s", found(), upTo(1, 3))
		_, p, _, err := r.TryNext()
		if err != nil {
			t.Fatal(err)
		}
		if err := r.Commit(p, []byte("state")); err != nil {
			t.Fatal(err)
		}
		wantNumbers(t, "at once after a commit", found(), upTo(1, 3))
		time.Sleep(10 * time.Second)
		synctest.Wait()
		wantNumbers(t, "10 s after a commit", found(), upTo(2, 3))
		appendAll(t, s, 4, 40) // several segments
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		wantNumbers(t, "after Close", found(), upTo(2, 40))
	})
}

// A sync that fails in the background: the segment is left, and what it had that was not synced is written again in a new one.
func TestDelayedSyncFails(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		d := newMemoryDisk()
		s := openOn(t, d, delayOptions())
		r := readerOf(t, s, "r")
		appendAll(t, s, 1, 3)
		time.Sleep(10 * time.Second)
		synctest.Wait()
		appendAll(t, s, 4, 6)
		failures := 0
		d.setFault(func(_ int, operation, path string) fault {
			if operation == "sync" && strings.HasPrefix(path, segmentName(1)) {
				failures++
				return fault{err: syscall.EIO}
			}
			return fault{}
		})
		time.Sleep(10 * time.Second)
		synctest.Wait()
		if failures != 1 || testutil.ToFloat64(s.metrics.diskErrors) != 1 || countFiles(d, segmentSuffix) != 2 {
			t.Errorf("%d syncs failed, %d segments, want one and two", failures, countFiles(d, segmentSuffix))
		}
		numbers, _ := drain(t, r)
		wantNumbers(t, "of the running process", numbers, upTo(1, 6))
		time.Sleep(10 * time.Second)
		synctest.Wait()
		after := openOn(t, d.powerCut(nil), delayOptions())
		numbers, _ = drain(t, readerOf(t, after, "r"))
		wantNumbers(t, "after a power cut", numbers, upTo(1, 6))
		if n := testutil.ToFloat64(after.metrics.corrupt.WithLabelValues(kindRecord)); n != 0 {
			t.Errorf("%v records counted as damaged", n)
		}
		if err := after.Close(); err != nil {
			t.Fatal(err)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	})
}

// The sync that fails is the one with which a full segment is left.
func TestSyncFailsWhenSegmentIsFull(t *testing.T) {
	t.Parallel()
	d := newMemoryDisk()
	s := openOn(t, d, delayOptions())
	appendAll(t, s, 1, 1)
	failed := false
	d.fault = func(_ int, operation, path string) fault {
		if operation == "sync" && strings.HasPrefix(path, segmentName(1)) && !failed {
			failed = true
			return fault{err: syscall.EIO}
		}
		return fault{}
	}
	appendAll(t, s, 2, 40)
	if n := testutil.ToFloat64(s.metrics.diskErrors); n != 1 {
		t.Errorf("%v disk errors, want 1", n)
	}
	numbers, _ := drain(t, readerOf(t, s, "r"))
	wantNumbers(t, "of the running process", numbers, upTo(1, 40))
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	numbers, _ = drain(t, readerOf(t, openOn(t, d.powerCut(nil), delayOptions()), "r"))
	wantNumbers(t, "after a power cut", numbers, upTo(1, 40))
}

// Append does not wait for a sync that is under way.
func TestAppendDuringSync(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		d := newMemoryDisk()
		o := delayOptions()
		o.SegmentBytes = 64 << 10
		s, err := open(o, slowSync{d}, nil, nil)
		if err != nil {
			t.Fatal(err)
		}
		appendAll(t, s, 1, 1)
		began := time.Now()
		time.Sleep(10*time.Second + time.Millisecond) // the sync began, and takes an hour
		appendAll(t, s, 2, 50)
		if took := time.Since(began); took > 11*time.Second {
			t.Errorf("50 appends ended after %v", took)
		}
		time.Sleep(3 * time.Hour)
		synctest.Wait()
		numbers, _ := drain(t, readerOf(t, openOn(t, d.powerCut(nil), delayOptions()), "r"))
		wantNumbers(t, "after a power cut", numbers, upTo(1, 50))
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	})
}

// slowSync is a disk that needs an hour to sync a segment that holds something.
type slowSync struct{ *memoryDisk }

func (d slowSync) Create(path string) (file, error) {
	f, err := d.memoryDisk.Create(path)
	return slowFile{f}, err
}

type slowFile struct{ file }

func (f slowFile) Sync() error {
	if size, _ := f.Size(); size > 100 {
		time.Sleep(time.Hour)
	}
	return f.file.Sync()
}

// What a failed sync gives back comes in front of what the disk has refused since.
func TestSyncFailsWhileDiskRefuses(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		d := newMemoryDisk()
		s := openOn(t, d, delayOptions())
		appendAll(t, s, 1, 3)
		d.setFault(func(_ int, operation, _ string) fault {
			// The segment can be cut back, so it stays the active one.
			if operation == "write" || operation == "sync" {
				return fault{err: syscall.ENOSPC}
			}
			return fault{}
		})
		appendAll(t, s, 4, 6)
		time.Sleep(10 * time.Second)
		synctest.Wait()
		numbers, _ := drain(t, readerOf(t, s, "r"))
		wantNumbers(t, "while the disk refuses", numbers, upTo(1, 6))
		d.setFault(nil)
		appendAll(t, s, 7, 7)
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		numbers, _ = drain(t, readerOf(t, openOn(t, d.powerCut(nil), delayOptions()), "r"))
		wantNumbers(t, "after a power cut", numbers, upTo(1, 7))
	})
}
