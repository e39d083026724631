package record

import (
	"encoding/binary"
	"fmt"
	"math"
	"time"

	"github.com/golang/snappy"

	"github.com/latpush/latpush/internal/latency"
)

// Encoder writes records. It keeps its buffers from one record to the next; the zero value is ready. For one goroutine at a time.
type Encoder struct {
	numbers  map[string]uint64 // string -> its number in the record
	strings  []string          // by number
	families []byte
	body     []byte
	packed   []byte
}

// Encode appends the record of a snapshot to dst. The error is ErrInvalid or ErrTooLarge; dst is then returned as it was.
func (e *Encoder) Encode(dst []byte, snapshot *latency.Snapshot) ([]byte, error) {
	if err := check(snapshot); err != nil {
		return dst, fmt.Errorf("encode snapshot: %w", err)
	}
	e.encodeFamilies(snapshot.Families)
	e.encodeBody()
	if len(e.body) > maxBody {
		return dst, fmt.Errorf("encode snapshot: %w: %d bytes, at most %d fit in a record", ErrTooLarge, len(e.body), maxBody)
	}
	start := len(dst)
	dst = appendHeader(dst, snapshot.Taken)
	if need := snappy.MaxEncodedLen(len(e.body)); cap(e.packed) < need {
		e.packed = make([]byte, need)
	}
	e.packed = snappy.Encode(e.packed[:cap(e.packed)], e.body)
	if len(e.packed) >= len(e.body) {
		return append(dst, e.body...), nil
	}
	dst[start+1] |= flagSnappy
	return append(dst, e.packed...), nil
}

// encodeFamilies fills e.families and numbers the strings.
func (e *Encoder) encodeFamilies(families []latency.Family) {
	if e.numbers == nil {
		e.numbers = make(map[string]uint64)
	}
	b := binary.AppendUvarint(e.families[:0], uint64(len(families)))
	var before time.Duration
	for i := range families {
		family := &families[i]
		b = e.appendString(b, family.Name)
		b = e.appendString(b, family.Help)
		b = e.appendString(b, family.Unit)
		b = append(b, byte(family.Kind))
		b = appendBounds(b, family.Bounds)
		b = binary.AppendUvarint(b, uint64(len(family.LabelNames)))
		for _, name := range family.LabelNames {
			b = e.appendString(b, name)
		}
		b = binary.AppendUvarint(b, uint64(len(family.Series)))
		for j := range family.Series {
			series := &family.Series[j]
			for _, value := range series.LabelValues {
				b = e.appendString(b, value)
			}
			b = binary.AppendVarint(b, int64(series.Start-before))
			before = series.Start
			if family.Kind == latency.Histogram {
				b = binary.AppendUvarint(b, series.Sum)
				b = appendCounts(b, series.Counts)
			} else {
				b = binary.LittleEndian.AppendUint64(b, math.Float64bits(series.Value))
			}
		}
	}
	e.families = b
}

// encodeBody puts the strings in front of the families and forgets the strings, which belong to the caller's snapshot.
func (e *Encoder) encodeBody() {
	b := binary.AppendUvarint(e.body[:0], uint64(len(e.strings)))
	for _, s := range e.strings {
		b = binary.AppendUvarint(b, uint64(len(s)))
	}
	for _, s := range e.strings {
		b = append(b, s...)
	}
	e.body = append(b, e.families...)
	clear(e.numbers)
	clear(e.strings)
	e.strings = e.strings[:0]
}

// appendString appends the number of a string, giving it the next one when it is new.
func (e *Encoder) appendString(b []byte, s string) []byte {
	number, ok := e.numbers[s]
	if !ok {
		number = uint64(len(e.strings))
		e.numbers[s] = number
		e.strings = append(e.strings, s)
	}
	return binary.AppendUvarint(b, number)
}

func appendBounds(b []byte, bounds []uint64) []byte {
	b = binary.AppendUvarint(b, uint64(len(bounds)))
	before := uint64(0)
	for _, bound := range bounds {
		b = binary.AppendUvarint(b, bound-before)
		before = bound
	}
	return b
}

func appendCounts(b []byte, counts []uint64) []byte {
	for i := 0; i < len(counts); {
		if counts[i] != 0 {
			b = binary.AppendUvarint(b, counts[i])
			i++
			continue
		}
		end := i + 1
		for end < len(counts) && counts[end] == 0 {
			end++
		}
		b = append(b, 0)
		b = binary.AppendUvarint(b, uint64(end-i-1))
		i = end
	}
	return b
}
