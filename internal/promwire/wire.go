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

// appendLabel appends a TimeSeries's field for one label. Neither string may be empty.
func appendLabel(dst []byte, name, value string) []byte {
	l := prompb.Label{Name: name, Value: value}
	size := l.Size()
	dst = binary.AppendUvarint(append(dst, tagLabel), uint64(size))
	end := len(dst) + size
	dst = slices.Grow(dst, size)[:end]
	_, _ = l.MarshalToSizedBuffer(dst[end-size:]) // into a buffer of the right size, so there is nothing to fail
	return dst
}

// appendSample appends a TimeSeries's field for one sample, which has room in dst.
func appendSample(dst []byte, s *prompb.Sample) []byte {
	size := s.Size()
	dst = append(dst, tagSamples, byte(size))
	end := len(dst) + size
	dst = dst[:end]
	_, _ = s.MarshalToSizedBuffer(dst[end-size:])
	return dst
}

// timeSeries appends one TimeSeries to the open request: a line of a label set with one value for each timestamp, in Unix milliseconds.
func (p *packer) timeSeries(set *labelSet, l *line, values []float64, timestamps []int64) {
	p.sampled = slices.Grow(p.sampled[:0], len(values)*(2+maxSampleSize))
	for i, v := range values {
		p.sample.Value, p.sample.Timestamp = normal(v), timestamps[i]
		p.sampled = appendSample(p.sampled, &p.sample)
	}
	size := len(set.before) + len(l.name) + len(set.between) + len(l.bucket) + len(set.after) + len(p.sampled)
	raw := binary.AppendUvarint(append(p.raw, tagTimeSeries), uint64(size))
	raw = append(raw, set.before...)
	raw = append(raw, l.name...)
	raw = append(raw, set.between...)
	raw = append(raw, l.bucket...)
	raw = append(raw, set.after...)
	p.raw = append(raw, p.sampled...)
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
