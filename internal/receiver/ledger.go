package receiver

import (
	"context"
	"fmt"
	"math"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/histogram"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/metadata"
	"github.com/prometheus/prometheus/model/value"
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/tsdb"
	"github.com/prometheus/prometheus/tsdb/chunkenc"
)

const (
	forgetAfter  = 24 * time.Hour // a series without samples for so long is no longer counted
	forgetEvery  = time.Hour      // how often that is looked at
	loadWindow   = 6 * time.Hour  // how far back stored samples are read at the start; the page's longest range
	bucketSuffix = "_bucket"
)

// form is what kind of sample a series carries.
type form uint8

const (
	formFloat       form = iota
	formBucket           // a line of a classic histogram: the name ends with _bucket and there is an le label
	formExponential      // native histogram with exponential buckets
	formCustom           // native histogram with custom bounds
	formStale            // a stale marker: the series ended, whatever it carried
)

func formOf(ls labels.Labels, v float64, h *histogram.Histogram, fh *histogram.FloatHistogram) form {
	switch {
	case h == nil && fh == nil && value.IsStaleNaN(v):
		return formStale
	case h != nil && h.UsesCustomBuckets(), fh != nil && fh.UsesCustomBuckets():
		return formCustom
	case h != nil, fh != nil:
		return formExponential
	case strings.HasSuffix(ls.Get(model.MetricNameLabel), bucketSuffix) && ls.Has(model.BucketLabel):
		return formBucket
	}
	return formFloat
}

// entry is one accepted sample.
type entry struct {
	name     string
	series   uint64 // hash of the labels
	infinite bool   // the le="+Inf" line of a classic histogram: there is one for each label set
	form     form
	time     int64 // ms
	meta     metadata.Metadata
}

func newEntry(ls labels.Labels, t int64, f form, meta metadata.Metadata) entry {
	return entry{
		name: ls.Get(model.MetricNameLabel), series: ls.Hash(), form: f, time: t, meta: meta,
		infinite: f == formBucket && ls.Get(model.BucketLabel) == "+Inf",
	}
}

// ledger knows which metrics were received, how many samples of each, when, and how far apart. The samples are in the storage.
type ledger struct {
	now func() time.Time

	mu       sync.Mutex
	metrics  map[string]*received
	metadata map[string]metadata.Metadata // by metric family name
	swept    time.Time                    // when idle series were last dropped
}

// received is what came in under one metric name.
type received struct {
	form    form
	samples uint64
	newest  int64     // ms, timestamp of the newest sample
	arrived time.Time // when a sample last came in
	series  map[uint64]cadence
}

// cadence is the rhythm of one series.
type cadence struct {
	last     int64 // ms, timestamp of the newest sample
	step     int64 // ms between the two newest samples, 0 while there is only one
	infinite bool
}

func newLedger(now func() time.Time) *ledger {
	return &ledger{now: now, metrics: map[string]*received{}, metadata: map[string]metadata.Metadata{}, swept: now()}
}

// enter adds committed samples.
func (l *ledger) enter(entries []entry) {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := l.now()
	for _, e := range entries {
		l.add(e, now).samples++
	}
	if now.Sub(l.swept) > forgetEvery {
		l.forget(now)
	}
}

// add notes one sample without counting it as received.
func (l *ledger) add(e entry, arrived time.Time) *received {
	m := l.metrics[e.name]
	if m == nil {
		m = &received{series: map[uint64]cadence{}, newest: math.MinInt64}
		l.metrics[strings.Clone(e.name)] = m
	}
	m.arrived, m.newest = arrived, max(m.newest, e.time)
	if e.form == formStale {
		return m
	}
	m.form = e.form
	c, known := m.series[e.series]
	if !known || e.time > c.last {
		if known {
			c.step = e.time - c.last
		}
		c.last, c.infinite = e.time, e.infinite
		m.series[e.series] = c
	}
	if !e.meta.IsEmpty() {
		family := e.name
		if e.meta.Type == model.MetricTypeHistogram && e.form <= formBucket {
			family = trimHistogramSuffix(e.name)
		}
		l.metadata[family] = e.meta
	}
	return m
}

// trimHistogramSuffix turns the name of one line of a classic histogram into the family's name.
func trimHistogramSuffix(name string) string {
	for _, suffix := range []string{bucketSuffix, "_sum", "_count"} {
		if family, ok := strings.CutSuffix(name, suffix); ok {
			return family
		}
	}
	return name
}

// forget drops the series that have been idle for long, so that churn does not fill the memory.
func (l *ledger) forget(now time.Time) {
	l.swept = now
	oldest := now.Add(-forgetAfter)
	for name, m := range l.metrics {
		if m.arrived.Before(oldest) {
			delete(l.metrics, name)
			continue
		}
		for hash, c := range m.series {
			if c.last < m.newest-forgetAfter.Milliseconds() {
				delete(m.series, hash)
			}
		}
	}
}

// describe keeps metadata that came apart from samples.
func (l *ledger) describe(family string, m metadata.Metadata) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.metadata[family] = m
}

// load fills the ledger with the newest hours of a storage that already holds samples. They do not count as received.
func (l *ledger) load(ctx context.Context, db *tsdb.DB) error {
	newest := db.Head().MaxTime()
	for _, b := range db.Blocks() {
		newest = max(newest, b.MaxTime())
	}
	if newest == math.MinInt64 {
		return nil
	}
	q, err := db.Querier(newest-loadWindow.Milliseconds(), newest)
	if err != nil {
		return err
	}
	defer func() { _ = q.Close() }()
	set := q.Select(ctx, false, nil, labels.MustNewMatcher(labels.MatchNotEqual, model.MetricNameLabel, ""))
	l.mu.Lock()
	defer l.mu.Unlock()
	for set.Next() {
		if err := l.loadSeries(set.At()); err != nil {
			return err
		}
	}
	return set.Err()
}

func (l *ledger) loadSeries(s storage.Series) error {
	ls, it := s.Labels(), s.Iterator(nil)
	for kind := it.Next(); kind != chunkenc.ValNone; kind = it.Next() {
		var v float64
		var fh *histogram.FloatHistogram
		if kind == chunkenc.ValFloat {
			_, v = it.At()
		} else {
			_, fh = it.AtFloatHistogram(nil)
		}
		t := it.AtT()
		l.add(newEntry(ls, t, formOf(ls, v, nil, fh), metadata.Metadata{}), time.UnixMilli(t))
	}
	if err := it.Err(); err != nil {
		return fmt.Errorf("read series %s: %w", ls, err)
	}
	return nil
}

// family is one histogram as the ledger knows it.
type family struct {
	name    string
	form    form // formBucket, formExponential or formCustom
	meta    metadata.Metadata
	series  int           // label sets
	samples uint64        // all lines of a classic histogram
	newest  time.Time     // timestamp of the newest sample
	arrived time.Time     // when it came in
	step    time.Duration // between two samples of one series, the median; 0 while unknown
}

// families lists all histograms, sorted by name, classic before native.
func (l *ledger) families() []family {
	l.mu.Lock()
	defer l.mu.Unlock()
	var all []family
	for name, m := range l.metrics {
		if m.form == formFloat {
			continue
		}
		f := family{
			name: name, form: m.form, samples: m.samples, newest: time.UnixMilli(m.newest), arrived: m.arrived,
			step: m.step(), series: len(m.series),
		}
		if m.form == formBucket {
			f.name, f.series = strings.TrimSuffix(name, bucketSuffix), m.infinite()
			for _, suffix := range []string{"_sum", "_count"} {
				if line := l.metrics[f.name+suffix]; line != nil {
					f.samples += line.samples
				}
			}
		}
		f.meta = l.metadata[f.name]
		all = append(all, f)
	}
	slices.SortFunc(all, func(a, b family) int {
		if c := strings.Compare(a.name, b.name); c != 0 {
			return c
		}
		return int(a.form) - int(b.form)
	})
	return all
}

// find returns one histogram; an empty kind takes the first of that name.
func (l *ledger) find(name, kind string) (family, bool) {
	for _, f := range l.families() {
		if f.name == name && (kind == "" || f.kind() == kind) {
			return f, true
		}
	}
	return family{}, false
}

// totals counts all samples received since the start, and the metric names they came under.
func (l *ledger) totals() (samples uint64, metrics int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, m := range l.metrics {
		samples += m.samples
	}
	return samples, len(l.metrics)
}

// infinite counts the label sets of a classic histogram.
func (m *received) infinite() int {
	n := 0
	for _, c := range m.series {
		if c.infinite {
			n++
		}
	}
	return n
}

// step is the median distance of two samples of one series.
func (m *received) step() time.Duration {
	steps := make([]int64, 0, len(m.series))
	for _, c := range m.series {
		if c.step > 0 {
			steps = append(steps, c.step)
		}
	}
	if len(steps) == 0 {
		return 0
	}
	slices.Sort(steps)
	return time.Duration(steps[len(steps)/2]) * time.Millisecond
}

// kind is the histogram's kind in words.
func (f family) kind() string {
	switch f.form {
	case formExponential:
		return "native"
	case formCustom:
		return "custom"
	default:
		return "classic"
	}
}
