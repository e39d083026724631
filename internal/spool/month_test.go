package spool

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"maps"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/alecthomas/units"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/latpush/latpush/internal/latency"
	"github.com/latpush/latpush/internal/spool/spooltest"
)

// host makes the snapshots of a host on which everything happens that ends or resets a series: reboots, map resets, label sets that come and go.
type host struct {
	rng      *rand.Rand
	haste    int // how many times as often as on a real host things happen
	boot     uint32
	boottime time.Duration
	wall     time.Time
	series   map[string]*latency.Series // by label value
	ticks    float64
	started  time.Duration // of the ticks
}

func hostBounds() []uint64 {
	return []uint64{1000, 4000, 16_000, 64_000, 256_000, 1_024_000, 4_096_000}
}

func newHost(seed uint64, haste int) *host {
	h := &host{haste: haste, rng: rand.New(rand.NewPCG(3, seed)), wall: time.Date(2026, time.November, 1, 0, 0, 0, 0, time.UTC)}
	h.reboot()
	return h
}

func (h *host) reboot() {
	h.boot++
	h.boottime, h.ticks, h.series = 20*time.Second, 0, make(map[string]*latency.Series)
	h.started = h.boottime
	for i := range 4 {
		h.begin(fmt.Sprintf("op%d", i))
	}
}

func (h *host) begin(label string) {
	counts := make([]uint64, len(hostBounds())+1)
	h.series[label] = &latency.Series{LabelValues: []string{label}, Start: h.boottime, Counts: counts}
}

// tick lets the host go on for one interval and takes a snapshot. A day has 5,760 ticks.
func (h *host) tick() *latency.Snapshot {
	h.boottime += spooltest.Interval
	h.wall = h.wall.Add(spooltest.Interval)
	h.ticks++
	chance := func(n int) bool { return h.rng.IntN(max(1, n/h.haste)) == 0 }
	switch {
	case chance(3 * 5760):
		h.wall = h.wall.Add(time.Hour)
		h.reboot()
	case chance(2 * 5760):
		for label := range h.series {
			h.begin(label)
		}
	}
	for i := range 4 {
		label := fmt.Sprintf("rare%d", i)
		switch _, there := h.series[label]; {
		case there && chance(1000):
			delete(h.series, label)
		case !there && chance(4000):
			h.begin(label)
		}
	}
	family := latency.Family{Name: "nfs_latency_seconds", Kind: latency.Histogram, Bounds: hostBounds(), LabelNames: []string{"operation"}}
	for _, label := range slices.Sorted(maps.Keys(h.series)) {
		series := h.series[label]
		for range h.rng.IntN(4) {
			bucket := h.rng.IntN(len(series.Counts))
			series.Counts[bucket] += uint64(h.rng.IntN(9))
			series.Sum += uint64(h.rng.IntN(1_000_000))
		}
		same := *series
		same.Counts = slices.Clone(series.Counts)
		family.Series = append(family.Series, same)
	}
	taken := latency.Instant{Boottime: h.boottime, Wall: h.wall}
	binary.LittleEndian.PutUint32(taken.BootID[:], h.boot)
	return &latency.Snapshot{Taken: taken, Families: []latency.Family{
		{Name: "latpush_ticks_total", Kind: latency.Counter, Series: []latency.Series{{Start: h.started, Value: h.ticks}}},
		family,
		{Name: "load", Kind: latency.Gauge, Series: []latency.Series{{Value: h.rng.Float64()}}},
	}}
}

// totals adds up what a receiver sees of each line, as increase() does: a value below the one before it counts from zero.
type totals map[string]*total

type total struct {
	first, last float64
	increase    float64
}

func (t totals) see(line string, value float64) {
	was := t[line]
	if was == nil {
		t[line] = &total{first: value, last: value}
		return
	}
	if value < was.last {
		was.increase += value
	} else {
		was.increase += value - was.last
	}
	was.last = value
}

func (t totals) add(snapshot *latency.Snapshot) {
	for i := range snapshot.Families {
		family := &snapshot.Families[i]
		for j := range family.Series {
			series := &family.Series[j]
			name := family.Name + strings.Join(series.LabelValues, ",")
			switch family.Kind {
			case latency.Counter:
				t.see(name, series.Value)
			case latency.Histogram:
				for b, count := range latency.Cumulative(nil, series.Counts) {
					t.see(fmt.Sprintf("%s le %d", name, b), float64(count))
				}
				t.see(name+" sum", float64(series.Sum))
			}
		}
	}
}

func (t totals) compare(tb testing.TB, full totals) {
	tb.Helper()
	if len(t) != len(full) {
		tb.Errorf("%d lines, want %d", len(t), len(full))
	}
	for line, want := range full {
		if got := t[line]; got == nil || *got != *want {
			tb.Errorf("%s: first, last and increase are %v, want %v", line, got, want)
		}
	}
}

// watchSize makes a disk fail the test when all files together are ever larger than limit, whichever step makes them so, or are more than that many.
func watchSize(t *testing.T, d *memoryDisk, limit, files int) {
	d.fault = func(_ int, operation, _ string) fault {
		if operation == "rename" || operation == "sync" || operation == "create" {
			size := 0
			for _, node := range d.seen {
				size += len(node.seen)
			}
			if size > limit || len(d.seen) > files {
				t.Errorf("%d bytes in %d files, at most %d in %d are allowed", size, len(d.seen), limit, files)
			}
		}
		return fault{}
	}
}

// A host is offline for a month. The spool thins, and nothing that was counted is lost.
func TestMonthOffline(t *testing.T) {
	t.Parallel()
	ticks, size := 172_800, 4<<20
	if testing.Short() {
		ticks, size = 12_000, 384<<10
	}
	o := Options{Directory: "spool", MaxBytes: units.Base2Bytes(size), MaxAge: 1 << 62, Fsync: FsyncNever}
	d := newMemoryDisk()
	watchSize(t, d, size+1024, 2*defaultSegments+12)
	var log bytes.Buffer
	s, err := open(o, d, logTo(&log), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	r := readerOf(t, s, "r")
	h, full := newHost(1, 1), totals{}
	for range ticks {
		snapshot := h.tick()
		full.add(snapshot)
		if err := s.Append(snapshot); err != nil {
			t.Fatal(err)
		}
	}
	written := testutil.ToFloat64(s.metrics.writtenBytes) / testutil.ToFloat64(s.metrics.appendedBytes)
	drained := totals{}
	var moments []latency.Instant
	for snapshot, _, ok, err := r.TryNext(); ok || err != nil; snapshot, _, ok, err = r.TryNext() {
		if err != nil {
			t.Fatal(err)
		}
		drained.add(snapshot)
		moments = append(moments, snapshot.Taken)
	}
	drained.compare(t, full)
	thinned := testutil.ToFloat64(s.metrics.thinned)
	if int(thinned) != ticks-len(moments) {
		t.Errorf("%v snapshots counted as thinned, want %d", thinned, ticks-len(moments))
	}
	if dropped := testutil.CollectAndCount(s.metrics.dropped); dropped != 8 || testutil.ToFloat64(s.metrics.dropped.WithLabelValues(reasonSize, "false")) != 0 {
		t.Error("snapshots were dropped")
	}
	if n := strings.Count(log.String(), "\n"); n != 1 {
		t.Errorf("%d lines in the log, want 1: %s", n, &log)
	}
	if written > 2.2 {
		t.Errorf("%.2f bytes written for each that was appended", written)
	}
	t.Logf("%d of %d snapshots left in %d bytes and %d segments, %.2f bytes written for each that was appended, coarsest spacing %v",
		len(moments), ticks, s.status().bytes, len(s.segments), written, s.status().coarsest)
	checkSpacing(t, moments)
}

// checkSpacing prints the distance of snapshots by age, and checks that it grows with age.
func checkSpacing(t *testing.T, moments []latency.Instant) {
	t.Helper()
	age, gaps := time.Duration(0), map[int][]time.Duration{} // by the logarithm of the age
	for i := len(moments) - 1; i > 0; i-- {
		gap := moments[i].Boottime - moments[i-1].Boottime
		if moments[i].BootID != moments[i-1].BootID {
			continue
		}
		age += gap
		class := int(math.Log2(age.Hours() + 1))
		gaps[class] = append(gaps[class], gap)
	}
	before := spooltest.Interval
	for _, class := range slices.Sorted(maps.Keys(gaps)) {
		all := gaps[class]
		slices.Sort(all)
		median := all[len(all)/2]
		t.Logf("older than %3d h: %5d snapshots, median distance %8v, 90 %% %8v, longest %8v", 1<<class-1, len(all), median, all[len(all)*9/10], all[len(all)-1])
		if median < before/2 {
			t.Errorf("median distance falls from %v to %v with age", before, median)
		}
		before = max(before, median)
	}
	if young := gaps[0]; young[len(young)-1] != spooltest.Interval {
		t.Errorf("the youngest hour has a gap of %v", young[len(young)-1])
	}
	if before < 4*spooltest.Interval {
		t.Errorf("the oldest have a distance of %v, the test shows little", before)
	}
}
