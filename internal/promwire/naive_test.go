package promwire_test

import (
	"math"
	"math/rand/v2"
	"slices"
	"sort"
	"strconv"
	"time"

	"github.com/golang/snappy"
	model "github.com/prometheus/prometheus/model/histogram"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/prompb"
	writev2 "github.com/prometheus/prometheus/prompb/io/prometheus/write/v2"

	"github.com/latpush/latpush/internal/latency"
	"github.com/latpush/latpush/internal/promwire"
)

// work gives ticks of 15 s of a host at work: a histogram of 27 buckets in each of the label sets, most of them with a busy range of buckets around a latency
// of their own, counting for hours, and every fifth of them idle. The bounds are powers of two, of a microsecond or, for exponential histograms, of a second.
func work(h promwire.Histogram, sets, ticks int) []*latency.Snapshot {
	random := rand.New(rand.NewPCG(7, 7))
	bounds := exp2(27)
	if h == promwire.Exponential {
		bounds = exponential(0, -20, 27)
	}
	f := latency.Family{
		Name: "syscall_latency_seconds", Help: "How long system calls took, from entry to exit.", Unit: "seconds", Kind: latency.Histogram,
		Bounds: bounds, LabelNames: []string{"cgroup", "syscall"},
	}
	rates := make([]float64, sets)
	for i := range sets {
		rates[i] = math.Exp(random.NormFloat64()*2 + 3) // events in a second
		if i%5 == 4 {
			rates[i] = 0
		}
		f.Series = append(f.Series, latency.Series{
			LabelValues: []string{"system.slice/unit-" + strconv.Itoa(1000+i/10) + ".service", "call_" + strconv.Itoa(i%10)},
			Start:       90 * time.Second, Counts: make([]uint64, 28),
		})
		grow(random, &f.Series[i], bounds, i, math.Exp(random.NormFloat64()*2+3)*20_000)
	}
	var snaps []*latency.Snapshot
	for tick := range ticks {
		next := f
		next.Series = slices.Clone(f.Series)
		for i := range next.Series {
			s := &next.Series[i]
			s.Counts = slices.Clone(s.Counts)
			grow(random, s, bounds, i, rates[i]*15)
		}
		s := snapshot(t0+int64(tick)*15_000, next)
		s.Taken.Boottime = 6*time.Hour + time.Duration(tick)*15*time.Second
		snaps, f = append(snaps, s), next
	}
	return snaps
}

// grow adds events: latencies of label set i are log-normal around a median of its own.
func grow(random *rand.Rand, s *latency.Series, bounds []uint64, i int, events float64) {
	median := math.Log2(float64(bounds[0])) + 2 + float64(i*7%10)
	for range 64 {
		n := uint64(events/64*(0.5+random.Float64()) + random.Float64())
		if events == 0 {
			n = 0
		}
		ns := uint64(math.Exp2(median + random.NormFloat64()*1.5))
		s.Counts[sort.Search(len(bounds), func(k int) bool { return ns <= bounds[k] })] += n
		s.Sum += n * (ns + random.Uint64N(1000))
	}
}

// naive makes one message of snapshots with the types of prompb, the way one would write it first. The labels of the series are there already, as they are in
// Prometheus's own sender.
type naive struct {
	protocol  promwire.Protocol
	histogram promwire.Histogram
	labels    [][]labels.Labels // per label set and line
}

func newNaive(p promwire.Protocol, h promwire.Histogram, snap *latency.Snapshot) *naive {
	n := &naive{protocol: p, histogram: h}
	f := &snap.Families[0]
	for j := range f.Series {
		set := func(name, le string) labels.Labels {
			builder := labels.NewScratchBuilder(8)
			builder.Add("__name__", name)
			for _, l := range benchLabels {
				builder.Add(l.Name, l.Value)
			}
			for i, n := range f.LabelNames {
				builder.Add(n, f.Series[j].LabelValues[i])
			}
			if le != "" {
				builder.Add("le", le)
			}
			builder.Sort()
			return builder.Labels()
		}
		var lines []labels.Labels
		if h != promwire.Classic {
			n.labels = append(n.labels, []labels.Labels{set(f.Name, "")})
			continue
		}
		for _, b := range f.Bounds {
			lines = append(lines, set(f.Name+"_bucket", latency.LE(b)))
		}
		n.labels = append(n.labels, append(lines, set(f.Name+"_bucket", "+Inf"), set(f.Name+"_sum", ""), set(f.Name+"_count", "")))
	}
	return n
}

// values gives what the lines of a classic histogram say.
func (n *naive) values(s *latency.Series) []float64 {
	var values []float64
	count := uint64(0)
	for _, c := range s.Counts {
		count += c
		values = append(values, float64(count))
	}
	return append(values, float64(s.Sum)/1e9, float64(count))
}

func (n *naive) body(snaps []*latency.Snapshot) []byte {
	var message interface{ Marshal() ([]byte, error) }
	if n.protocol == promwire.V1 {
		message = n.message1(snaps)
	} else {
		message = n.message2(snaps)
	}
	raw, err := message.Marshal()
	if err != nil {
		panic(err)
	}
	return snappy.Encode(nil, raw)
}

func (n *naive) message1(snaps []*latency.Snapshot) *prompb.WriteRequest {
	m := &prompb.WriteRequest{}
	for j := range n.labels {
		first := len(m.Timeseries)
		for _, l := range n.labels[j] {
			m.Timeseries = append(m.Timeseries, prompb.TimeSeries{Labels: prompb.FromLabels(l, nil)})
		}
		for _, snap := range snaps {
			for i, v := range n.values(&snap.Families[0].Series[j]) {
				ts := &m.Timeseries[first+i]
				ts.Samples = append(ts.Samples, prompb.Sample{Value: v, Timestamp: snap.Taken.Wall.UnixMilli()})
			}
		}
	}
	return m
}

func (n *naive) message2(snaps []*latency.Snapshot) *writev2.Request {
	m := &writev2.Request{}
	table := writev2.NewSymbolTable()
	f := &snaps[0].Families[0]
	for j := range n.labels {
		first := len(m.Timeseries)
		for _, l := range n.labels[j] {
			m.Timeseries = append(m.Timeseries, writev2.TimeSeries{
				LabelsRefs: table.SymbolizeLabels(l, nil),
				Metadata:   writev2.Metadata{Type: writev2.Metadata_METRIC_TYPE_HISTOGRAM, HelpRef: table.Symbolize(f.Help), UnitRef: table.Symbolize(f.Unit)},
			})
		}
		for _, snap := range snaps {
			s := &snap.Families[0].Series[j]
			ms, start := snap.Taken.Wall.UnixMilli(), naiveStart(snap, s)
			if ts := &m.Timeseries[first]; n.histogram != promwire.Classic {
				ts.Histograms = append(ts.Histograms, naiveHistogram(n.histogram, snap, f, s))
				continue
			}
			for i, v := range n.values(s) {
				ts := &m.Timeseries[first+i]
				ts.Samples = append(ts.Samples, writev2.Sample{Value: v, Timestamp: ms, StartTimestamp: start})
			}
		}
	}
	m.Symbols = table.Symbols()
	return m
}

func naiveStart(snap *latency.Snapshot, s *latency.Series) int64 {
	return snap.Taken.Wall.Add(s.Start - snap.Taken.Boottime).UnixMilli()
}

// naiveHistogram takes the way through Prometheus's own histogram: all buckets in one span, compacted.
func naiveHistogram(h promwire.Histogram, snap *latency.Snapshot, f *latency.Family, s *latency.Series) writev2.Histogram {
	n := &model.Histogram{Schema: -53, Count: s.Count(), Sum: float64(s.Sum) / 1e9}
	counts, offset := s.Counts, int32(0)
	if schema, first, ok := latency.Schema(f.Bounds); ok && h == promwire.Exponential {
		n.Schema, n.ZeroThreshold, n.ZeroCount = schema, math.Exp2(float64(first)/float64(int32(1)<<schema)), s.Counts[0]
		counts, offset = s.Counts[1:len(s.Counts)-1], first+1
	} else {
		for _, b := range f.Bounds {
			n.CustomValues = append(n.CustomValues, float64(b)/1e9)
		}
	}
	n.PositiveSpans = []model.Span{{Offset: offset, Length: uint32(len(counts))}}
	before := int64(0)
	for _, c := range counts {
		n.PositiveBuckets = append(n.PositiveBuckets, int64(c)-before)
		before = int64(c)
	}
	return writev2.FromIntHistogram(naiveStart(snap, s), snap.Taken.Wall.UnixMilli(), n.Compact(0))
}
