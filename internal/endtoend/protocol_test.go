package endtoend

import (
	"fmt"
	"math"
	"path/filepath"
	"testing"
	"time"

	"github.com/prometheus/common/model"

	"github.com/latpush/latpush/internal/endtoend/rig"
	"github.com/latpush/latpush/internal/latency"
	"github.com/latpush/latpush/internal/promwire"
	"github.com/latpush/latpush/internal/receivers"
	"github.com/latpush/latpush/internal/spool"
)

// way is one of the ways to send a histogram.
type way struct {
	name       string
	protocol   promwire.Protocol
	histograms promwire.Histogram
	native     bool // what the receiver gets is native histograms
}

// ways are those that the real Prometheus takes.
func ways() []way {
	return []way{
		{"1.0 classic", promwire.V1, promwire.Classic, false},
		{"1.0 custom", promwire.V1, promwire.Custom, false}, // which 1.0 has no field for
		{"1.0 exponential", promwire.V1, promwire.Exponential, true},
		{"2.0 classic", promwire.V2, promwire.Classic, false},
		{"2.0 custom", promwire.V2, promwire.Custom, true},
		{"2.0 exponential", promwire.V2, promwire.Exponential, true},
	}
}

// bounds are those that a source counts with when its histograms are sent this way.
func (w way) bounds() []uint64 {
	if w.histograms != promwire.Exponential {
		return rig.Powers(27)
	}
	const schema, first, buckets = 2, -80, 108 // from 1 us to 2 min
	bounds := make([]uint64, buckets)
	for i := range bounds {
		bounds[i] = latency.ExponentialBound(schema, first+int32(i))
	}
	return bounds
}

// features are the flags under which Prometheus keeps and shows what remote write 2.0 says beside the values.
func features() []string {
	return []string{"st-storage", "use-start-timestamps", "promql-experimental-functions", "type-and-unit-labels"}
}

// What the real Prometheus has stored is what was counted, bucket by bucket at every tick, whatever way it was sent; the quantiles that it computes are
// those of the counts, its increase() over resets and reboots is the number of events, and a clean stop ends the series.
func TestPrometheusStoresWhatWasCounted(t *testing.T) {
	if testing.Short() {
		t.Skip("builds Prometheus")
	}
	t.Parallel()
	s := real(t, receivers.Prometheus, receivers.Options{Features: features()})
	for _, w := range ways() {
		t.Run(w.name, func(t *testing.T) {
			t.Parallel()
			run := newRun(t, newServer(t, s.url), w)
			run.waitDelivered()
			run.checkStored()
			run.checkQuantiles()
			run.checkIncrease()
			if w.protocol == promwire.V2 {
				run.checkDescribed()
			}
			run.checkStop()
		})
	}
}

// run is a host whose snapshots go one way to a receiver.
type run struct {
	t         *testing.T
	s         *server
	way       way
	host      *rig.Host
	line      *rig.Line
	snapshots []*latency.Snapshot
}

const (
	runTicks  = 40
	runReset  = 12 // tick before which the second label set begins again
	runReboot = 25 // tick before which the host boots again
)

// newRun lets a host tick, with a reset and a reboot on the way, and sends what it counted.
func newRun(t *testing.T, s *server, w way) *run {
	t.Helper()
	r := &run{t: t, s: s, way: w}
	r.host = rig.NewHost(rig.HostOptions{Seed: 5, Sets: 3, Bounds: w.bounds(), Began: time.Now().Add(-15 * time.Minute).Truncate(time.Millisecond)})
	var err error
	r.line, err = rig.OpenLine(rig.LineOptions{
		Spool:    spool.Options{Directory: filepath.Join(t.TempDir(), "spool")},
		Receiver: fmt.Sprintf("{url: %s, protobuf_message: %s}", s.writeURL(), w.protocol),
		Encoder: promwire.Options{
			Labels: []promwire.Label{{Name: "way", Value: w.name}}, Histograms: func(string) promwire.Histogram { return w.histograms },
		},
		Interval: interval, Log: warnings(t.Output()), Clock: r.host.Clock,
	})
	if err != nil {
		t.Fatal(err)
	}
	for tick := range runTicks {
		switch tick {
		case runReset:
			r.host.Reset(1)
		case runReboot:
			r.host.Reboot(time.Minute)
		}
		snapshot := r.host.Tick()
		r.snapshots = append(r.snapshots, snapshot)
		if err := r.line.Spool.Append(snapshot); err != nil {
			t.Fatal(err)
		}
	}
	return r
}

// labels selects the series of a label set of this run.
func (r *run) labels(set int, more string) string {
	return fmt.Sprintf(`{way=%q,operation=%q%s}`, r.way.name, rig.Operation(set), more)
}

func (r *run) last() *latency.Snapshot { return r.snapshots[len(r.snapshots)-1] }

func (r *run) waitDelivered() {
	r.t.Helper()
	r.s.at(r.last().Taken.Wall).expect(fmt.Sprintf(`%s{way=%q}`, rig.Ticks, r.way.name), runTicks)
}

// histograms returns the series of the histogram in each snapshot.
func (r *run) histograms(set int) []*latency.Series {
	var all []*latency.Series
	for _, snapshot := range r.snapshots {
		all = append(all, &rig.Histograms(snapshot).Series[set])
	}
	return all
}

// checkStored compares every sample of every line, or every bucket of every native histogram, with the snapshot of its timestamp.
func (r *run) checkStored() {
	r.t.Helper()
	for set := range 3 {
		counted := r.histograms(set)
		if r.way.native {
			r.checkNative(set, counted)
			continue
		}
		bounds := r.way.bounds()
		for i := range len(bounds) + 1 {
			le := "+Inf"
			if i < len(bounds) {
				le = latency.LE(bounds[i])
			}
			r.checkLine(rig.Latency+"_bucket"+r.labels(set, fmt.Sprintf(`,le=%q`, le)), counted, func(s *latency.Series) float64 {
				cumulative := uint64(0)
				for _, count := range s.Counts[:i+1] {
					cumulative += count
				}
				return float64(cumulative)
			})
		}
		r.checkLine(rig.Latency+"_count"+r.labels(set, ""), counted, func(s *latency.Series) float64 { return float64(s.Count()) })
		r.checkLine(rig.Latency+"_sum"+r.labels(set, ""), counted, func(s *latency.Series) float64 { return latency.Seconds(s.Sum) })
	}
}

func (r *run) checkLine(selector string, counted []*latency.Series, want func(*latency.Series) float64) {
	r.t.Helper()
	samples := r.s.raw(selector, time.Hour)
	if len(samples) != len(counted) {
		r.t.Fatalf("%s: %d samples, want %d", selector, len(samples), len(counted))
	}
	for i, sample := range samples {
		if at := r.snapshots[i].Taken.Wall; !sample.Timestamp.Time().Equal(at) || float64(sample.Value) != want(counted[i]) {
			r.t.Errorf("%s: sample %d is %v at %v, want %v at %v", selector, i, sample.Value, sample.Timestamp.Time(), want(counted[i]), at)
		}
	}
}

func (r *run) checkNative(set int, counted []*latency.Series) {
	r.t.Helper()
	selector := rig.Latency + r.labels(set, "")
	stored := r.s.stream(selector, time.Hour).Histograms
	if len(stored) != len(counted) {
		r.t.Fatalf("%s: %d histograms, want %d", selector, len(stored), len(counted))
	}
	exponential := r.way.histograms == promwire.Exponential
	for i, h := range stored {
		s, at := counted[i], r.snapshots[i].Taken.Wall
		if !h.Timestamp.Time().Equal(at) || float64(h.Histogram.Count) != float64(s.Count()) || float64(h.Histogram.Sum) != latency.Seconds(s.Sum) {
			r.t.Errorf("%s: histogram %d has count %v and sum %v at %v, want %d and %v at %v",
				selector, i, h.Histogram.Count, h.Histogram.Sum, h.Timestamp.Time(), s.Count(), latency.Seconds(s.Sum), at)
		}
		r.checkBuckets(fmt.Sprintf("%s: histogram %d", selector, i), h.Histogram.Buckets, bucketsOf(r.way.bounds(), s.Counts, exponential))
	}
}

// checkBuckets compares the buckets that are not empty.
func (r *run) checkBuckets(what string, stored model.HistogramBuckets, counted []bucket) {
	r.t.Helper()
	for _, want := range counted {
		if want.count == 0 {
			continue
		}
		if len(stored) == 0 {
			r.t.Errorf("%s: no bucket with %d up to %v", what, want.count, want.upper)
			return
		}
		got := stored[0]
		stored = stored[1:]
		if float64(got.Count) != float64(want.count) {
			r.t.Errorf("%s: %v up to %v, want %d up to %v", what, got.Count, got.Upper, want.count, want.upper)
		}
		if upper := float64(got.Upper); !math.IsInf(want.upper, 1) && math.Abs(upper-want.upper) > 1e-9 {
			r.t.Errorf("%s: bucket up to %v, want %v", what, upper, want.upper) // a bound between two nanoseconds is theirs all the same
		}
	}
	if len(stored) != 0 {
		r.t.Errorf("%s: buckets beyond what was counted: %v", what, stored)
	}
}

func (r *run) checkQuantiles() {
	r.t.Helper()
	name := rig.Latency
	if !r.way.native {
		name += "_bucket"
	}
	for _, tick := range []int{0, runReset, runReboot - 1, runTicks - 1} {
		at := r.s.at(r.snapshots[tick].Taken.Wall)
		for set := range 3 {
			counts := r.histograms(set)[tick].Counts
			for _, q := range []float64{0.001, 0.01, 0.25, 0.5, 0.9, 0.99, 0.999, 1} {
				query := fmt.Sprintf("histogram_quantile(%v, %s)", q, name+r.labels(set, ""))
				got, err := at.value(query)
				if err != nil {
					r.t.Fatal(err)
				}
				if want := quantile(q, bucketsOf(r.way.bounds(), counts, r.way.histograms == promwire.Exponential)); !closeTo(got, want) {
					r.t.Errorf("tick %d: %s is %v, want %v by the counts %v", tick, query, got, want, counts)
				}
			}
		}
	}
}

// closeTo allows for bounds that Prometheus has between two nanoseconds, of which the kernel's thresholds are the lower.
func closeTo(got, want float64) bool { return near(got, want) || math.Abs(got-want) <= 1e-3*want }

// checkIncrease demands the number of events over the whole run. What the first sample has already is in it
// only with start timestamps, and then only for lines: for native histograms Prometheus does not yet use them with this selector.
func (r *run) checkIncrease() {
	r.t.Helper()
	at := r.s.at(r.last().Taken.Wall)
	for set := range 3 {
		want := r.host.Total(set).Count()
		if r.way.protocol == promwire.V1 || r.way.native {
			want -= r.histograms(set)[0].Count()
		}
		query := fmt.Sprintf("increase(%s_count%s[30m] anchored)", rig.Latency, r.labels(set, ""))
		if r.way.native {
			query = fmt.Sprintf("histogram_count(increase(%s%s[30m] anchored))", rig.Latency, r.labels(set, ""))
		}
		at.expect(query, float64(want))
	}
}

// checkDescribed demands type and unit, and the start timestamps, of which the receiver computes when counting began.
func (r *run) checkDescribed() {
	r.t.Helper()
	name := rig.Latency
	if !r.way.native {
		name += "_count"
	}
	for tick, snapshot := range r.snapshots {
		at := r.s.at(snapshot.Taken.Wall)
		at.expect(fmt.Sprintf(`count({__name__=%q,__type__="histogram",__unit__="seconds",way=%q})`, name, r.way.name), 3)
		for set := range 3 {
			query := fmt.Sprintf("start_timestamp(%s%s)", name, r.labels(set, ""))
			got, err := at.value(query)
			if err != nil {
				r.t.Fatal(err)
			}
			began := snapshot.Taken.Wall.Add(r.histograms(set)[tick].Start - snapshot.Taken.Boottime)
			if math.Abs(got-float64(began.UnixMilli())/1e3) > 0.0005 {
				r.t.Errorf("tick %d: %s is %v, want %v", tick, query, got, began)
			}
		}
	}
}

// checkStop stops cleanly and demands that the series have ended.
func (r *run) checkStop() {
	r.t.Helper()
	now := r.s.at(r.last().Taken.Wall.Add(time.Minute))
	present := fmt.Sprintf(`count({__name__=~%q,way=%q}) > 0`, rig.Latency+".*", r.way.name)
	if _, err := now.value(present); err != nil {
		r.t.Fatalf("a minute after the last tick: %v", err)
	}
	if drained, err := r.line.Drain(limit); !drained || err != nil {
		r.t.Fatalf("drained: %v, %v", drained, err)
	}
	eventually(r.t, limit, func() error {
		left, err := newServer(r.t, r.s.url).query(fmt.Sprintf(`{way=%q}`, r.way.name))
		if err == nil && len(left) > 0 {
			err = fmt.Errorf("%d series have not ended, such as %v", len(left), left[0])
		}
		return err
	})
}
