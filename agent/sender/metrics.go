package sender

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/latpush/latpush/internal/promwire"
)

// The stages of a sender in which something can go wrong here. What goes wrong on the way to the receiver is counted by the client.
const (
	stageRead       = "read"       // the next snapshot from the spool
	stageEncode     = "encode"     // snapshots to requests
	stageHalve      = "halve"      // a request that is too large to its halves
	stageCommit     = "commit"     // the progress to the spool
	stageQuarantine = "quarantine" // a request to the quarantine
	stageMetadata   = "metadata"   // metadata to the receiver
)

func stages() []string {
	return []string{stageRead, stageEncode, stageHalve, stageCommit, stageQuarantine, stageMetadata}
}

// Metrics are shared by the senders of all receivers.
type Metrics struct {
	errors      *prometheus.CounterVec // by receiver, stage
	dropped     *prometheus.CounterVec // by receiver, reason
	thinned     *prometheus.CounterVec // by receiver
	quarantined *prometheus.CounterVec // by receiver
	back        *prometheus.CounterVec // by receiver
	fallbacks   *prometheus.CounterVec // by receiver
	delivered   *prometheus.GaugeVec   // by receiver
	protocol    *prometheus.GaugeVec   // by receiver, protobuf_message
}

// NewMetrics registers the senders' metrics.
func NewMetrics(registry prometheus.Registerer) (*Metrics, error) {
	var err error
	register := func(c prometheus.Collector) {
		if err == nil {
			err = registry.Register(c)
		}
	}
	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		vec := prometheus.NewCounterVec(prometheus.CounterOpts{Name: "latpush_sender_" + name, Help: help}, append([]string{"receiver"}, labels...))
		register(vec)
		return vec
	}
	gauge := func(name, help string, labels ...string) *prometheus.GaugeVec {
		vec := prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "latpush_sender_" + name, Help: help}, append([]string{"receiver"}, labels...))
		register(vec)
		return vec
	}
	m := &Metrics{
		errors: counter("errors_total", "Errors of reading snapshots from the spool, encoding them, halving requests, storing a receiver's progress,"+
			" setting requests apart and sending metadata.", "stage"),
		dropped: counter("dropped_samples_total", "Samples and native histograms that were dropped here: older than sample_age_limit (too_old, as classic lines),"+
			" or a single histogram larger than the receiver takes (too_large).", "reason"),
		thinned: counter("thinned_snapshots_total", "Snapshots that were left out because the budget of the link was short. No count is lost by that."),
		quarantined: counter("quarantined_requests_total", "Requests that were set apart on disk because they got nothing but 5xx while others were accepted, or"+
			" for longer than quarantine_after."),
		back:      counter("timestamps_back_total", "Times that timestamps went back, because those before were more than ten minutes in the future."),
		fallbacks: counter("fallbacks_total", "Times that the receiver was found not to know remote write 2.0."),
		delivered: gauge("newest_delivered_timestamp_seconds", "Time of the newest snapshot that was delivered, refused for good or set apart."+
			" The lag is the present time less this."),
		protocol: gauge("protocol", "The message that the receiver is sent: 1 for the one in use.", "protobuf_message"),
	}
	return m, err
}

// receiverMetrics are the metrics of one receiver.
type receiverMetrics struct {
	errors               map[string]prometheus.Counter // by stage
	tooOld, tooLarge     prometheus.Counter
	thinned, quarantined prometheus.Counter
	back, fallbacks      prometheus.Counter
	delivered            prometheus.Gauge
	protocols            map[promwire.Protocol]prometheus.Gauge
}

// of makes the metrics of a receiver, all of them 0 from the start.
func (m *Metrics) of(receiver string) *receiverMetrics {
	r := &receiverMetrics{
		errors:   make(map[string]prometheus.Counter),
		tooOld:   m.dropped.WithLabelValues(receiver, "too_old"),
		tooLarge: m.dropped.WithLabelValues(receiver, "too_large"),
		thinned:  m.thinned.WithLabelValues(receiver), quarantined: m.quarantined.WithLabelValues(receiver),
		back: m.back.WithLabelValues(receiver), fallbacks: m.fallbacks.WithLabelValues(receiver),
		delivered: m.delivered.WithLabelValues(receiver),
		protocols: make(map[promwire.Protocol]prometheus.Gauge),
	}
	for _, stage := range stages() {
		r.errors[stage] = m.errors.WithLabelValues(receiver, stage)
	}
	for _, p := range []promwire.Protocol{promwire.V1, promwire.V2} {
		r.protocols[p] = m.protocol.WithLabelValues(receiver, string(p))
	}
	return r
}

// speaks sets the protocol in use.
func (r *receiverMetrics) speaks(in promwire.Protocol) {
	for p, gauge := range r.protocols {
		gauge.Set(0)
		if p == in {
			gauge.Set(1)
		}
	}
}
