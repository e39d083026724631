package record

import (
	"encoding/binary"
	"fmt"
	"math"
	"time"

	"github.com/golang/snappy"

	"github.com/latpush/latpush/internal/latency"
)

// Decoder reads records. It keeps its buffers from one record to the next; the zero value is ready. For one goroutine at a time.
// Decoded snapshots share no memory with the decoder or with the bytes they were read from.
type Decoder struct {
	unpacked []byte
	strings  []string // of the record being read; only their headers are kept

	rest   []byte // of the body being read
	counts int    // bucket counts that this record may still have
	err    error  // the first thing that was wrong
}

// Decode returns the snapshot of a record. The error is ErrMalformed or ErrVersion.
func (d *Decoder) Decode(b []byte) (*latency.Snapshot, error) {
	taken, err := ReadInstant(b)
	if err != nil {
		return nil, err
	}
	*d = Decoder{unpacked: d.unpacked, strings: d.strings[:0], rest: b[HeaderSize:], counts: maxCounts}
	if b[1]&flagSnappy != 0 {
		d.unpack()
	}
	d.readStrings()
	families := d.readFamilies()
	if len(d.rest) != 0 {
		d.fail("%d bytes after the last family", len(d.rest))
	}
	clear(d.strings)
	if d.err != nil {
		return nil, fmt.Errorf("decode record: %w", d.err)
	}
	return &latency.Snapshot{Taken: taken, Families: families}, nil
}

// fail notes the first thing that is wrong and leaves nothing more to read.
func (d *Decoder) fail(format string, args ...any) {
	if d.err == nil {
		d.err = fmt.Errorf("%w: "+format, append([]any{ErrMalformed}, args...)...)
	}
	d.rest = nil
}

func (d *Decoder) unpack() {
	size, err := snappy.DecodedLen(d.rest)
	if err != nil {
		d.fail("body: %v", err)
		return
	}
	if size > maxBody {
		d.fail("body of %d bytes", size)
		return
	}
	// The whole capacity is offered: snappy uses it when the length suffices.
	unpacked, err := snappy.Decode(d.unpacked[:cap(d.unpacked)], d.rest)
	if err != nil {
		d.fail("body: %v", err)
		return
	}
	d.unpacked, d.rest = unpacked, unpacked
}

func (d *Decoder) uvarint() uint64 {
	v, n := binary.Uvarint(d.rest)
	if n <= 0 {
		d.fail("number cut short or too long")
		return 0
	}
	d.rest = d.rest[n:]
	return v
}

func (d *Decoder) varint() int64 {
	v, n := binary.Varint(d.rest)
	if n <= 0 {
		d.fail("number cut short or too long")
		return 0
	}
	d.rest = d.rest[n:]
	return v
}

// length reads how many things follow, each of them at least size bytes long, so that no more is allocated than can be there.
func (d *Decoder) length(what string, size int) int {
	n := d.uvarint()
	if n > uint64(len(d.rest)/size) {
		d.fail("%d %s in %d bytes", n, what, len(d.rest))
		return 0
	}
	return int(n)
}

// readStrings fills d.strings with parts of one string, so that a record costs one allocation for all of them.
func (d *Decoder) readStrings() {
	n := d.length("strings", 1)
	lengths, total := d.rest, uint64(0)
	for range n {
		size := d.uvarint()
		if total += size; size > maxBody || total > maxBody {
			d.fail("strings of more than %d bytes", maxBody)
			return
		}
	}
	if total > uint64(len(d.rest)) {
		d.fail("strings of %d bytes in %d bytes", total, len(d.rest))
	}
	if d.err != nil {
		return
	}
	all := string(d.rest[:total])
	d.rest = d.rest[total:]
	for range n {
		size, width := binary.Uvarint(lengths)
		lengths = lengths[width:]
		d.strings = append(d.strings, all[:size])
		all = all[size:]
	}
}

func (d *Decoder) string() string {
	number := d.uvarint()
	if number >= uint64(len(d.strings)) {
		d.fail("string number %d of %d", number, len(d.strings))
		return ""
	}
	return d.strings[number]
}

func (d *Decoder) readFamilies() []latency.Family {
	const smallest = 7 // name, help, unit, kind, and three lengths
	n := d.length("families", smallest)
	if n == 0 {
		return nil
	}
	families := make([]latency.Family, n)
	var before time.Duration
	for i := range families {
		family := &families[i]
		family.Name, family.Help, family.Unit = d.string(), d.string(), d.string()
		family.Kind = d.kind()
		family.Bounds = d.bounds()
		if family.Kind != latency.Histogram && len(family.Bounds) != 0 {
			d.fail("kind %d with bucket bounds", family.Kind)
		}
		if labels := d.length("label names", 1); labels != 0 {
			family.LabelNames = make([]string, labels)
			for j := range family.LabelNames {
				family.LabelNames[j] = d.string()
			}
		}
		before = d.readSeries(family, before)
		if d.err != nil {
			return nil
		}
	}
	return families
}

func (d *Decoder) kind() latency.Kind {
	if len(d.rest) == 0 {
		d.fail("no kind")
		return 0
	}
	kind := latency.Kind(d.rest[0])
	d.rest = d.rest[1:]
	if kind != latency.Histogram && kind != latency.Counter && kind != latency.Gauge {
		d.fail("unknown kind %d", kind)
	}
	return kind
}

func (d *Decoder) bounds() []uint64 {
	n := d.length("bounds", 1)
	if n == 0 {
		return nil
	}
	bounds := make([]uint64, n)
	bounds[0] = d.uvarint()
	for i := 1; i < n; i++ {
		if bounds[i] = bounds[i-1] + d.uvarint(); bounds[i] <= bounds[i-1] {
			d.fail("bounds not ascending")
			return nil
		}
	}
	return bounds
}

// readSeries fills family.Series from three allocations, and returns the start of the last series of the record so far.
func (d *Decoder) readSeries(family *latency.Family, before time.Duration) time.Duration {
	labels, buckets, smallest := len(family.LabelNames), 0, len(family.LabelNames)+9
	if family.Kind == latency.Histogram {
		buckets, smallest = len(family.Bounds)+1, labels+3
	}
	n := d.length("series", smallest)
	if n == 0 {
		return before
	}
	if d.counts -= n * buckets; d.counts < 0 {
		d.fail("more than %d bucket counts", maxCounts)
		return before
	}
	family.Series = make([]latency.Series, n)
	values, counts := make([]string, n*labels), make([]uint64, n*buckets)
	for i := range family.Series {
		series := &family.Series[i]
		if labels != 0 {
			series.LabelValues, values = values[:labels:labels], values[labels:]
		}
		for j := range series.LabelValues {
			series.LabelValues[j] = d.string()
		}
		before += time.Duration(d.varint())
		series.Start = before
		if family.Kind == latency.Histogram {
			series.Sum = d.uvarint()
			series.Counts, counts = counts[:buckets:buckets], counts[buckets:]
			d.readCounts(series.Counts)
		} else {
			series.Value = d.float()
		}
		if d.err != nil {
			break
		}
	}
	return before
}

func (d *Decoder) readCounts(counts []uint64) {
	for i := 0; i < len(counts) && d.err == nil; i++ {
		if counts[i] = d.uvarint(); counts[i] != 0 {
			continue
		}
		more := d.uvarint()
		if more >= uint64(len(counts)-i) {
			d.fail("run of zeros longer than the buckets left")
			return
		}
		i += int(more)
	}
}

func (d *Decoder) float() float64 {
	if len(d.rest) < 8 {
		d.fail("value cut short")
		return 0
	}
	bits := binary.LittleEndian.Uint64(d.rest)
	d.rest = d.rest[8:]
	return math.Float64frombits(bits)
}
