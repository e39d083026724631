package promwire

import (
	"encoding/binary"
	"math"
	"slices"

	"github.com/prometheus/prometheus/prompb"
)

// The message that is framed here, with labels and samples marshalled by prompb, each field as its protobuf tag: number<<3 | wire type.
//
//	WriteRequest  1 repeated TimeSeries timeseries
//	TimeSeries    1 repeated Label labels, 2 repeated Sample samples
const (
	tagTimeSeries = 1<<3 | 2
	tagLabel      = 1<<3 | 2
	tagSamples    = 2<<3 | 2
)

// maxSampleSize is the size of a Sample with a negative timestamp, the largest there is. It is under 128, so a Sample's length is one byte.
const maxSampleSize = 1 + 8 + 1 + binary.MaxVarintLen64

// message is what gogo has generated for prompb's types.
type message interface {
	Size() int
	MarshalToSizedBuffer([]byte) (int, error)
}

// appendMessage appends a field whose value is a message.
func appendMessage(dst []byte, tag byte, m message) []byte {
	size := m.Size()
	dst = binary.AppendUvarint(append(dst, tag), uint64(size))
	end := len(dst) + size
	dst = slices.Grow(dst, size)[:end]
	_, _ = m.MarshalToSizedBuffer(dst[end-size : end]) // into a buffer of the right size, so there is nothing to fail
	return dst
}

// appendLabel appends a TimeSeries's field for one label. Neither string may be empty.
func appendLabel(dst []byte, name, value string) []byte {
	return appendMessage(dst, tagLabel, &prompb.Label{Name: name, Value: value})
}

// timeSeries appends one TimeSeries to the open request: a line of a label set with one value for each timestamp, in Unix milliseconds.
func (p *packer) timeSeries(set *labelSet, l *line, values []float64, timestamps []int64) {
	size := len(set.before) + len(l.name) + len(set.between) + len(l.bucket) + len(set.after)
	for i, v := range values {
		p.sample = prompb.Sample{Value: normal(v), Timestamp: timestamps[i]}
		size += 2 + p.sample.Size()
	}
	raw := binary.AppendUvarint(append(p.raw, tagTimeSeries), uint64(size))
	raw = append(raw, set.before...)
	raw = append(raw, l.name...)
	raw = append(raw, set.between...)
	raw = append(raw, l.bucket...)
	raw = append(raw, set.after...)
	raw = slices.Grow(raw, len(values)*(2+maxSampleSize))
	for i, v := range values {
		p.sample = prompb.Sample{Value: normal(v), Timestamp: timestamps[i]}
		raw = appendMessage(raw, tagSamples, &p.sample)
	}
	p.raw = raw
	p.series++
	p.samples += len(values)
}

// normal makes any NaN the ordinary one: another payload could be the one that marks a series as stale.
func normal(v float64) float64 {
	if math.IsNaN(v) {
		return math.Float64frombits(0x7ff8000000000001)
	}
	return v
}
