package promwire

import (
	"encoding/binary"
	"math"
)

// The messages that are framed here, each field as its protobuf tag: number<<3 | wire type.
//
//	1.0 WriteRequest  1 repeated TimeSeries timeseries, 3 repeated MetricMetadata metadata
//	    TimeSeries    1 repeated Label labels, 2 repeated Sample samples, 4 repeated Histogram histograms
//	    Label         1 string name, 2 string value
//	    Sample        1 double value, 2 int64 timestamp
//
//	2.0 Request       4 repeated string symbols, 5 repeated TimeSeries timeseries
//	    TimeSeries    1 repeated uint32 labels_refs (packed), 2 repeated Sample samples, 3 repeated Histogram histograms, 5 Metadata metadata
//	    Sample        1 double value, 2 int64 timestamp, 3 int64 start_timestamp
//	    Metadata      1 enum type, 3 uint32 help_ref, 4 uint32 unit_ref
//
// The Histogram is the same in both, apart from its last field; see native.go.
const (
	tagTimeSeries1 = 1<<3 | 2
	tagTimeSeries2 = 5<<3 | 2
	tagSymbols     = 4<<3 | 2

	tagLabels      = 1<<3 | 2 // a Label in 1.0, all references in 2.0
	tagSamples     = 2<<3 | 2
	tagHistograms1 = 4<<3 | 2
	tagHistograms2 = 3<<3 | 2
	tagMetadata    = 5<<3 | 2

	tagLabelName  = 1<<3 | 2
	tagLabelValue = 2<<3 | 2

	tagSampleValue     = 1<<3 | 1
	tagSampleTimestamp = 2 << 3
	tagSampleStart     = 3 << 3

	tagMetadataType = 1 << 3
	tagMetadataHelp = 3 << 3
	tagMetadataUnit = 4 << 3
)

// Upper bounds of sizes.
const (
	maxLengthSize = binary.MaxVarintLen32
	maxRefSize    = binary.MaxVarintLen32

	// maxSampleSize is that of a sample's field. What is inside of it is under 128 bytes, so its length is one byte.
	maxSampleSize = 2 + 1 + 8 + maxTimesSize

	// maxTimesSize is that of a negative timestamp and a negative start.
	maxTimesSize = 2 * (1 + binary.MaxVarintLen64)
)

// staleNaN is the value that ends a series.
const staleNaN = 0x7ff0000000000002

// normal makes any NaN the ordinary one: another payload could be the one that marks a series as stale.
func normal(v float64) float64 {
	if math.IsNaN(v) {
		return math.Float64frombits(0x7ff8000000000001)
	}
	return v
}

// appendText appends a field that is a string.
func appendText(dst []byte, tag byte, text string) []byte {
	return append(binary.AppendUvarint(append(dst, tag), uint64(len(text))), text...)
}

// appendVarint appends a field that is a number, which is left out when it is 0.
func appendVarint(dst []byte, tag byte, n uint64) []byte {
	if n == 0 {
		return dst
	}
	return binary.AppendUvarint(append(dst, tag), n)
}

// appendLabel appends a 1.0 TimeSeries's field for one label. Neither string may be empty.
func appendLabel(dst []byte, name, value string) []byte {
	size := 1 + uvarintSize(len(name)) + len(name) + 1 + uvarintSize(len(value)) + len(value)
	dst = binary.AppendUvarint(append(dst, tagLabels), uint64(size))
	return appendText(appendText(dst, tagLabelName, name), tagLabelValue, value)
}

// uvarintSize gives the size of n as a varint.
func uvarintSize(n int) int {
	size := 1
	for ; n >= 0x80; n >>= 7 {
		size++
	}
	return size
}

// times are the fields of a sample behind its value, which are the same for all lines of a label set.
type times struct {
	size  uint8
	bytes [maxTimesSize]byte
}

// newTimes marshals a timestamp and a start timestamp in Unix milliseconds.
func newTimes(timestamp, start int64) (t times) {
	b := appendVarint(t.bytes[:0], tagSampleTimestamp, uint64(timestamp))
	t.size = uint8(len(appendVarint(b, tagSampleStart, uint64(start))))
	return t
}

// samplesSize gives the size of what appendSamples appends.
func samplesSize(values []float64, at []times) int {
	size := 2 * len(values)
	for i, v := range values {
		size += int(at[i].size)
		if v != 0 {
			size += 1 + 8
		}
	}
	return size
}

// appendSamples appends a TimeSeries's fields for samples.
func appendSamples(dst []byte, values []float64, at []times) []byte {
	for i, v := range values {
		t := &at[i]
		if v == 0 {
			dst = append(dst, tagSamples, t.size)
		} else {
			dst = append(dst, tagSamples, t.size+1+8, tagSampleValue)
			dst = binary.LittleEndian.AppendUint64(dst, math.Float64bits(v))
		}
		dst = append(dst, t.bytes[:t.size]...)
	}
	return dst
}
