package upload

import (
	"errors"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// metrics of one receiver. Clients of one name on one registry share them, so that they go on counting when the configuration is loaded again.
type metrics struct {
	requests    *prometheus.CounterVec // by code
	sent        prometheus.Counter
	accepted    prometheus.Counter
	rejected    *prometheus.CounterVec // by code
	bytes       prometheus.Counter
	retries     prometheus.Counter
	lastSuccess prometheus.Gauge
}

// newMetrics registers the metrics, or takes those that are there; a nil registerer is allowed.
func newMetrics(reg prometheus.Registerer, receiver string) (*metrics, error) {
	r := registration{reg: reg, receiver: prometheus.Labels{"receiver": receiver}}
	m := &metrics{
		requests:    r.counter("requests_total", "Attempts to send a request, by HTTP status, or error, timeout or canceled where none came.", "code"),
		sent:        r.counter("samples_sent_total", "Samples in all attempts, repeated ones included.").With(nil),
		accepted:    r.counter("samples_accepted_total", "Samples in requests that the receiver has taken.").With(nil),
		rejected:    r.counter("samples_rejected_total", "Samples in requests that the receiver has refused for good, by HTTP status.", "code"),
		bytes:       r.counter("sent_bytes_total", "Bytes of compressed request bodies handed to the network, without headers and encryption.").With(nil),
		retries:     r.counter("retries_total", "Attempts that repeated a request.").With(nil),
		lastSuccess: r.gauge("last_success_timestamp_seconds", "When the receiver last accepted a request.").With(nil),
	}
	return m, r.err
}

// registration collects the first error of a series of registrations.
type registration struct {
	reg      prometheus.Registerer
	receiver prometheus.Labels
	err      error
}

func (r *registration) counter(name, help string, labels ...string) *prometheus.CounterVec {
	o := prometheus.CounterOpts{Namespace: "latpush", Subsystem: "remote", Name: name, Help: help}
	v := register(r, prometheus.NewCounterVec(o, append([]string{"receiver"}, labels...)))
	return v.MustCurryWith(r.receiver)
}

func (r *registration) gauge(name, help string) *prometheus.GaugeVec {
	o := prometheus.GaugeOpts{Namespace: "latpush", Subsystem: "remote", Name: name, Help: help}
	v := register(r, prometheus.NewGaugeVec(o, []string{"receiver"}))
	return v.MustCurryWith(r.receiver)
}

// register registers a collector, or gives the equal one that is registered already.
func register[C prometheus.Collector](r *registration, c C) C {
	if r.reg == nil {
		return c
	}
	err := r.reg.Register(c)
	var there prometheus.AlreadyRegisteredError
	if errors.As(err, &there) {
		if old, ok := there.ExistingCollector.(C); ok {
			return old
		}
	}
	if err != nil && r.err == nil {
		r.err = err
	}
	return c
}

// count counts an attempt with its outcome.
func (m *metrics) count(a *Answer, code string, samples, bytes int, now time.Time) {
	m.requests.WithLabelValues(code).Inc()
	m.sent.Add(float64(samples))
	m.bytes.Add(float64(bytes))
	switch a.Verdict {
	case Accepted:
		m.accepted.Add(float64(samples))
		m.lastSuccess.Set(float64(now.UnixMilli()) / 1e3)
	case Rejected:
		m.rejected.WithLabelValues(strconv.Itoa(a.Status)).Add(float64(samples))
	case Retry, Unauthorized:
	}
}
