package promwire

import (
	"encoding/binary"
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/latpush/latpush/internal/latency"
)

// family is what is prepared once for a family: the bytes that its label sets share, and its label sets. It keeps nothing of a snapshot.
type family struct {
	// The shape. A family of the same name and another shape is prepared anew.
	kind       latency.Kind
	bounds     []uint64
	labelNames []string

	columns  []column // the labels of a series except __name__ and le, sorted by name
	fallback []string // per label name: the base label's value that stands in for an empty one, or ""
	lines    []line   // the series that one label set has, in the order of an exposition
	sets     map[string]*labelSet

	call uint64 // the last call that had this family
	live int    // label sets that this call had
}

// line is one series of a label set: a counter has one, a histogram of n bounds n+3.
type line struct {
	name   []byte // the __name__ label
	bucket []byte // the le label, or nothing
}

// column is one label of the family's series.
type column struct {
	name    string
	value   int    // index in Series.LabelValues, or -1
	base    string // the value when there is no index
	section int    // which of labelSet's three parts it belongs to
}

// labelSet is what is prepared once for a label set: its labels in three pieces, between which a line puts its __name__ and its le.
type labelSet struct {
	before  []byte // names that sort before "__name__": those that begin with a capital
	between []byte
	after   []byte // names that sort after "le"

	call        uint64 // the last call that had this label set
	block       uint64 // the last block that had it
	first, last int32  // its points of that block, indices in Encoder.points
}

// newFamily prepares a family, or says why it is malformed.
func newFamily(f *latency.Family, base []Label) (*family, error) {
	p := &family{
		kind: f.Kind, bounds: slices.Clone(f.Bounds), labelNames: make([]string, len(f.LabelNames)), fallback: make([]string, len(f.LabelNames)),
		sets: make(map[string]*labelSet, len(f.Series)),
	}
	for i, n := range f.LabelNames {
		p.labelNames[i] = strings.Clone(n)
		p.columns = append(p.columns, column{name: strings.Clone(validUTF8(n)), value: i})
	}
	for _, b := range base {
		if i := slices.IndexFunc(p.columns, func(c column) bool { return c.name == b.Name }); i >= 0 {
			p.fallback[i] = b.Value
			continue
		}
		p.columns = append(p.columns, column{name: b.Name, value: -1, base: b.Value})
	}
	slices.SortFunc(p.columns, func(a, b column) int { return strings.Compare(a.name, b.name) })
	if err := p.checkColumns(); err != nil {
		return nil, err
	}
	return p, p.addLines(validUTF8(f.Name))
}

// checkColumns refuses names that would make a label set invalid, and sets each column's section.
func (p *family) checkColumns() error {
	for i := range p.columns {
		c := &p.columns[i]
		switch {
		case c.name == "":
			return fmt.Errorf("%w: a label name is empty", ErrMalformed)
		case c.name == nameLabel, c.name == bucketLabel && p.kind == latency.Histogram:
			return fmt.Errorf("%w: the label name %q is reserved", ErrMalformed, c.name)
		case i > 0 && c.name == p.columns[i-1].name:
			return fmt.Errorf("%w: the label name %q is there twice", ErrMalformed, c.name)
		}
		if c.name > nameLabel {
			c.section = 1
		}
		if c.name > bucketLabel {
			c.section = 2
		}
	}
	return nil
}

func (p *family) addLines(name string) error {
	add := func(suffix, le string) {
		l := line{name: appendLabel(nil, nameLabel, name+suffix)}
		if le != "" {
			l.bucket = appendLabel(nil, bucketLabel, le)
		}
		p.lines = append(p.lines, l)
	}
	switch p.kind {
	case latency.Counter, latency.Gauge:
		add("", "")
		return nil
	case latency.Histogram:
	default:
		return fmt.Errorf("%w: kind %d is not known", ErrMalformed, p.kind)
	}
	previous := ""
	for i, b := range p.bounds {
		le := latency.LE(b)
		if i > 0 && (b <= p.bounds[i-1] || le == previous) {
			return fmt.Errorf("%w: bounds do not ascend (%d ns after %d ns)", ErrMalformed, b, p.bounds[i-1])
		}
		add("_bucket", le)
		previous = le
	}
	add("_bucket", latency.LEInf)
	add("_sum", "")
	add("_count", "")
	return nil
}

// fits tells whether f has the shape that was prepared.
func (p *family) fits(f *latency.Family) bool {
	return p.kind == f.Kind && slices.Equal(p.bounds, f.Bounds) && slices.Equal(p.labelNames, f.LabelNames)
}

// check tells what is wrong with one series of a family of this shape.
func (p *family) check(s *latency.Series) error {
	if len(s.LabelValues) != len(p.labelNames) {
		return fmt.Errorf("%w: %d label values for %d label names", ErrMalformed, len(s.LabelValues), len(p.labelNames))
	}
	if p.kind == latency.Histogram && len(s.Counts) != len(p.bounds)+1 {
		return fmt.Errorf("%w: %d counts for %d bounds", ErrMalformed, len(s.Counts), len(p.bounds))
	}
	return nil
}

// value gives label value i as it is sent: valid UTF-8, and the base label's where the series has none.
func (p *family) value(values []string, i int) string {
	v := values[i]
	if v == "" {
		return p.fallback[i]
	}
	if utf8.ValidString(v) {
		return v
	}
	return validUTF8(v)
}

// key appends what tells one label set of the family from another: its values as they are sent, so that two which would be sent alike are one.
func (p *family) key(dst []byte, values []string) []byte {
	for i := range values {
		v := p.value(values, i)
		dst = append(binary.AppendUvarint(dst, uint64(len(v))), v...)
	}
	return dst
}

// newLabelSet prepares the labels of one label set.
func (p *family) newLabelSet(values []string) *labelSet {
	var parts [3][]byte
	for _, c := range p.columns {
		v := c.base
		if c.value >= 0 {
			v = p.value(values, c.value)
		}
		if v != "" {
			parts[c.section] = appendLabel(parts[c.section], c.name, v)
		}
	}
	return &labelSet{before: slices.Clip(parts[0]), between: slices.Clip(parts[1]), after: slices.Clip(parts[2])}
}

// evict forgets the label sets that the call did not have.
func (p *family) evict(call uint64) {
	if len(p.sets) == p.live {
		return
	}
	for k, s := range p.sets {
		if s.call != call {
			delete(p.sets, k)
		}
	}
}
