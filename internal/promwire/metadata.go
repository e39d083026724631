package promwire

import (
	"maps"
	"slices"

	"github.com/prometheus/prometheus/prompb"

	"github.com/latpush/latpush/internal/latency"
)

// metadataType gives the type of a family, which is the same number in both protocols.
func metadataType(kind latency.Kind) prompb.MetricMetadata_MetricType {
	switch kind {
	case latency.Counter:
		return prompb.MetricMetadata_COUNTER
	case latency.Gauge:
		return prompb.MetricMetadata_GAUGE
	case latency.Histogram:
		return prompb.MetricMetadata_HISTOGRAM
	}
	return prompb.MetricMetadata_UNKNOWN
}

// MetadataRequests makes 1.0 requests of type, help and unit of the families that the last call of Encode had; they carry no samples. A request is bounded like
// any other, an entry counting as a sample. None without Options.Metadata: with 2.0 each series has its own. The bodies have memory of their own.
func (e *Encoder) MetadataRequests() ([]Request, error) {
	if !e.o.Metadata {
		return nil, nil
	}
	var requests []Request
	var open prompb.WriteRequest
	size := 0
	for _, name := range slices.Sorted(maps.Keys(e.families)) {
		f := newest(e.families[name], e.call)
		if f == nil {
			continue
		}
		entry := prompb.MetricMetadata{Type: metadataType(f.kind), MetricFamilyName: validUTF8(f.name), Help: validUTF8(f.help), Unit: validUTF8(f.unit)}
		framed := 1 + maxLengthSize + entry.Size()
		if n := len(open.Metadata); n == e.out.maxSamples || n > 0 && size+framed > e.out.maxBytes {
			r, err := newRequest1(&open)
			if err != nil {
				return nil, err
			}
			requests, open.Metadata, size = append(requests, r), nil, 0
		}
		open.Metadata, size = append(open.Metadata, entry), size+framed
	}
	if len(open.Metadata) == 0 {
		return requests, nil
	}
	r, err := newRequest1(&open)
	if err != nil {
		return nil, err
	}
	return append(requests, r), nil
}

// newest gives the shape of a family that the call had last, or nil.
func newest(variants []*family, call uint64) *family {
	for _, f := range slices.Backward(variants) {
		if f.call == call {
			return f
		}
	}
	return nil
}
