package promwire

import (
	"encoding/binary"
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/latpush/latpush/internal/latency"
)

// family is what is prepared once for a family: what its label sets share, and its label sets. It keeps nothing of a snapshot.
type family struct {
	// The shape. A family of the same name and another shape is prepared anew.
	name       string
	kind       latency.Kind
	bounds     []uint64
	labelNames []string

	columns  []column      // the labels of a series except __name__ and le, sorted by name
	fallback []string      // per label name: the base label's value that stands in for an empty one, or ""
	lines    [forms][]line // the series that one label set has in each form, in the order of an exposition
	longest  int           // names and values that a line adds to the label set's, at most
	native   *native       // nil: no native form
	sets     map[string]*labelSet

	symbols        []uint32 // what the lines and columns use
	nameRef, leRef uint32   // "__name__", "le"
	help, unit     string
	helpRef        uint32
	unitRef        uint32

	call   uint64 // the last call that had this family
	walked uint64 // the last call in which its label sets were asked for
	live   int    // label sets that this call had
	alive  int    // label sets that the last accepted snapshot had
}

// line is one series of a label set: a counter has one, a histogram of n bounds n+3.
type line struct {
	name, le       string // le is empty unless it is a bucket
	nameRef, leRef uint32 // their symbols

	nameField, leField []byte // the labels as 1.0 has them; no leField unless it is a bucket
}

// column is one label of the family's series.
type column struct {
	name    string
	symbol  uint32
	value   int    // index in Series.LabelValues, or -1
	base    string // the value when there is no index
	section int    // which of labelSet's three parts it belongs to
}

// newFamily prepares a family, or says why it is malformed.
func (e *Encoder) newFamily(f *latency.Family) (*family, error) {
	p := &family{
		name: strings.Clone(f.Name), kind: f.Kind, bounds: slices.Clone(f.Bounds), labelNames: make([]string, len(f.LabelNames)),
		fallback: make([]string, len(f.LabelNames)), sets: make(map[string]*labelSet, len(f.Series)),
	}
	for i, n := range f.LabelNames {
		p.labelNames[i] = strings.Clone(n)
		p.columns = append(p.columns, column{name: strings.Clone(validUTF8(n)), value: i})
	}
	for _, b := range e.base {
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
	if err := p.addLines(validUTF8(f.Name)); err != nil {
		return nil, err
	}
	if f.Kind == latency.Histogram && !e.o.NoNative && e.o.Histograms != nil {
		if h := e.o.Histograms(p.name); h == Custom || h == Exponential {
			p.native = newNative(p.bounds, h == Exponential)
		}
	}
	e.number(p)
	return p, nil
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
	add := func(suffix, le string) { p.lines[asLines] = append(p.lines[asLines], newLine(name+suffix, le)) }
	p.lines[asNative] = []line{newLine(name, "")}
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

func newLine(name, le string) line {
	l := line{name: name, le: le, nameField: appendLabel(nil, nameLabel, name)}
	if le != "" {
		l.leField = appendLabel(nil, bucketLabel, le)
	}
	return l
}

// number gives all strings of a family that its label sets share their symbols.
func (e *Encoder) number(p *family) {
	use := func(text string) uint32 {
		n := e.symbols.use(text)
		p.symbols = append(p.symbols, n)
		return n
	}
	p.nameRef, p.leRef = use(nameLabel), use(bucketLabel)
	for i := range p.columns {
		p.columns[i].symbol = use(p.columns[i].name)
	}
	for _, lines := range p.lines {
		for i := range lines {
			l := &lines[i]
			l.nameRef, l.leRef = use(l.name), use(l.le)
			p.longest = max(p.longest, len(nameLabel)+len(l.name)+len(bucketLabel)+len(l.le))
		}
	}
}

// describe sets a family's help and unit, which may change while its shape does not. Without Options.Metadata they stay empty.
func (e *Encoder) describe(p *family, f *latency.Family) {
	if !e.o.Metadata || p.help == f.Help && p.unit == f.Unit {
		return
	}
	e.symbols.drop([]uint32{p.helpRef, p.unitRef})
	p.help, p.unit = strings.Clone(f.Help), strings.Clone(f.Unit)
	p.helpRef, p.unitRef = e.symbols.use(validUTF8(p.help)), e.symbols.use(validUTF8(p.unit))
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
