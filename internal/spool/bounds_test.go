package spool

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/prometheus/common/model"

	"github.com/latpush/latpush/internal/latency"
	"github.com/latpush/latpush/internal/spool/segment"
	"github.com/latpush/latpush/internal/spool/spooltest"
)

func TestSizeBound(t *testing.T) {
	t.Parallel()
	const count = 1000
	o := Options{Directory: "spool", MaxBytes: 64 << 10, SegmentBytes: 4 << 10}
	d := newMemoryDisk()
	var log bytes.Buffer
	s, err := open(o, d, logTo(&log), nil)
	if err != nil {
		t.Fatal(err)
	}
	r := readerOf(t, s, "r")
	for i := 1; i <= count; i++ {
		appendRebooted(t, s, i, i)
		if used := s.status().bytes; used > int64(o.MaxBytes) || used != sizeOnDisk(t, d) {
			t.Fatalf("after %d snapshots the spool has %d bytes, the files have %d, the bound is %d", i, used, sizeOnDisk(t, d), o.MaxBytes)
		}
	}
	numbers, _ := drain(t, r)
	wantNumbers(t, "what is left", numbers, upTo(numbers[0], count))
	if used := s.status().bytes; used < int64(o.MaxBytes)*8/10 {
		t.Errorf("spool keeps %d bytes only, the bound is %d", used, o.MaxBytes)
	}
	if n := testutil.ToFloat64(s.metrics.dropped.WithLabelValues(reasonSize, "false")); int(n) != numbers[0]-1 {
		t.Errorf("%v snapshots counted as dropped, want %d", n, numbers[0]-1)
	}
	if strings.Count(log.String(), "the oldest snapshots are dropped\" max_size=64KiB undelivered=") != 1 {
		t.Errorf("want one line in the log: %s", &log)
	}
}

// What every reader has delivered is no loss when a bound takes it; the counters tell the two apart.
func TestDroppedSnapshotsByDelivery(t *testing.T) {
	t.Parallel()
	o := smallOptions()
	o.MaxAge = model.Duration(time.Hour)
	s := openOn(t, newMemoryDisk(), o)
	ahead, behind := readerOf(t, s, "ahead"), readerOf(t, s, "behind")
	appendAll(t, s, 1, 5)
	for _, r := range []*Reader{ahead, behind} {
		_, last := drain(t, r)
		if err := r.Commit(last, nil); err != nil {
			t.Fatal(err)
		}
	}
	appendAll(t, s, 6, 400)
	_, last := drain(t, ahead)
	if err := ahead.Commit(last, nil); err != nil {
		t.Fatal(err)
	}
	numbers, _ := drain(t, behind)
	delivered := testutil.ToFloat64(s.metrics.dropped.WithLabelValues(reasonAge, "true"))
	undelivered := testutil.ToFloat64(s.metrics.dropped.WithLabelValues(reasonAge, "false"))
	if delivered != 5 || int(undelivered) != numbers[0]-1-5 {
		t.Errorf("%v delivered and %v undelivered snapshots dropped, want 5 and %d", delivered, undelivered, numbers[0]-1-5)
	}
}

// A reader in the middle of a segment that a bound takes away goes on with the next one.
func TestBoundUnderAReader(t *testing.T) {
	t.Parallel()
	o := smallOptions()
	o.MaxBytes = 64 << 10
	s := openOn(t, newMemoryDisk(), o)
	r := readerOf(t, s, "r")
	appendRebooted(t, s, 1, 10)
	if _, _, ok, err := r.TryNext(); !ok || err != nil {
		t.Fatal(ok, err)
	}
	appendRebooted(t, s, 11, 400)
	numbers, _ := drain(t, r)
	wantNumbers(t, "rest", numbers, upTo(numbers[0], 400))
	if numbers[0] < 20 {
		t.Errorf("reader goes on with %d, in a segment that was dropped", numbers[0])
	}
}

func sizeOnDisk(t *testing.T, d *memoryDisk) (total int64) {
	t.Helper()
	names, _ := d.List("")
	for _, name := range names {
		if strings.HasSuffix(name, segmentSuffix) {
			total += int64(len(d.contents(t, name).seen))
		}
	}
	return total
}

func TestAgeBound(t *testing.T) {
	t.Parallel()
	o := smallOptions()
	o.MaxAge = model.Duration(time.Hour)
	d := newMemoryDisk()
	s := openOn(t, d, o)
	readerOf(t, s, "r")
	appendAll(t, s, 1, 400)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = openOn(t, d, o)
	numbers, _ := drain(t, readerOf(t, s, "r"))
	perHour := int(time.Hour / spooltest.Interval)
	// The oldest segment goes when its newest snapshot is an hour old, so a little more than an hour is left.
	if oldest := numbers[0]; oldest > 400-perHour || oldest < 400-perHour-30 {
		t.Errorf("snapshots from %d of 400 are left, want a little more than the last %d", oldest, perHour)
	}
	if n := testutil.ToFloat64(s.metrics.dropped.WithLabelValues(reasonAge, "false")); n != 0 {
		t.Errorf("open dropped %v snapshots, only appending tells the time", n)
	}
	late := spooltest.Snapshot(401)
	late.Taken.Boottime += 2 * time.Hour
	if err := s.Append(late); err != nil {
		t.Fatal(err)
	}
	if st := s.status(); len(s.segments) != 1 || st.snapshots > 15 {
		t.Errorf("%d segments with %d snapshots after two hours without one, want the active segment alone", len(s.segments), st.snapshots)
	}
}

// moment is when a segment's newest snapshot was taken: in which boot, how long after its start, and at which wall clock.
type moment struct {
	boot byte
	up   time.Duration
	wall string // "2006-01-02 15:04"
}

func (m moment) instant(t *testing.T) latency.Instant {
	t.Helper()
	wall, err := time.Parse("2006-01-02 15:04", m.wall)
	if err != nil {
		t.Fatal(err)
	}
	return latency.Instant{BootID: [16]byte{m.boot}, Boottime: m.up, Wall: wall}
}

// Ages with the clocks that edge hosts really have; the limit is a day.
func TestExpired(t *testing.T) {
	t.Parallel()
	const hour = time.Hour
	tests := map[string]struct {
		segments []moment
		now      moment
		want     int
		unset    int // where the kernel does not say that the clock is right
	}{
		"one boot, good clock": {
			[]moment{{1, 1 * hour, "2026-11-01 01:00"}, {1, 5 * hour, "2026-11-01 05:00"}}, moment{1, 26 * hour, "2026-11-02 02:00"}, 1, 1,
		},
		"clock stepped forward by years within the boot": {
			[]moment{{1, 1 * hour, "1970-01-01 01:00"}, {1, 2 * hour, "2026-11-01 02:00"}}, moment{1, 3 * hour, "2026-11-01 03:00"}, 0, 0,
		},
		"clock stepped back within the boot": {
			[]moment{{1, 1 * hour, "2030-01-01 01:00"}}, moment{1, 27 * hour, "2026-11-02 03:00"}, 1, 1,
		},
		"earlier boot, good clocks": {
			[]moment{{1, 100 * hour, "2026-11-01 00:00"}, {1, 104 * hour, "2026-11-01 04:00"}}, moment{2, 1 * hour, "2026-11-02 01:00"}, 1, 0,
		},
		"earlier boot began in 1970 and was set later": {
			[]moment{{1, 1 * hour, "1970-01-01 01:00"}, {1, 2 * hour, "2026-11-01 02:00"}}, moment{2, 0, "2026-11-01 03:00"}, 0, 0,
		},
		"earlier boot never had a clock": {
			[]moment{{1, 1 * hour, "1970-01-01 01:00"}}, moment{2, 0, "2026-11-01 03:00"}, 0, 0,
		},
		"no clock, and what follows is old": {
			[]moment{{1, 1 * hour, "1970-01-01 01:00"}, {2, 1 * hour, "2026-11-01 00:00"}, {3, 1 * hour, "2026-11-02 00:00"}},
			moment{3, 3 * hour, "2026-11-02 02:00"},
			2, 0,
		},
		"no clock after a boot that had one": {
			[]moment{{1, 1 * hour, "2026-11-01 01:00"}, {2, 1 * hour, "1970-01-01 01:00"}}, moment{3, 0, "2026-11-01 03:00"}, 0, 0,
		},
		"clock that stood at the last shutdown": {
			[]moment{{1, 1 * hour, "2026-11-01 01:00"}, {2, 1 * hour, "2026-10-01 01:00"}}, moment{3, 0, "2026-11-01 03:00"}, 0, 0,
		},
		"no clock now": {
			[]moment{{1, 1 * hour, "2026-11-01 01:00"}}, moment{2, 0, "1970-01-01 00:00"}, 0, 0,
		},
		"all too old": {
			[]moment{{1, 1 * hour, "2026-09-01 01:00"}, {2, 1 * hour, "2026-10-01 01:00"}}, moment{3, 0, "2026-11-01 03:00"}, 2, 0,
		},
		"up for a day since": {
			[]moment{{1, 1 * hour, "2026-11-01 01:00"}, {2, 20 * hour, "2026-11-01 22:00"}}, moment{3, 25 * hour, "2026-11-03 03:00"}, 2, 2,
		},
		"up for a day in three boots": {
			[]moment{{1, 1 * hour, "1970-01-01 01:00"}, {2, 1 * hour, "1970-01-01 01:00"}, {2, 13 * hour, "1970-01-01 13:00"}},
			moment{3, 13 * hour, "1970-01-01 13:00"},
			2, 2,
		},
		"clock years ahead": {
			[]moment{{1, 1 * hour, "2026-11-01 01:00"}}, moment{2, 0, "2036-11-01 03:00"}, 1, 0,
		},
		"nothing readable in the first": {
			[]moment{{}, {1, 1 * hour, "2026-10-01 01:00"}}, moment{3, 0, "2026-11-01 03:00"}, 2, 0,
		},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var segments []*logSegment
			for i, m := range test.segments {
				g := &logSegment{}
				if m != (moment{}) {
					g.add(segment.Location{Sequence: uint64(i + 1)}, m.instant(t))
				}
				segments = append(segments, g)
			}
			for _, synchronised := range []bool{true, false} {
				want := map[bool]int{true: test.want, false: test.unset}[synchronised]
				if got := expired(segments, len(segments), test.now.instant(t), 24*time.Hour, func() bool { return synchronised }); got != want {
					t.Errorf("%d segments expired, want %d; clock synchronised: %v", got, want, synchronised)
				}
			}
		})
	}
}

func TestMetrics(t *testing.T) {
	t.Parallel()
	registry := prometheus.NewPedanticRegistry()
	d := newMemoryDisk()
	s, err := open(smallOptions(), d, nil, registry)
	if err != nil {
		t.Fatal(err)
	}
	a := readerOf(t, s, "a")
	readerOf(t, s, "b")
	appendAll(t, s, 1, 3)
	if err := s.Append(&latency.Snapshot{Families: []latency.Family{{}}}); err == nil {
		t.Fatal("invalid snapshot was taken")
	}
	_, p, _, err := a.TryNext()
	if err != nil {
		t.Fatal(err)
	}
	if err := a.Commit(p, nil); err != nil {
		t.Fatal(err)
	}
	want := `
# HELP latpush_spool_append_errors_total Snapshots that could not be appended.
# TYPE latpush_spool_append_errors_total counter
latpush_spool_append_errors_total 1
# HELP latpush_spool_appended_total Snapshots appended to the spool.
# TYPE latpush_spool_appended_total counter
latpush_spool_appended_total 3
# HELP latpush_spool_corrupt_total Damage found: records skipped, segments and cursors set aside.
# TYPE latpush_spool_corrupt_total counter
latpush_spool_corrupt_total{kind="cursor"} 0
latpush_spool_corrupt_total{kind="record"} 0
latpush_spool_corrupt_total{kind="segment"} 0
# HELP latpush_spool_dropped_total Snapshots removed before their time, by reason and by whether every reader had delivered them.
# TYPE latpush_spool_dropped_total counter
latpush_spool_dropped_total{delivered="false",reason="age"} 0
latpush_spool_dropped_total{delivered="false",reason="memory"} 0
latpush_spool_dropped_total{delivered="false",reason="missing"} 0
latpush_spool_dropped_total{delivered="false",reason="size"} 0
latpush_spool_dropped_total{delivered="true",reason="age"} 0
latpush_spool_dropped_total{delivered="true",reason="memory"} 0
latpush_spool_dropped_total{delivered="true",reason="missing"} 0
latpush_spool_dropped_total{delivered="true",reason="size"} 0
# HELP latpush_spool_oldest_timestamp_seconds Wall clock of the oldest snapshot that some reader has not delivered yet; absent when there is none.
# TYPE latpush_spool_oldest_timestamp_seconds gauge
latpush_spool_oldest_timestamp_seconds 1.793514615e+09
# HELP latpush_spool_pending_snapshots Snapshots that a reader has not delivered yet.
# TYPE latpush_spool_pending_snapshots gauge
latpush_spool_pending_snapshots{reader="a"} 2
latpush_spool_pending_snapshots{reader="b"} 3
# HELP latpush_spool_snapshots Snapshots in the spool, delivered or not.
# TYPE latpush_spool_snapshots gauge
latpush_spool_snapshots 3
`
	if oldest := spooltest.Instant(1).Wall.Unix(); oldest != 1793514615 {
		t.Fatalf("snapshot 1 was taken at %d", oldest)
	}
	if err := testutil.GatherAndCompare(registry, strings.NewReader(want),
		"latpush_spool_append_errors_total", "latpush_spool_appended_total", "latpush_spool_corrupt_total", "latpush_spool_dropped_total",
		"latpush_spool_oldest_timestamp_seconds", "latpush_spool_pending_snapshots", "latpush_spool_snapshots"); err != nil {
		t.Error(err)
	}
	if problems, err := testutil.GatherAndLint(registry); err != nil || len(problems) > 0 {
		t.Errorf("metric names: %v, %v", problems, err)
	}
	bytes, framed := s.status().bytes, testutil.ToFloat64(s.metrics.appendedBytes)
	if bytes != sizeOnDisk(t, d) || int64(framed) != bytes-36 {
		t.Errorf("spool of %d bytes after appending %v", bytes, framed)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if left, err := registry.Gather(); err != nil || len(left) != 0 {
		t.Errorf("a closed spool leaves %d families registered (%v)", len(left), err)
	}
}

// Without anything undelivered there is no oldest timestamp, rather than one at 1970.
func TestNoOldestTimestamp(t *testing.T) {
	t.Parallel()
	s := openOn(t, newMemoryDisk(), smallOptions())
	r := readerOf(t, s, "r")
	appendAll(t, s, 1, 1)
	_, last := drain(t, r)
	if err := r.Commit(last, nil); err != nil {
		t.Fatal(err)
	}
	registry := prometheus.NewPedanticRegistry()
	registry.MustRegister(s.metrics)
	if n, err := testutil.GatherAndCount(registry, "latpush_spool_oldest_timestamp_seconds"); n != 0 || err != nil {
		t.Errorf("%d oldest timestamps (%v), want none", n, err)
	}
}
