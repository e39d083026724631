package spool

import (
	"testing"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/latpush/latpush/internal/latency"
	"github.com/latpush/latpush/internal/spool/spooltest"
)

// benchmarkSnapshots are successive states of 1,000 label sets of 27 buckets.
func benchmarkSnapshots() []*latency.Snapshot {
	var all []*latency.Snapshot
	for i := range 8 {
		all = append(all, spooltest.Large(1000+i, 1000, 27))
	}
	return all
}

// BenchmarkAppend is one tick on a real disk, fsync off, at the size bound.
func BenchmarkAppend(b *testing.B) {
	s, err := Open(Options{Directory: b.TempDir(), Fsync: FsyncNever}, nil, nil)
	if err != nil {
		b.Fatal(err)
	}
	defer s.Close()
	snapshots := benchmarkSnapshots()
	b.ReportAllocs()
	i := 0
	for b.Loop() {
		if err := s.Append(snapshots[i%len(snapshots)]); err != nil {
			b.Fatal(err)
		}
		i++
	}
	b.ReportMetric(float64(len(s.frame)), "bytes/snapshot")
}

// BenchmarkThin is one tick of a host that has been offline for so long that each appended snapshot pushes others out. It gives what thinning costs
// beside, and how much is written for each byte that is appended.
func BenchmarkThin(b *testing.B) {
	s, err := Open(Options{Directory: b.TempDir(), MaxBytes: 4 << 20, Fsync: FsyncNever}, nil, nil)
	if err != nil {
		b.Fatal(err)
	}
	defer s.Close()
	i := 0
	tick := func() {
		if err := s.Append(spooltest.Large(i, 100, 27)); err != nil {
			b.Fatal(err)
		}
		i++
	}
	for testutil.ToFloat64(s.metrics.thinned) < 1000 {
		tick()
	}
	written, appended := testutil.ToFloat64(s.metrics.writtenBytes), testutil.ToFloat64(s.metrics.appendedBytes)
	b.ReportAllocs()
	for b.Loop() {
		tick()
	}
	written, appended = testutil.ToFloat64(s.metrics.writtenBytes)-written, testutil.ToFloat64(s.metrics.appendedBytes)-appended
	b.ReportMetric(written/appended, "written/appended")
}

// BenchmarkCommit is what it costs to store progress, fsync included, after each tick, and what is written to disk for each byte that is appended when
// everything is delivered at once.
func BenchmarkCommit(b *testing.B) {
	s, err := Open(Options{Directory: b.TempDir()}, nil, nil)
	if err != nil {
		b.Fatal(err)
	}
	defer s.Close()
	r, err := s.Reader("r")
	if err != nil {
		b.Fatal(err)
	}
	snapshots, state, i := benchmarkSnapshots(), make([]byte, 200), 0
	for b.Loop() {
		if err := s.Append(snapshots[i%len(snapshots)]); err != nil {
			b.Fatal(err)
		}
		_, p, _, err := r.TryNext()
		if err != nil {
			b.Fatal(err)
		}
		state[0] = byte(i)
		if err := r.Commit(p, state); err != nil {
			b.Fatal(err)
		}
		i++
	}
	b.ReportMetric(testutil.ToFloat64(s.metrics.writtenBytes)/testutil.ToFloat64(s.metrics.appendedBytes), "written/appended")
}

// BenchmarkRead is what a reader pays for one snapshot of a backlog.
func BenchmarkRead(b *testing.B) {
	s, err := Open(Options{Directory: b.TempDir(), Fsync: FsyncNever}, nil, nil)
	if err != nil {
		b.Fatal(err)
	}
	defer s.Close()
	for _, snapshot := range benchmarkSnapshots() {
		if err := s.Append(snapshot); err != nil {
			b.Fatal(err)
		}
	}
	r, err := s.Reader("r")
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		_, _, ok, err := r.TryNext()
		if err != nil {
			b.Fatal(err)
		}
		if !ok {
			r.Rewind()
		}
	}
}

// A tick must not allocate more the more label sets there are.
func TestAppendAllocations(t *testing.T) {
	o := smallOptions()
	o.Directory, o.MaxBytes, o.SegmentBytes, o.Fsync = t.TempDir(), 64<<20, 16<<20, FsyncNever
	s, err := Open(o, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	for _, sets := range []int{10, 1000} {
		snapshot := spooltest.Large(1, sets, 27)
		if n := testing.AllocsPerRun(50, func() {
			if err := s.Append(snapshot); err != nil {
				t.Fatal(err)
			}
		}); n > 8 {
			t.Errorf("%d label sets: Append allocates %.0f times, want at most 8", sets, n)
		}
	}
}
