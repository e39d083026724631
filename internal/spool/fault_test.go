package spool

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"syscall"
	"testing"
)

// Every step fails once, or a few times in a row, in every way: the snapshot is kept in memory, the next Append writes it, and nothing is lost
// once it has, neither for readers of this process nor after a power cut that follows.
func TestFaultAtEveryStep(t *testing.T) {
	t.Parallel()
	o := smallOptions()
	total := steps(t, o)
	for _, test := range []struct {
		reason error
		length int // steps in a row that fail
		kept   int // of each write that fails, in thousandths
	}{
		{syscall.EIO, 1, 0},
		{syscall.EIO, 1, 500},
		{syscall.EIO, 1, 1000},
		{syscall.EIO, 3, 500},
		{syscall.ENOSPC, 1, 500},
		{syscall.ENOSPC, 2, 1000},
		{syscall.EROFS, 7, 0},
	} {
		t.Run(fmt.Sprintf("%v %d times after %d of 1000", test.reason, test.length, test.kept), func(t *testing.T) {
			t.Parallel()
			for step := 1; step <= total; step++ {
				d := newMemoryDisk()
				d.fault = func(n int, _, _ string) fault {
					if n >= step && n < step+test.length {
						return fault{err: test.reason, kept: test.kept}
					}
					return fault{}
				}
				h, failures := workload(o, d)
				if err := checkFaults(h, failures, test.reason, test.length); err != nil {
					t.Fatalf("from step %d: %v\nhistory: %+v", step, err, h)
				}
				d.fault = nil
				for _, after := range []*memoryDisk{d.powerCut(nil), d.powerCut(rand.New(rand.NewPCG(uint64(step), 0)))} {
					if err := h.check(o, after); err != nil {
						t.Fatalf("from step %d, then a power cut: %v\nhistory: %+v", step, err, h)
					}
				}
			}
		})
	}
}

// checkFaults checks that each failing step cost at most one call and held back at most one snapshot, and that the caller was told the reason.
func checkFaults(h history, failures []error, reason error, length int) error {
	if len(failures) > length {
		return fmt.Errorf("%d calls failed for %d failing steps: %w", len(failures), length, errors.Join(failures...))
	}
	for _, err := range failures {
		if !errors.Is(err, reason) || !strings.Contains(err.Error(), "spool") && !strings.Contains(err.Error(), "cursor") {
			return fmt.Errorf("unclear error: %w", err)
		}
	}
	if missing := 30 - len(h.appended); len(h.appended) > 0 && missing > length {
		return fmt.Errorf("%d snapshots are not on disk after %d failing steps", missing, length)
	}
	return nil
}

// Readers of the running process get exactly what was appended, whatever failed in between.
func TestReadersDuringFaults(t *testing.T) {
	t.Parallel()
	for seed := range 60 {
		reason := []error{syscall.EIO, syscall.ENOSPC, syscall.EROFS}[seed%3]
		rng := rand.New(rand.NewPCG(2, uint64(seed)))
		d := newMemoryDisk()
		s := openOn(t, d, smallOptions())
		r := readerOf(t, s, "r")
		d.fault = func(int, string, string) fault {
			if rng.IntN(120) < seed/2+1 {
				return fault{err: reason, kept: rng.IntN(1001)}
			}
			return fault{}
		}
		var found []int
		refused := 0
		for i := 1; i <= 100; i++ {
			appendAll(t, s, i, i)
			if s.status().memory > 0 {
				refused++
			}
			more, last := drain(t, r)
			found = append(found, more...)
			_ = r.Commit(last, nil)
		}
		wantNumbers(t, fmt.Sprintf("%v, seed %d", reason, seed), found, upTo(1, 100))
		if refused == 0 && seed > 20 {
			t.Errorf("%v, seed %d: the disk refused nothing, the test shows nothing", reason, seed)
		}
	}
}

// A sync that fails must not be believed when it succeeds the next time: the record is written again in a new segment.
func TestFailedSyncBeginsNewSegment(t *testing.T) {
	t.Parallel()
	d := newMemoryDisk()
	s := openOn(t, d, smallOptions())
	appendAll(t, s, 1, 3)
	failed := false
	d.fault = func(_ int, operation, path string) fault {
		if operation == "sync" && !failed {
			failed = true
			return fault{err: syscall.EIO}
		}
		return fault{}
	}
	appendAll(t, s, 4, 5)
	if n := countFiles(d, segmentSuffix); n != 2 || !failed {
		t.Errorf("%d segments, want a second one", n)
	}
	numbers, _ := drain(t, readerOf(t, openOn(t, d.powerCut(nil), smallOptions()), "r"))
	wantNumbers(t, "after a power cut", numbers, upTo(1, 5))
}

// A last segment that is empty and cannot be continued must not share its name with the next one: removing it would remove that.
func TestEmptyLastSegmentThatCannotBeContinued(t *testing.T) {
	t.Parallel()
	d := newMemoryDisk()
	s := openOn(t, d, smallOptions())
	segments := 0
	d.fault = func(_ int, operation, _ string) fault {
		if segments == 2 && operation != "sync directory" {
			return fault{err: syscall.EROFS}
		}
		if operation == "rename" {
			segments++
		}
		return fault{}
	}
	held := 0
	for s.status().memory == 0 {
		appendAll(t, s, held+1, held+1)
		held++
	}
	held--
	if err := s.Close(); err == nil || !strings.Contains(err.Error(), "1 snapshots that the disk refused are lost") {
		t.Fatalf("close gives %v", err)
	}
	d.fault = func(_ int, operation, _ string) fault {
		if operation == "truncate" {
			return fault{err: syscall.EROFS}
		}
		return fault{}
	}
	s = openOn(t, d, smallOptions())
	r := readerOf(t, s, "r")
	appendAll(t, s, held+1, held+1)
	numbers, last := drain(t, r)
	wantNumbers(t, "before the commit", numbers, upTo(1, held+1))
	if err := r.Commit(last, nil); err != nil {
		t.Fatal(err)
	}
	appendAll(t, s, held+2, held+3)
	numbers, _ = drain(t, readerOf(t, openOn(t, d.powerCut(nil), smallOptions()), "r"))
	wantNumbers(t, "after a power cut", numbers, upTo(held+2, held+3))
}

// Delivering must make room on a full disk: segments go although the cursor cannot be written.
func TestCommitOnFullDisk(t *testing.T) {
	t.Parallel()
	d := newMemoryDisk()
	s := openOn(t, d, smallOptions())
	r := readerOf(t, s, "r")
	appendAll(t, s, 1, 40)
	_, last := drain(t, r)
	d.fault = func(_ int, operation, _ string) fault {
		if operation == "write" {
			return fault{err: syscall.ENOSPC}
		}
		return fault{}
	}
	if err := r.Commit(last, nil); !errors.Is(err, syscall.ENOSPC) || !strings.Contains(err.Error(), "write cursor of reader r: ") {
		t.Errorf("got %v, want ENOSPC", err)
	}
	if n := countFiles(d, segmentSuffix); n != 1 {
		t.Errorf("%d segments, want the delivered ones removed", n)
	}
	d.fault = nil
	if err := r.Commit(last, nil); err != nil {
		t.Errorf("the same position again: %v", err)
	}
	numbers, _ := drain(t, readerOf(t, openOn(t, d.powerCut(nil), smallOptions()), "r"))
	wantNumbers(t, "after a power cut", numbers, nil)
}
