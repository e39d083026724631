package upload

import (
	"errors"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/latpush/latpush/internal/promwire"
)

// metrics of one receiver. Clients of one name on one registry share them, so that they go on counting when the configuration is loaded again.
type metrics struct {
	requests     *prometheus.CounterVec // by code
	sent         prometheus.Counter
	accepted     prometheus.Counter
	rejected     *prometheus.CounterVec // by code
	unwritten    prometheus.Counter
	bytes        prometheus.Counter
	network      *prometheus.CounterVec // by direction
	retries      prometheus.Counter
	unauthorized prometheus.Gauge
	lastSuccess  prometheus.Gauge
}

// newMetrics registers the metrics, or takes those that are there; a nil registerer is allowed.
func newMetrics(reg prometheus.Registerer, receiver string) (*metrics, error) {
	r := registration{reg: reg, receiver: prometheus.Labels{"receiver": receiver}}
	m := &metrics{
		requests: r.counter("requests_total", "Attempts to send a request, by HTTP status, or error, timeout or canceled where none came.", "code"),
		sent:     r.counter("samples_sent_total", "Samples and native histograms in all attempts, repeated ones included.").With(nil),
		accepted: r.counter("samples_accepted_total", "Samples and native histograms that the receiver has taken, by its own count where it gives one.").With(nil),
		rejected: r.counter("samples_rejected_total", "Samples and native histograms that the receiver has refused for good, by HTTP status.", "code"),
		unwritten: r.counter("samples_unwritten_total",
			"Samples and native histograms that the receiver has not written, by its own count, of requests that it has accepted.").With(nil),
		bytes: r.counter("sent_bytes_total", "Bytes of compressed request bodies handed to the network, without headers and encryption.").With(nil),
		network: r.counter("network_bytes_total", "Bytes that the connections to the receiver have carried, headers and encryption included, without those of TCP and IP.",
			"direction"),
		retries: r.counter("retries_total", "Attempts that repeated a request.").With(nil),
		unauthorized: r.gauge("unauthorized", "Whether samples wait because the receiver, a proxy or an authorisation server has last refused the credentials,"+
			" or redirected the request elsewhere: 1 if so.").With(nil),
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

// count counts an attempt with its outcome. What is refused for good is counted by reject.
func (m *metrics) count(a *Answer, code string, r *promwire.Request, bytes int, now time.Time) {
	m.requests.WithLabelValues(code).Inc()
	m.sent.Add(float64(carried(r)))
	m.bytes.Add(float64(bytes))
	switch {
	case a.Verdict == Unauthorized:
		m.unauthorized.Set(1)
	case a.Status != 0:
		m.unauthorized.Set(0)
	}
	if a.Verdict == Accepted {
		stored := a.stored(r)
		m.accepted.Add(float64(stored))
		m.unwritten.Add(float64(carried(r) - stored))
		m.lastSuccess.Set(float64(now.UnixMilli()) / 1e3)
	}
}

// reject counts a request that is refused for good, less what the receiver says it has written of it.
func (m *metrics) reject(a *Answer, r *promwire.Request) {
	stored := a.stored(r)
	m.accepted.Add(float64(stored))
	m.rejected.WithLabelValues(strconv.Itoa(a.Status)).Add(float64(carried(r) - stored))
}
