package spool

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"reflect"
	"slices"
	"testing"

	"github.com/latpush/latpush/internal/spool/spooltest"
)

var errPower = errors.New("power is out")

// cutAt makes every step from one on fail, as for a program that the power cut has stopped.
func cutAt(step int) func(int, string, string) fault {
	return func(n int, _, _ string) fault {
		if n >= step {
			return fault{err: errPower, kept: step * 37 % 1001}
		}
		return fault{}
	}
}

// history is what a program was told by the spool, and so what it may rely on.
type history struct {
	attempted int   // the last snapshot that was given to Append
	appended  []int // Append returned nil, and nothing was left in memory then
	committed int   // Commit returned nil for this one
	offered   int   // was given to Commit last
}

// workload appends, reads and commits, and goes on when the spool returns an error. Failures are remembered with their step.
func workload(o Options, d *memoryDisk) (h history, failures []error) {
	s, err := open(o, d, nil, nil)
	if err != nil {
		return h, []error{err}
	}
	defer s.Close()
	r, err := s.Reader("r")
	if err != nil {
		return h, []error{err}
	}
	for i := 1; i <= 30; i++ {
		h.attempted = i
		if err := s.Append(spooltest.Snapshot(i)); err != nil {
			failures = append(failures, err)
		} else if s.status().memory == 0 {
			h.appended = upTo(1, i)
		}
		if i%4 != 0 || i > 24 {
			continue
		}
		for range 3 {
			snapshot, p, ok, err := r.TryNext()
			if err != nil || !ok {
				break
			}
			h.offered = spooltest.Number(snapshot.Taken)
			if err := r.Commit(p, nil); err == nil {
				h.committed = h.offered
			} else {
				failures = append(failures, err)
			}
		}
	}
	return h, failures
}

// check opens the spool after a crash and compares what is in it with what was promised. Snapshots that were attempted may be there as
// well, but once, in order, and as they were.
func (h history) check(o Options, d *memoryDisk) error {
	s, err := open(o, d, nil, nil)
	if err != nil {
		return err
	}
	defer s.Close()
	r, err := s.Reader("r")
	if err != nil {
		return err
	}
	var found []int
	for {
		snapshot, _, ok, err := r.TryNext()
		if err != nil {
			return err
		}
		if !ok {
			break
		}
		i := spooltest.Number(snapshot.Taken)
		if !reflect.DeepEqual(snapshot, spooltest.Snapshot(i)) || i > h.attempted {
			return fmt.Errorf("snapshot %d was never appended: %+v", i, snapshot)
		}
		found = append(found, i)
	}
	if !slices.IsSorted(found) || len(slices.Compact(slices.Clone(found))) != len(found) {
		return fmt.Errorf("order is %v", found)
	}
	if len(found) > 0 && found[0] <= h.committed {
		return fmt.Errorf("%d is handed out again, %d was committed", found[0], h.committed)
	}
	for _, i := range h.appended {
		if i > h.offered && !slices.Contains(found, i) {
			return fmt.Errorf("snapshot %d is lost, found %v", i, found)
		}
	}
	if len(h.appended) > 0 && h.offered < h.appended[len(h.appended)-1] {
		// Between the last commit that is durable and the last that was tried, the spool may begin anywhere, but not leave gaps.
		for i := 1; i < len(found); i++ {
			if next := slices.IndexFunc(h.appended, func(a int) bool { return a > found[i-1] }); next >= 0 && found[i] > h.appended[next] {
				return fmt.Errorf("gap between %d and %d", found[i-1], found[i])
			}
		}
	}
	if torn := s.status(); torn.bytes < 0 {
		return fmt.Errorf("spool counts %d bytes", torn.bytes)
	}
	return h.checkGoesOn(s, r)
}

// checkGoesOn appends to what was found.
func (h history) checkGoesOn(s *Spool, r *Reader) error {
	for i := 1; i <= 15; i++ {
		want := spooltest.Snapshot(h.attempted + i)
		if err := s.Append(want); err != nil {
			return fmt.Errorf("after the crash: %w", err)
		}
		if got, _, ok, err := r.TryNext(); err != nil || !ok || !reflect.DeepEqual(got, want) {
			return fmt.Errorf("after the crash: got %v, %v, %w", got, ok, err)
		}
	}
	return nil
}

// steps returns how many changes to the disk the workload makes when nothing fails.
func steps(t *testing.T, o Options) int {
	t.Helper()
	d := newMemoryDisk()
	h, failures := workload(o, d)
	if len(failures) > 0 || len(h.appended) != 30 || h.committed == 0 {
		t.Fatalf("workload without faults: %+v, %v", h, failures)
	}
	if d.steps < 150 {
		t.Fatalf("only %d steps, the test would show little", d.steps)
	}
	return d.steps
}

// The power goes at every single step, and of what was not synced nothing, all, or any part survives; it goes once more
// while the spool is brought in order again.
func TestPowerCutAtEveryStep(t *testing.T) {
	t.Parallel()
	const seeds = 8
	o := smallOptions()
	for step := 1; step <= steps(t, o)+1; step++ {
		d := newMemoryDisk()
		d.fault = cutAt(step)
		h, _ := workload(o, d)
		for seed := range seeds {
			rng := rand.New(rand.NewPCG(uint64(step), uint64(seed)))
			if seed == 0 {
				rng = nil // nothing unsynced survives
			}
			h, after := h, d.powerCut(rng)
			if seed > seeds/2 {
				h, after = h.cutAgain(o, after, 1+seed-seeds/2, rng)
			}
			if err := h.check(o, after); err != nil {
				t.Fatalf("power cut at step %d, seed %d: %v\nhistory: %+v", step, seed, err, h)
			}
		}
	}
}

// cutAgain opens the spool after a power cut, appends one more snapshot, and loses power again at a step of that.
func (h history) cutAgain(o Options, d *memoryDisk, step int, rng *rand.Rand) (history, *memoryDisk) {
	d.fault = cutAt(step)
	if s, err := open(o, d, nil, nil); err == nil {
		h.attempted++
		if s.Append(spooltest.Snapshot(h.attempted)) == nil && s.status().memory == 0 {
			h.appended = append(slices.Clone(h.appended), h.attempted)
		}
		_ = s.Close()
	}
	return h, d.powerCut(rng)
}

// SIGKILL at every step, with fsync: never: what write(2) took is there.
func TestKillAtEveryStepWithoutFsync(t *testing.T) {
	t.Parallel()
	o := smallOptions()
	o.Fsync = FsyncNever
	for step := 1; step <= 200; step++ {
		d := newMemoryDisk()
		d.fault = cutAt(step)
		h, _ := workload(o, d)
		d.fault, d.locked = nil, false
		if err := h.check(o, d); err != nil {
			t.Fatalf("killed at step %d: %v\nhistory: %+v", step, err, h)
		}
	}
}

// With fsync: never a power cut may take a lot, but what is left must be true, in order, and open.
func TestPowerCutWithoutFsync(t *testing.T) {
	t.Parallel()
	o := smallOptions()
	o.Fsync = FsyncNever
	for seed := range 200 {
		d := newMemoryDisk()
		h, _ := workload(o, d)
		h.appended, h.committed = nil, 0
		if err := h.check(o, d.powerCut(rand.New(rand.NewPCG(1, uint64(seed))))); err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
	}
}
