package receiver

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"strings"

	"github.com/golang/snappy"
	remoteapi "github.com/prometheus/client_golang/exp/api/remote"
	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/metadata"
	"github.com/prometheus/prometheus/prompb"
	"google.golang.org/protobuf/encoding/protowire"
)

const (
	maxRequestBytes = 32 << 20 // as the write handler's own limit, for the body and for what it unpacks to
	metadataField   = 3        // number of WriteRequest.metadata
)

var errRequestTooLarge = errors.New("request is too large")

// learnMetadata keeps the metadata of remote write 1.0 requests, which Prometheus's handler throws away, and passes every request on
// unchanged. A body that does not parse is left to the handler to refuse.
func learnMetadata(l *ledger, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		contentType := req.Header.Get("Content-Type")
		if message, err := remoteapi.ParseProtoMsg(contentType); contentType != "" && (err != nil || message != remoteapi.WriteV1MessageType) {
			next.ServeHTTP(w, req)
			return
		}
		body, err := io.ReadAll(io.LimitReader(req.Body, maxRequestBytes+1))
		if err != nil {
			http.Error(w, fmt.Sprintf("read request: %v", err), http.StatusBadRequest)
			return
		}
		if described, err := decodeMetadata(body); err == nil {
			for _, m := range described {
				l.describe(m.MetricFamilyName, metadata.Metadata{Type: metricType(m.Type), Help: m.Help, Unit: m.Unit})
			}
		}
		req.Body = io.NopCloser(bytes.NewReader(body))
		next.ServeHTTP(w, req)
	})
}

// decodeMetadata picks the metadata out of a snappy-compressed remote write 1.0 request and skips the series.
func decodeMetadata(body []byte) ([]prompb.MetricMetadata, error) {
	size, err := snappy.DecodedLen(body)
	if err != nil {
		return nil, fmt.Errorf("unpack request: %w", err)
	}
	if size > maxRequestBytes {
		return nil, fmt.Errorf("unpack request: %w (%d bytes)", errRequestTooLarge, size)
	}
	message, err := snappy.Decode(nil, body)
	if err != nil {
		return nil, fmt.Errorf("unpack request: %w", err)
	}
	var all []prompb.MetricMetadata
	for len(message) > 0 {
		number, wire, n := protowire.ConsumeTag(message)
		if n < 0 {
			return nil, fmt.Errorf("decode request: %w", protowire.ParseError(n))
		}
		message = message[n:]
		n = protowire.ConsumeFieldValue(number, wire, message)
		if n < 0 {
			return nil, fmt.Errorf("decode request: %w", protowire.ParseError(n))
		}
		if number == metadataField && wire == protowire.BytesType {
			field, _ := protowire.ConsumeBytes(message)
			var m prompb.MetricMetadata
			if err := m.Unmarshal(field); err != nil {
				return nil, fmt.Errorf("decode metadata: %w", err)
			}
			all = append(all, m)
		}
		message = message[n:]
	}
	return all, nil
}

func metricType(t prompb.MetricMetadata_MetricType) model.MetricType {
	return model.MetricType(strings.ToLower(t.String()))
}

// serveMetadata answers as Prometheus's metadata endpoint does. Prometheus fills it from its scrape targets, the receiver from what
// was pushed. Histograms that came without metadata are listed by their type.
func (r *Receiver) serveMetadata(w http.ResponseWriter, req *http.Request) {
	type described struct {
		Type model.MetricType `json:"type"`
		Help string           `json:"help"`
		Unit string           `json:"unit"`
	}
	wanted := req.FormValue("metric")
	data := map[string][]described{}
	for name, m := range r.ledger.described() {
		if wanted == "" || wanted == name {
			data[name] = []described{{Type: m.Type, Help: m.Help, Unit: m.Unit}}
		}
	}
	writeJSON(w, map[string]any{"status": "success", "data": data})
}

// described is the metadata of all metrics, with the type of histograms filled in.
func (l *ledger) described() map[string]metadata.Metadata {
	families := l.families()
	l.mu.Lock()
	defer l.mu.Unlock()
	all := maps.Clone(l.metadata)
	for _, f := range families {
		if all[f.name].Type == "" {
			all[f.name] = metadata.Metadata{Type: model.MetricTypeHistogram, Help: f.meta.Help, Unit: f.meta.Unit}
		}
	}
	return all
}
