package sender

import "github.com/prometheus/client_golang/prometheus"

// The stages of a sender in which something can go wrong here. What goes wrong on the way to the receiver is counted by the client.
const (
	stageRead   = "read"   // the next snapshot from the spool
	stageEncode = "encode" // snapshots to requests
	stageCommit = "commit" // the progress to the spool
)

// Metrics are shared by the senders of all receivers.
type Metrics struct {
	errors *prometheus.CounterVec // by receiver, stage
}

// NewMetrics registers the senders' metrics.
func NewMetrics(registry prometheus.Registerer) (*Metrics, error) {
	m := &Metrics{
		errors: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "latpush_sender_errors_total", Help: "Errors of reading snapshots from the spool, encoding them, and storing a receiver's progress.",
		}, []string{"receiver", "stage"}),
	}
	return m, registry.Register(m.errors)
}
