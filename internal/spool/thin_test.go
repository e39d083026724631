package spool

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/latpush/latpush/internal/latency"
	"github.com/latpush/latpush/internal/spool/spooltest"
)

func thinOptions() Options {
	return Options{Directory: "spool", MaxBytes: 64 << 10, SegmentBytes: 4 << 10, MaxAge: 1 << 62}
}

// sequence is a sequence of snapshots, and what a receiver sees of every beginning of it.
type sequence struct {
	snapshots []*latency.Snapshot
	known     map[int]totals
}

func newSequence(n, haste int) *sequence {
	h := newHost(2, haste)
	q := &sequence{known: make(map[int]totals)}
	for range n {
		q.snapshots = append(q.snapshots, h.tick())
	}
	return q
}

func (q *sequence) upTo(n int) totals {
	if q.known[n] == nil {
		sum := totals{}
		for _, snapshot := range q.snapshots[:n] {
			sum.add(snapshot)
		}
		q.known[n] = sum
	}
	return q.known[n]
}

// check drains a spool in which at least the first n snapshots were once, and finds that the counts of all are there.
func (q *sequence) check(s *Spool, n int) error {
	if damaged := testutil.ToFloat64(s.metrics.corrupt.WithLabelValues(kindRecord)); damaged != 0 {
		return fmt.Errorf("%v records counted as damaged", damaged)
	}
	r, err := s.Reader("check")
	if err != nil {
		return err
	}
	got, last := totals{}, 0
	for {
		snapshot, _, ok, err := r.TryNext()
		if err != nil {
			return err
		}
		if !ok {
			break
		}
		i := slices.IndexFunc(q.snapshots, func(known *latency.Snapshot) bool { return known.Taken == snapshot.Taken }) + 1
		if i <= last {
			return fmt.Errorf("snapshot %d after %d", i, last)
		}
		got.add(snapshot)
		last = i
	}
	if last < n {
		return fmt.Errorf("snapshot %d is the last, %d were appended", last, n)
	}
	for line, want := range q.upTo(last) {
		if have := got[line]; have == nil || *have != *want {
			return fmt.Errorf("%s up to snapshot %d: %v, want %v", line, last, have, want)
		}
	}
	return nil
}

// run appends all snapshots, and returns how many are on disk for certain.
func (q *sequence) run(o Options, d *memoryDisk) (durable int) {
	s, err := open(o, d, nil, nil)
	if err != nil {
		return 0
	}
	defer s.Close()
	for i, snapshot := range q.snapshots {
		if s.Append(snapshot) == nil && s.status().memory == 0 {
			durable = i + 1
		}
	}
	return durable
}

// The power goes at every single step while the spool is thinned.
func TestPowerCutWhileThinning(t *testing.T) {
	t.Parallel()
	o, q := thinOptions(), newSequence(420, 100)
	whole, first := newMemoryDisk(), 0
	whole.fault = func(step int, operation, path string) fault {
		if operation == "create" && first == 0 && step > 20 && strings.HasPrefix(path, segmentName(1)) {
			first = step
		}
		return fault{}
	}
	if n := q.run(o, whole); n != len(q.snapshots) || first == 0 {
		t.Fatalf("%d of %d snapshots, first rewriting at step %d", n, len(q.snapshots), first)
	}
	stride := 3
	if testing.Short() {
		stride = 61
	}
	for step := first - 10; step <= whole.steps+1; step += stride {
		d := newMemoryDisk()
		d.fault = cutAt(step)
		durable := q.run(o, d)
		for seed := range 3 {
			rng := rand.New(rand.NewPCG(uint64(step), uint64(seed)))
			if seed == 0 {
				rng = nil
			}
			after := d.powerCut(rng)
			if seed == 2 {
				// Once more while it thins further, where it is.
				after.fault = cutAt(1 + step%23)
				q.goOn(o, after, durable)
				after = after.powerCut(nil)
			}
			s, err := open(o, after, nil, nil)
			if err == nil {
				err = errors.Join(q.check(s, durable), s.Close())
			}
			if err != nil {
				t.Fatalf("power cut at step %d, seed %d, %d on disk: %v", step, seed, durable, err)
			}
		}
	}
}

// goOn appends what comes behind the last snapshot in a spool.
func (q *sequence) goOn(o Options, d *memoryDisk, from int) {
	s, err := open(o, d, nil, nil)
	if err != nil {
		return
	}
	defer s.Close()
	for g := range s.all() {
		newest := g.newest()
		from = max(from, slices.IndexFunc(q.snapshots, func(known *latency.Snapshot) bool { return known.Taken == newest })+1)
	}
	for _, snapshot := range q.snapshots[from:] {
		_ = s.Append(snapshot)
	}
}

// Every step fails once while the spool is thinned: nothing is lost, and the readers of the process see nothing of it.
func TestFaultsWhileThinning(t *testing.T) {
	t.Parallel()
	o, q := thinOptions(), newSequence(420, 100)
	seeds := 40
	if testing.Short() {
		seeds = 12
	}
	for seed := range seeds {
		reason := []error{syscall.EIO, syscall.ENOSPC}[seed%2]
		rng := rand.New(rand.NewPCG(5, uint64(seed)))
		d := newMemoryDisk()
		d.fault = func(int, string, string) fault {
			if rng.IntN(200*seeds) < 40*seed {
				return fault{err: reason, kept: rng.IntN(1001)}
			}
			return fault{}
		}
		s := openOn(t, d, o)
		for _, snapshot := range q.snapshots {
			if err := s.Append(snapshot); err != nil {
				t.Fatal(err)
			}
		}
		if err := q.check(s, len(q.snapshots)); err != nil {
			t.Errorf("%v, seed %d: %v", reason, seed, err)
		}
		d.fault = nil
		if err := s.Close(); err != nil {
			t.Errorf("%v, seed %d: %v", reason, seed, err)
		}
		s = openOn(t, d.powerCut(nil), o)
		if err := q.check(s, len(q.snapshots)); err != nil {
			t.Errorf("%v, seed %d, after a power cut: %v", reason, seed, err)
		}
	}
}

// Readers and commits go on while segments are rewritten under them.
func TestReadersWhileThinning(t *testing.T) {
	t.Parallel()
	o, q := thinOptions(), newSequence(3000, 100)
	s := openOn(t, newMemoryDisk(), o)
	slow := readerOf(t, s, "slow")
	var group sync.WaitGroup
	appended := make(chan struct{})
	group.Go(func() {
		last, p := 0, Position(0)
		for done := false; !done; {
			select {
			case <-appended:
				done = true
			default:
			}
			for {
				snapshot, at, ok, err := slow.TryNext()
				if err != nil {
					t.Error(err)
					return
				}
				if !ok {
					break
				}
				i := int(at)
				if i <= last || snapshot.Taken != q.snapshots[i-1].Taken {
					t.Errorf("snapshot %v at position %d, behind %d", snapshot.Taken, at, last)
				}
				last, p = i, at
				if i%50 == 0 {
					slow.Rewind()
					break
				}
			}
			if last%3 == 0 {
				if err := slow.Commit(p/2, nil); err != nil {
					t.Error(err)
				}
			}
			last = 0
			slow.Rewind()
		}
	})
	for _, snapshot := range q.snapshots {
		if err := s.Append(snapshot); err != nil {
			t.Fatal(err)
		}
	}
	close(appended)
	group.Wait()
	for _, kind := range []string{kindRecord, kindSegment} {
		if n := testutil.ToFloat64(s.metrics.corrupt.WithLabelValues(kind)); n != 0 {
			t.Errorf("%v times damage of kind %s", n, kind)
		}
	}
	if n := testutil.ToFloat64(s.metrics.dropped.WithLabelValues(reasonMissing, "false")); n != 0 {
		t.Errorf("%v snapshots counted as missing", n)
	}
	if testutil.ToFloat64(s.metrics.thinned) == 0 {
		t.Error("nothing was thinned")
	}
}

// What every reader has delivered goes before anything is thinned.
func TestDeliveredGoesFirst(t *testing.T) {
	t.Parallel()
	s := openOn(t, newMemoryDisk(), thinOptions())
	r := readerOf(t, s, "r")
	for i := 1; i <= 600; i++ {
		appendAll(t, s, i, i)
		if i > 150 {
			_, p, ok, err := r.TryNext()
			if err != nil || !ok {
				t.Fatal(ok, err)
			}
			if err := r.Commit(p, nil); err != nil {
				t.Fatal(err)
			}
		}
	}
	if n := testutil.ToFloat64(s.metrics.thinned); n != 0 {
		t.Errorf("%v snapshots thinned although there was room", n)
	}
	numbers, _ := drain(t, r)
	wantNumbers(t, "rest", numbers, upTo(451, 600))
}

// A segment in which something is damaged is not rewritten: what is left of it may be read by other means.
func TestDamagedSegmentIsNotRewritten(t *testing.T) {
	t.Parallel()
	l := damageable(t)
	l.flip(t, 1, 1, payloadAt)
	lost := l.numbers(1)[1]
	o := thinOptions()
	s := openOn(t, l.disk, o)
	file := l.file(t, 1)
	appendAll(t, s, held+1, 600)
	if l.file(t, 1) != file {
		t.Error("the damaged segment was written again")
	}
	if l.file(t, 0) == nil || testutil.ToFloat64(s.metrics.thinned) == 0 {
		t.Error("nothing was thinned")
	}
	numbers, _ := drain(t, readerOf(t, s, "r"))
	for _, i := range l.numbers(1) {
		if slices.Contains(numbers, i) == (i == lost) {
			t.Errorf("snapshot %d of the damaged segment: %v", i, numbers)
		}
	}
}

// Many small segments become few.
func TestSmallSegmentsAreMerged(t *testing.T) {
	t.Parallel()
	o := thinOptions()
	o.MaxBytes = 256 << 10
	d := newMemoryDisk()
	for i := 1; i <= 300; i++ {
		s := openOn(t, d, o)
		s.leave()
		if err := s.Append(spooltest.Snapshot(i)); err != nil {
			t.Fatal(err)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		if n := countFiles(d, segmentSuffix); n > s.maxSegments()+1 {
			t.Fatalf("%d segments after %d snapshots", n, i)
		}
	}
	numbers, _ := drain(t, readerOf(t, openOn(t, d, o), "r"))
	wantNumbers(t, "all", numbers, upTo(1, 300))
}

// A reader that knows where a snapshot was when its segment is replaced looks for it again, and counts nothing as damage.
func TestPlaceOfReplacedSegment(t *testing.T) {
	t.Parallel()
	s := openOn(t, newMemoryDisk(), thinOptions())
	appendAll(t, s, 1, 150)
	g, e, _ := s.following(20)
	open, fresh := fetcher{spool: s}, fetcher{spool: s}
	if _, err := open.snapshot(g, e); err != nil {
		t.Fatal(err)
	}
	appendAll(t, s, 151, 1000)
	if got, err := open.snapshot(g, e); err != nil || spooltest.Number(got.Taken) != int(e.position) {
		t.Errorf("file that was open gives %v, %v", got, err)
	}
	if _, err := fresh.snapshot(g, e); !errors.Is(err, errMoved) {
		t.Errorf("file that was not open gives %v, want errMoved", err)
	}
	s.damaged(g, e, &CorruptError{})
	s.missing(g)
	if n := testutil.ToFloat64(s.metrics.corrupt.WithLabelValues(kindRecord)); n != 0 {
		t.Errorf("%v records counted as damaged", n)
	}
	if n := testutil.ToFloat64(s.metrics.dropped.WithLabelValues(reasonMissing, "false")); n != 0 {
		t.Errorf("%v snapshots counted as missing", n)
	}
}
