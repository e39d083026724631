package spool

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/latpush/latpush/internal/spool/spooltest"
)

func TestCommitAndRewind(t *testing.T) {
	t.Parallel()
	s := openOn(t, newMemoryDisk(), smallOptions())
	appendAll(t, s, 1, 5)
	r := readerOf(t, s, "r")
	_, first, _, _ := r.TryNext()
	numbers, last := drain(t, r)
	wantNumbers(t, "rest", numbers, upTo(2, 5))
	r.Rewind()
	numbers, _ = drain(t, r)
	wantNumbers(t, "after rewinding without a commit", numbers, upTo(1, 5))
	if err := r.Commit(first, nil); err != nil {
		t.Fatal(err)
	}
	r.Rewind()
	numbers, _ = drain(t, r)
	wantNumbers(t, "after rewinding", numbers, upTo(2, 5))
	r.Rewind()
	if err := r.Commit(last, nil); err != nil {
		t.Errorf("position that was handed out before rewinding: %v", err)
	}
	if err := r.Commit(first, nil); err != nil {
		t.Errorf("position before the last commit: %v", err)
	}
	r.Rewind()
	numbers, _ = drain(t, r)
	wantNumbers(t, "after committing all", numbers, nil)
	if err := r.Commit(last+1, nil); err == nil || !strings.Contains(err.Error(), "position 6 was not handed out yet, the last one was 5") {
		t.Errorf("commit of the future gives %v", err)
	}
}

func TestSegmentsGoWhenAllHaveDelivered(t *testing.T) {
	t.Parallel()
	d := newMemoryDisk()
	s := openOn(t, d, smallOptions())
	a, b := readerOf(t, s, "a"), readerOf(t, s, "b")
	appendAll(t, s, 1, 60)
	segments := countFiles(d, segmentSuffix)
	if segments < 4 {
		t.Fatalf("only %d segments, the test needs more", segments)
	}
	commit := func(r *Reader) {
		t.Helper()
		_, last := drain(t, r)
		if err := r.Commit(last, nil); err != nil {
			t.Fatal(err)
		}
	}
	commit(a)
	if n := countFiles(d, segmentSuffix); n != segments {
		t.Errorf("%d segments, want all %d while one reader has not delivered", n, segments)
	}
	commit(b)
	if n := countFiles(d, segmentSuffix); n != 1 {
		t.Errorf("%d segments, want the active one alone", n)
	}
	appendAll(t, s, 61, 62)
	numbers, _ := drain(t, b)
	wantNumbers(t, "afterwards", numbers, upTo(61, 62))
}

func TestReaderNamesAndForget(t *testing.T) {
	t.Parallel()
	d := newMemoryDisk()
	s := openOn(t, d, smallOptions())
	for _, name := range []string{"", "a/b", "..", "a.cursor", strings.Repeat("x", 129), "é"} {
		if _, err := s.Reader(name); err == nil {
			t.Errorf("name %q was accepted", name)
		}
	}
	gone, stays := readerOf(t, s, "gone"), readerOf(t, s, "stays-2_B")
	if _, err := s.Reader("gone"); !errors.Is(err, ErrReaderOpen) {
		t.Errorf("second reader gives %v, want ErrReaderOpen", err)
	}
	appendAll(t, s, 1, 60)
	_, last := drain(t, stays)
	if err := stays.Commit(last, nil); err != nil {
		t.Fatal(err)
	}
	if err := s.Forget("gone"); !errors.Is(err, ErrReaderOpen) {
		t.Errorf("forgetting an open reader gives %v", err)
	}
	if err := gone.Close(); err != nil {
		t.Fatal(err)
	}
	if _, _, err := gone.Next(t.Context()); !errors.Is(err, ErrClosed) {
		t.Errorf("closed reader gives %v", err)
	}
	if got := s.Readers(); !slices.Equal(got, []string{"gone", "stays-2_B"}) {
		t.Errorf("readers are %q", got)
	}
	if err := s.Forget("gone"); err != nil {
		t.Fatal(err)
	}
	if err := s.Forget("never was"); err != nil {
		t.Errorf("forgetting nobody gives %v", err)
	}
	if got := s.Readers(); !slices.Equal(got, []string{"stays-2_B"}) || countFiles(d, "gone"+cursorSuffix) != 0 {
		t.Errorf("readers are %q", got)
	}
	if n := countFiles(d, segmentSuffix); n != 1 {
		t.Errorf("%d segments, want the one that is active", n)
	}
}

// A cursor that nobody has opened yet after a restart holds its segments.
func TestClosedReaderHoldsSegments(t *testing.T) {
	t.Parallel()
	d := newMemoryDisk()
	s := openOn(t, d, smallOptions())
	readerOf(t, s, "slow")
	readerOf(t, s, "fast")
	appendAll(t, s, 1, 40)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = openOn(t, d, smallOptions())
	fast := readerOf(t, s, "fast")
	_, last := drain(t, fast)
	if err := fast.Commit(last, nil); err != nil {
		t.Fatal(err)
	}
	numbers, _ := drain(t, readerOf(t, s, "slow"))
	wantNumbers(t, "slow reader", numbers, upTo(1, 40))
}

func TestNextWakes(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := openOn(t, newMemoryDisk(), smallOptions())
		r := readerOf(t, s, "r")
		got := make(chan int)
		go func() {
			for {
				snapshot, _, err := r.Next(t.Context())
				if err != nil {
					close(got)
					return
				}
				got <- spooltest.Number(snapshot.Taken)
			}
		}()
		for i := 1; i <= 3; i++ {
			synctest.Wait()
			select {
			case n := <-got:
				t.Fatalf("snapshot %d out of nowhere", n)
			default:
			}
			appendAll(t, s, i, i)
			if n := <-got; n != i {
				t.Errorf("got snapshot %d, want %d", n, i)
			}
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
		if _, ok := <-got; ok {
			t.Error("reader went on after the spool was closed")
		}
	})
}

func TestNextEndsWithItsContext(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := readerOf(t, openOn(t, newMemoryDisk(), smallOptions()), "r")
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if _, _, err := r.Next(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v, want the context's error", err)
		}
	})
}
