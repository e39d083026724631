package promwire

import (
	"encoding/binary"
	"math"

	"github.com/prometheus/prometheus/model/histogram"

	"github.com/latpush/latpush/internal/latency"
)

// A native histogram as it is framed here; the fields that are left out are 0 or empty. Only 2.0 has a start_timestamp, and no receiver of 1.0 can be expected
// to know custom_values.
//
//	Histogram   1 uint64 count_int, 3 double sum, 4 sint32 schema, 5 double zero_threshold, 6 uint64 zero_count_int, 11 repeated BucketSpan positive_spans,
//	            12 repeated sint64 positive_deltas, 15 int64 timestamp, 16 repeated double custom_values, 17 int64 start_timestamp
//	BucketSpan  1 sint32 offset, 2 uint32 length
//
// The reset_hint stays 0, "unknown": whether the receiver has the histogram before this one is not known here, so it has to look for resets itself.
const (
	tagCount          = 1 << 3
	tagSum            = 3<<3 | 1
	tagSchema         = 4 << 3
	tagZeroThreshold  = 5<<3 | 1
	tagZeroCount      = 6 << 3
	tagPositiveSpans  = 11<<3 | 2
	tagPositiveDeltas = 12<<3 | 2
	tagTimestamp      = 15 << 3
	tagSpanOffset     = 1 << 3
	tagSpanLength     = 2 << 3
)

// The tags of fields from 16 on have two bytes.
const (
	tagCustomValues   = "\x82\x01" // 16<<3 | 2
	tagStartTimestamp = "\x88\x01" // 17<<3 | 0
)

// customSchema is the schema of a histogram that carries its bounds.
const customSchema = -53

// maxGap is how many empty buckets in a row are sent as such: a new span costs about six bytes, an empty bucket between others one to three.
const maxGap = 2

// native is what is prepared for the native histograms of a family.
type native struct {
	schema    int32
	threshold float64 // upper bound of the zero bucket in seconds, or 0: no zero bucket
	first     int32   // index of the first bucket that is no zero bucket
	overflow  int32   // index of the bucket above all bounds
	custom    []byte  // the custom_values field, or nothing
}

// newNative prepares the histograms of a family with these bounds, as a schema's if exponential is set and they are one's.
//
// In a schema's histogram, what is at most the first bound is in the zero bucket, whose threshold is that bound. What is above the last bound is in the bucket
// that ends at +Inf, the one behind the bucket that ends at the largest float64: all that is known of these events is that no bound is as large, so a quantile
// that falls among them is +Inf. In the bucket next to the last bound they would pass for hardly larger than it.
func newNative(bounds []uint64, exponential bool) *native {
	schema, first, ok := latency.Schema(bounds)
	if !exponential || !ok {
		n := &native{schema: customSchema, overflow: int32(len(bounds))}
		if len(bounds) > 0 {
			n.custom = binary.AppendUvarint([]byte(tagCustomValues), uint64(len(bounds)*8))
		}
		for _, b := range bounds {
			n.custom = binary.LittleEndian.AppendUint64(n.custom, math.Float64bits(latency.Seconds(b)))
		}
		return n
	}
	return &native{schema: schema, threshold: upperBound(schema, first), first: first + 1, overflow: 1024<<schema + 1}
}

// upperBound gives the upper bound of a schema's bucket as Prometheus has it.
func upperBound(schema, index int32) float64 {
	h := histogram.Histogram{Schema: schema, PositiveSpans: []histogram.Span{{Offset: index, Length: 1}}, PositiveBuckets: []int64{1}}
	buckets := h.PositiveBucketIterator()
	buckets.Next()
	return buckets.At().Upper
}

// maxSize is an upper bound of the size of one histogram's field.
func (n *native) maxSize(counts int) int {
	const fixed = 1 + maxLengthSize + (1 + binary.MaxVarintLen64) + (1 + 8) + 3 + (1 + 8) + (1 + binary.MaxVarintLen64) + maxTimesSize + 1
	const span = 2 + 1 + maxLengthSize + 1 + maxLengthSize
	return fixed + len(n.custom) + 1 + maxLengthSize + counts*binary.MaxVarintLen64 + (counts/(maxGap+2)+1)*span
}

// message is one native histogram being marshalled.
type message struct {
	spans  []byte
	deltas []byte
	offset int32 // of the open span
	length uint32
	next   int32 // index behind the last bucket
	last   int64 // count of the last bucket
	bytes  []byte
}

// marshal gives the histogram of one series, without tag and length. The bytes are valid until the next call. Start is left out when it is 0.
func (m *message) marshal(n *native, s *latency.Series, timestamp, start int64) []byte {
	m.spans, m.deltas = m.spans[:0], m.deltas[:0]
	m.length, m.next, m.last = 0, 0, 0
	counts, zero := s.Counts, uint64(0)
	if n.threshold > 0 {
		counts, zero = counts[1:], counts[0]
	}
	for i, c := range counts {
		if c == 0 {
			continue
		}
		at := n.first + int32(i)
		if i == len(counts)-1 {
			at = n.overflow
		}
		m.bucket(at, int64(c))
	}
	m.endSpan()

	b := binary.AppendUvarint(append(m.bytes[:0], tagCount), s.Count())
	if s.Sum != 0 {
		b = binary.LittleEndian.AppendUint64(append(b, tagSum), math.Float64bits(latency.Seconds(s.Sum)))
	}
	b = appendVarint(b, tagSchema, zigzag(int64(n.schema)))
	if n.threshold > 0 {
		b = binary.LittleEndian.AppendUint64(append(b, tagZeroThreshold), math.Float64bits(n.threshold))
	}
	b = binary.AppendUvarint(append(b, tagZeroCount), zero)
	b = append(b, m.spans...)
	if len(m.deltas) > 0 {
		b = append(binary.AppendUvarint(append(b, tagPositiveDeltas), uint64(len(m.deltas))), m.deltas...)
	}
	b = appendVarint(b, tagTimestamp, uint64(timestamp))
	b = append(b, n.custom...)
	if start != 0 {
		b = binary.AppendUvarint(append(b, tagStartTimestamp...), uint64(start))
	}
	m.bytes = b
	return b
}

// stale gives the histogram that ends a series, as Prometheus itself makes it: nothing but the marker for a sum.
func (m *message) stale(timestamp int64) []byte {
	b := append(m.bytes[:0], tagCount, 0, tagSum)
	b = append(binary.LittleEndian.AppendUint64(b, staleNaN), tagZeroCount, 0)
	m.bytes = appendVarint(b, tagTimestamp, uint64(timestamp))
	return m.bytes
}

// bucket adds a bucket that is not empty, and the empty ones before it if they are few.
func (m *message) bucket(index int32, count int64) {
	switch gap := index - m.next; {
	case m.length == 0:
		m.offset = index
	case gap > maxGap:
		m.endSpan()
		m.offset = gap
	default:
		for range gap {
			m.delta(0)
		}
	}
	m.delta(count)
	m.next = index + 1
}

func (m *message) delta(count int64) {
	m.deltas = binary.AppendUvarint(m.deltas, zigzag(count-m.last))
	m.last = count
	m.length++
}

// endSpan writes the open span, if there is one.
func (m *message) endSpan() {
	if m.length == 0 {
		return
	}
	var span [2 + 2*binary.MaxVarintLen32]byte
	b := appendVarint(span[:0], tagSpanOffset, zigzag(int64(m.offset)))
	b = appendVarint(b, tagSpanLength, uint64(m.length))
	m.spans = append(append(m.spans, tagPositiveSpans, byte(len(b))), b...)
	m.length = 0
}

func zigzag(n int64) uint64 { return uint64(n<<1) ^ uint64(n>>63) }
