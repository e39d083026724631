package spool

import (
	"github.com/prometheus/client_golang/prometheus"
)

// What the label values of the counters can be.
const (
	reasonSize    = "size"
	reasonAge     = "age"
	reasonMissing = "missing" // the file was removed by somebody else
	reasonMemory  = "memory"  // the disk refused it for too long

	kindRecord  = "record"
	kindSegment = "segment"
	kindCursor  = "cursor"
)

// metrics is the prometheus.Collector of one spool: counters, and gauges read from the spool when it is collected.
type metrics struct {
	spool *Spool

	appended      prometheus.Counter
	appendedBytes prometheus.Counter
	appendErrors  prometheus.Counter
	dropped       *prometheus.CounterVec
	corrupt       *prometheus.CounterVec
	thinned       prometheus.Counter
	writtenBytes  prometheus.Counter
	diskErrors    prometheus.Counter

	bytes       *prometheus.Desc
	memoryBytes *prometheus.Desc
	healthy     *prometheus.Desc
	coarsest    *prometheus.Desc
	asideFiles  *prometheus.Desc
	asideBytes  *prometheus.Desc
	snapshots   *prometheus.Desc
	pending     *prometheus.Desc
	oldest      *prometheus.Desc
}

func newMetrics(s *Spool) *metrics {
	counter := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Name: "latpush_spool_" + name, Help: help})
	}
	vector := func(name, help string, labels ...string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Name: "latpush_spool_" + name, Help: help}, labels)
	}
	gauge := func(name, help string, labels ...string) *prometheus.Desc {
		return prometheus.NewDesc("latpush_spool_"+name, help, labels, nil)
	}
	m := &metrics{
		spool:         s,
		appended:      counter("appended_total", "Snapshots appended to the spool."),
		appendedBytes: counter("appended_bytes_total", "Bytes of records appended to the spool, framing included."),
		appendErrors:  counter("append_errors_total", "Snapshots that could not be appended."),
		dropped: vector("dropped_total", "Snapshots removed before their time, by reason and by whether every reader had delivered them.",
			"reason", "delivered"),
		corrupt:      vector("corrupt_total", "Damage found: records skipped, segments and cursors set aside.", "kind"),
		thinned:      counter("thinned_total", "Snapshots left out of the spool to make room; the counts in them are in the ones that stay."),
		writtenBytes: counter("written_bytes_total", "Bytes written to files of the spool: records, rewritten segments, cursors."),
		diskErrors:   counter("disk_errors_total", "Times that the disk refused to store a snapshot or a cursor."),
		bytes:        gauge("bytes", "Size of all segments."),
		memoryBytes:  gauge("memory_bytes", "Snapshots that are kept in memory because the disk refuses them."),
		healthy:      gauge("disk_healthy", "Whether the disk took the last snapshot and the last state of every cursor."),
		coarsest:     gauge("coarsest_spacing_seconds", "Largest distance in time at which a segment keeps snapshots, by the median of each; absent without one."),
		asideFiles:   gauge("set_aside_files", "Files that could not be read and were set aside. Nothing removes them."),
		asideBytes:   gauge("set_aside_bytes", "Size of the files that were set aside."),
		snapshots:    gauge("snapshots", "Snapshots in the spool, delivered or not."),
		pending:      gauge("pending_snapshots", "Snapshots that a reader has not delivered yet.", "reader"),
		oldest: gauge("oldest_timestamp_seconds",
			"Wall clock of the oldest snapshot that some reader has not delivered yet; absent when there is none."),
	}
	for _, reason := range []string{reasonSize, reasonAge, reasonMissing, reasonMemory} {
		m.dropped.WithLabelValues(reason, "true")
		m.dropped.WithLabelValues(reason, "false")
	}
	for _, kind := range []string{kindRecord, kindSegment, kindCursor} {
		m.corrupt.WithLabelValues(kind)
	}
	return m
}

func (m *metrics) counters() []prometheus.Collector {
	return []prometheus.Collector{m.appended, m.appendedBytes, m.appendErrors, m.dropped, m.corrupt, m.thinned, m.writtenBytes, m.diskErrors}
}

// Describe implements prometheus.Collector.
func (m *metrics) Describe(ch chan<- *prometheus.Desc) {
	for _, c := range m.counters() {
		c.Describe(ch)
	}
	for _, d := range []*prometheus.Desc{
		m.bytes, m.memoryBytes, m.healthy, m.coarsest, m.asideFiles, m.asideBytes, m.snapshots, m.pending, m.oldest,
	} {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (m *metrics) Collect(ch chan<- prometheus.Metric) {
	for _, c := range m.counters() {
		c.Collect(ch)
	}
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	st := m.spool.status()
	gauge(m.bytes, float64(st.bytes))
	gauge(m.memoryBytes, float64(st.memory))
	gauge(m.healthy, st.healthy)
	gauge(m.asideFiles, float64(st.aside.files))
	gauge(m.asideBytes, float64(st.aside.bytes))
	if st.coarsest > 0 {
		gauge(m.coarsest, st.coarsest.Seconds())
	}
	gauge(m.snapshots, float64(st.snapshots))
	for name, n := range st.pending {
		gauge(m.pending, float64(n), name)
	}
	if !st.oldest.IsZero() {
		gauge(m.oldest, float64(st.oldest.UnixMilli())/1e3)
	}
}

// countDropped counts the snapshots of segments that are taken off the list, and returns how many of them some reader had not delivered. The
// caller holds mu.
func (s *Spool) countDropped(segments []*logSegment, reason string) (undelivered int) {
	delivered, all := s.deliveredByAll(), 0
	for _, g := range segments {
		all += len(g.entries)
		undelivered += len(g.after(delivered))
	}
	s.metrics.dropped.WithLabelValues(reason, "true").Add(float64(all - undelivered))
	s.metrics.dropped.WithLabelValues(reason, "false").Add(float64(undelivered))
	return undelivered
}
