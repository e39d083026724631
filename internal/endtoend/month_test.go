package endtoend

import (
	"fmt"
	"math"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/alecthomas/units"
	"github.com/prometheus/common/model"

	"github.com/latpush/latpush/internal/endtoend/rig"
	"github.com/latpush/latpush/internal/latency"
	"github.com/latpush/latpush/internal/receiver"
	"github.com/latpush/latpush/internal/receivers"
	"github.com/latpush/latpush/internal/spool"
)

// offline is a time without a receiver, after which everything is delivered.
type offline struct {
	ticks    int
	sets     int
	size     units.Base2Bytes // of the spool
	reboots  int              // evenly spread, each with ten minutes off
	resets   int              // of single label sets, between them
	receiver string           // keys of remote_write
}

const (
	interval = 15 * time.Second
	off      = 10 * time.Minute
)

// span is from the first tick to the last.
func (o offline) span() time.Duration {
	return time.Duration(o.ticks-1)*interval + time.Duration(o.reboots)*off
}

// record is what a host counted while it was offline.
type record struct {
	host   *rig.Host
	counts map[int64][]uint64 // of each label set, by the timestamp of the tick in Unix milliseconds
	first  []latency.Series   // of each label set at the first tick
}

// count lets a host tick all the time into a spool and closes it.
func (o offline) count(t *testing.T, options spool.Options) *record {
	t.Helper()
	s, err := spool.Open(options, warnings(t.Output()), nil)
	if err != nil {
		t.Fatal(err)
	}
	began := time.Now().Add(-o.span() - time.Minute).Truncate(time.Millisecond)
	host := rig.NewHost(rig.HostOptions{Seed: 11, Sets: o.sets, Interval: interval, Began: began})
	r := &record{host: host, counts: make(map[int64][]uint64, o.ticks)}
	reboot, reset := every(o.ticks, o.reboots), every(o.ticks, o.resets)
	for tick := 1; tick <= o.ticks; tick++ {
		if tick%reboot == reboot/2 {
			r.host.Reboot(off)
		}
		if tick%reset == reset/3 {
			r.host.Reset(tick / reset % o.sets)
		}
		snapshot := r.host.Tick()
		if err := s.Append(snapshot); err != nil {
			t.Fatal(err)
		}
		series := rig.Histograms(snapshot).Series
		if tick == 1 {
			r.first = slices.Clone(series)
		}
		counts := make([]uint64, len(series))
		for i := range series {
			counts[i] = series[i].Count()
		}
		r.counts[snapshot.Taken.Wall.UnixMilli()] = counts
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	return r
}

// every is the number of ticks between two of n events.
func every(ticks, n int) int {
	if n == 0 {
		return 2 * ticks
	}
	return ticks / n
}

// deliver sends what is in the spool and stops. The series go on, as those of a host that is only cut off again.
func (o offline) deliver(t *testing.T, s *server, options spool.Options, host *rig.Host) {
	t.Helper()
	line, err := rig.OpenLine(rig.LineOptions{
		Spool: options, Receiver: fmt.Sprintf("{url: %s, stale_markers: false, %s}", s.writeURL(), o.receiver), Interval: interval, Clock: host.Clock, Log: warnings(t.Output()),
	})
	if err != nil {
		t.Fatal(err)
	}
	begun := time.Now()
	if drained, err := line.Drain(3 * time.Minute); !drained || err != nil {
		t.Fatalf("delivered: %v, %v", drained, err)
	}
	rejected, err := line.Metric("latpush_remote_samples_rejected_total")
	if err != nil || rejected != 0 {
		t.Errorf("%v samples were refused (%v)", rejected, err)
	}
	bytes, err := line.Metric("latpush_remote_network_bytes_total")
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("delivered in %v, %.1f MB", time.Since(begun).Round(time.Millisecond), bytes/1e6)
}

// increase is what a series has grown by in all, from zero on, resets counted as Prometheus counts them.
func increase(samples []model.SamplePair) float64 {
	total, last := 0.0, 0.0
	for _, sample := range samples {
		if v := float64(sample.Value); v >= last {
			total += v - last
		} else {
			total += v
		}
		last = float64(sample.Value)
	}
	return total
}

// checkTotals compares every line of every label set, bucket by bucket, with what the host counted in all its lives.
func (o offline) checkTotals(t *testing.T, s *server, r *record) {
	t.Helper()
	bounds := rig.Powers(27)
	span := o.span() + time.Hour
	for set := range o.sets {
		total := r.host.Total(set)
		cumulative := uint64(0)
		check := func(line, more string, want float64, exact bool) {
			t.Helper()
			selector := fmt.Sprintf("%s_%s{operation=%q%s}", rig.Latency, line, rig.Operation(set), more)
			got := increase(s.raw(selector, span))
			if exact && got != want || math.Abs(got-want) > 1e-9*want {
				t.Errorf("%s has grown by %v, want %v", selector, got, want)
			}
		}
		for i, bound := range bounds {
			cumulative += total.Counts[i]
			check("bucket", fmt.Sprintf(",le=%q", latency.LE(bound)), float64(cumulative), true)
		}
		check("count", "", float64(total.Count()), true)
		check("sum", "", latency.Seconds(total.Sum), false)
	}
}

// checkIncrease asks PromQL itself for the growth over the whole time: exactly as it is between the samples, and as dashboards ask for it, which
// estimates what is before the first sample and behind the last one.
func (o offline) checkIncrease(t *testing.T, s *server, r *record) {
	t.Helper()
	at := s.at(r.host.Last().Wall)
	for set := range o.sets {
		want := float64(r.host.Total(set).Count() - r.first[set].Count())
		selector := fmt.Sprintf("%s_count{operation=%q}[%ds]", rig.Latency, rig.Operation(set), int((o.span() + interval).Seconds()))
		at.expect("increase("+selector+" anchored)", want)
		got, err := at.value("increase(" + selector + ")")
		if err != nil || math.Abs(got-want) > 1e-3*want {
			t.Errorf("increase(%s) is %v (%v), want %v within a thousandth", selector, got, err, want)
		}
	}
}

// checkTicks demands that each sample is one that was taken, returns the times of those that arrived, oldest first, and demands the newest.
func (o offline) checkTicks(t *testing.T, s *server, r *record) (arrived []time.Time) {
	t.Helper()
	for set := range o.sets {
		samples := s.raw(fmt.Sprintf("%s_count{operation=%q}", rig.Latency, rig.Operation(set)), o.span()+time.Hour)
		arrived = arrived[:0]
		for _, sample := range samples {
			counts, taken := r.counts[int64(sample.Timestamp)]
			if !taken || float64(sample.Value) != float64(counts[set]) {
				t.Fatalf("label set %d has %v at %v, but the ticks had %v (%t)", set, sample.Value, sample.Timestamp.Time(), counts, taken)
			}
			arrived = append(arrived, sample.Timestamp.Time())
		}
		if last := arrived[len(arrived)-1]; !last.Equal(r.host.Last().Wall) {
			t.Errorf("the last sample of label set %d is of %v, want %v", set, last, r.host.Last().Wall)
		}
	}
	return arrived
}

// A host that ticks for a month without a receiver, into a spool of a few MiB, with reboots and resets, delivers every count in the end: the older, the
// coarser in time, and nothing is cut off.
func TestMonthOffline(t *testing.T) {
	o := offline{ticks: 172_800, sets: 8, size: 4 * units.MiB, reboots: 9, resets: 40}
	if testing.Short() {
		o = offline{ticks: 17_280, sets: 3, size: 512 * units.KiB, reboots: 3, resets: 6}
	}
	t.Parallel()
	options := spool.Options{Directory: filepath.Join(t.TempDir(), "spool"), MaxBytes: o.size, MaxAge: model.Duration(40 * 24 * time.Hour), Fsync: spool.FsyncNever}
	begun := time.Now()
	r := o.count(t, options)
	t.Logf("%d ticks counted in %v", o.ticks, time.Since(begun).Round(time.Millisecond))
	window := 40 * 24 * time.Hour
	var s *server
	if testing.Short() {
		s = embeddedWith(t, receiver.Options{OutOfOrderWindow: window, Retention: -1})
	} else {
		s = real(t, receivers.Prometheus, receivers.Options{OutOfOrderWindow: window})
	}
	o.deliver(t, s, options, r.host)
	o.checkTotals(t, s, r)
	o.checkIncrease(t, s, r)
	o.checkCoarseness(t, o.checkTicks(t, s, r))
}

// checkCoarseness demands that the distance of the samples grows with their age, and never by much more than the bound makes necessary.
func (o offline) checkCoarseness(t *testing.T, arrived []time.Time) {
	t.Helper()
	const parts = 6
	kept := make([]int, parts) // samples in each part of the time, oldest first
	longest := make([]time.Duration, parts)
	began := arrived[0]
	span := arrived[len(arrived)-1].Sub(began)
	for i, at := range arrived {
		part := min(parts-1, int(parts*at.Sub(began)/span))
		kept[part]++
		if i > 0 {
			longest[part] = max(longest[part], at.Sub(arrived[i-1]))
		}
	}
	t.Logf("%d of %d ticks arrived; in each sixth of the time, oldest first: %v, longest distances %v", len(arrived), o.ticks, kept, longest)
	if gap := began.Sub(arrived[len(arrived)-1].Add(-o.span())); gap > 6*time.Hour {
		t.Errorf("the first %v are missing", gap)
	}
	for part := 1; part < parts; part++ {
		// Each thinning halves, and what was just thinned may for a while be one step coarser than what is older.
		if kept[part] < kept[part-1]/2 || part >= 2 && kept[part] < kept[part-2] {
			t.Errorf("there are fewer samples of part %d than of the older part %d: %v", part, part-1, kept)
		}
	}
	if kept[0] < 10 || longest[0] > span/parts/4 {
		t.Errorf("the oldest part has %d samples with holes of %v", kept[0], longest[0])
	}
	if last := arrived[len(arrived)-1]; last.Sub(arrived[len(arrived)-20]) != 19*interval {
		t.Errorf("the newest ticks are thinned: %v", arrived[len(arrived)-20:])
	}
}

// What was counted while the receiver was away for a day is delivered tick by tick.
func TestDayOffline(t *testing.T) {
	if testing.Short() {
		t.Skip("builds Prometheus")
	}
	t.Parallel()
	for name, o := range map[string]offline{
		"1.0 classic": {ticks: 5760, sets: 20, size: 64 * units.MiB, reboots: 2, resets: 5},
		"2.0 classic": {ticks: 5760, sets: 20, size: 64 * units.MiB, reboots: 2, resets: 5, receiver: "protobuf_message: io.prometheus.write.v2.Request"},
	} {
		t.Run(name, func(t *testing.T) {
			options := spool.Options{Directory: filepath.Join(t.TempDir(), "spool"), MaxBytes: o.size, Fsync: spool.FsyncNever}
			r := o.count(t, options)
			s := real(t, receivers.Prometheus, receivers.Options{OutOfOrderWindow: 48 * time.Hour})
			o.deliver(t, s, options, r.host)
			o.checkTotals(t, s, r)
			o.checkIncrease(t, s, r)
			if arrived := o.checkTicks(t, s, r); len(arrived) != o.ticks {
				t.Errorf("%d ticks arrived, want %d", len(arrived), o.ticks)
			}
		})
	}
}
