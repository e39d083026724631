package quarantine

import "github.com/prometheus/client_golang/prometheus"

// metrics is the prometheus.Collector of one Store. The gauges are read from the directory when it is collected.
type metrics struct {
	store    *Store
	dropped  prometheus.Counter
	requests *prometheus.Desc
	bytes    *prometheus.Desc
}

func newMetrics(s *Store) *metrics {
	return &metrics{
		store: s,
		dropped: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "latpush_quarantine_dropped_total", Help: "Quarantined requests dropped for good because the quarantine was full.",
		}),
		requests: prometheus.NewDesc("latpush_quarantine_requests", "Requests set apart because a receiver only ever failed at them.", nil, nil),
		bytes:    prometheus.NewDesc("latpush_quarantine_bytes", "Size of the files of quarantined requests.", nil, nil),
	}
}

// Describe implements prometheus.Collector.
func (m *metrics) Describe(ch chan<- *prometheus.Desc) {
	m.dropped.Describe(ch)
	ch <- m.requests
	ch <- m.bytes
}

// Collect implements prometheus.Collector.
func (m *metrics) Collect(ch chan<- prometheus.Metric) {
	m.dropped.Collect(ch)
	found, err := m.store.readable()
	if err != nil {
		ch <- prometheus.NewInvalidMetric(m.requests, err)
		ch <- prometheus.NewInvalidMetric(m.bytes, err)
		return
	}
	var bytes int64
	for _, f := range found {
		bytes += f.size
	}
	ch <- prometheus.MustNewConstMetric(m.requests, prometheus.GaugeValue, float64(len(found)))
	ch <- prometheus.MustNewConstMetric(m.bytes, prometheus.GaugeValue, float64(bytes))
}
