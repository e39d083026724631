package promwire

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/latpush/latpush/internal/latency"
)

// ErrMalformed is in the error of Encode when a snapshot contradicts itself, for example with fewer label values than label names.
var ErrMalformed = errors.New("malformed snapshot")

// Encoder makes remote write 1.0 requests of snapshots. It keeps the prepared labels of the label sets that its last call had, and its buffers. It is for one
// goroutine.
type Encoder struct {
	base     []Label
	families map[string][]*family // by name; more than one only in a call that spans a change of shape
	call     uint64               // number of the call, marks what it had
	block    uint64               // number of the block, likewise
	out      packer

	// Scratch of one call.
	ticks  []tick
	column []entry
	sets   []*labelSet
	points []point
	key    []byte
	cum    []uint64
	stamps []int64   // Unix milliseconds
	values []float64 // per line of a label set, then per stamp
	errs   []error
	failed string // the family that the last error is about: one for each is enough
}

// tick is one of the call's snapshots.
type tick struct {
	ms   int64 // its timestamp
	snap *latency.Snapshot
	next int // index of the first family that is not done
}

// entry is one family at one timestamp.
type entry struct {
	ms     int64
	family *latency.Family
}

// point is one state of a label set.
type point struct {
	entry  int32 // index in the block
	series int32 // index in the entry's family
	next   int32 // index of the label set's next point, or -1
}

// NewEncoder makes an Encoder. The error is that of Options.Validate.
func NewEncoder(o Options) (*Encoder, error) {
	if err := o.Validate(); err != nil {
		return nil, err
	}
	e := &Encoder{base: o.baseLabels(), families: make(map[string][]*family)}
	e.out.max = cmp.Or(o.MaxSamples, defaultMaxSamples)
	return e, nil
}

// Encode makes the requests that carry snaps, to be sent one after the other. A sample's timestamp is its snapshot's Taken.Wall in milliseconds. The samples of
// a series ascend strictly: of two snapshots with the same millisecond the later argument counts. Snapshots may be given in any order of time, but since a
// receiver judges age against the newest sample that it has, those of one call should lie within minutes.
//
// The requests and their bodies are valid until the next call. The error joins one ErrMalformed for each family that was left out, wholly or in part; the
// requests then hold the rest.
func (e *Encoder) Encode(snaps ...*latency.Snapshot) ([]Request, error) {
	e.begin(snaps)
	for e.nextFamily() {
		e.encodeFamily(e.column)
	}
	e.end()
	return e.out.end(), errors.Join(e.errs...)
}

func (e *Encoder) begin(snaps []*latency.Snapshot) {
	e.call++
	e.errs, e.failed = e.errs[:0], ""
	e.ticks = e.ticks[:0]
	for _, s := range snaps {
		e.ticks = append(e.ticks, tick{ms: s.Taken.Wall.UnixMilli(), snap: s})
	}
	slices.SortStableFunc(e.ticks, func(a, b tick) int { return cmp.Compare(a.ms, b.ms) })
	e.out.begin()
}

// end forgets what the call did not have, and the snapshots.
func (e *Encoder) end() {
	for name, variants := range e.families {
		variants = slices.DeleteFunc(variants, func(f *family) bool { return f.call != e.call })
		if len(variants) == 0 {
			delete(e.families, name)
			continue
		}
		e.families[name] = variants
		for _, f := range variants {
			f.evict(e.call)
		}
	}
	clear(e.ticks)
	clear(e.column[:cap(e.column)])
	clear(e.sets[:cap(e.sets)])
}

// nextFamily fills the column with the next family by name, one entry for each snapshot that has it, ascending in time.
func (e *Encoder) nextFamily() bool {
	name, found := "", false
	for i := range e.ticks {
		t := &e.ticks[i]
		if t.next < len(t.snap.Families) && (!found || t.snap.Families[t.next].Name < name) {
			name, found = t.snap.Families[t.next].Name, true
		}
	}
	e.column = e.column[:0]
	for i := range e.ticks {
		t := &e.ticks[i]
		if t.next == len(t.snap.Families) || t.snap.Families[t.next].Name != name {
			continue
		}
		e.column = append(e.column, entry{t.ms, &t.snap.Families[t.next]})
		// A name that is not greater than this one would be the same series a second time.
		for t.next++; t.next < len(t.snap.Families) && t.snap.Families[t.next].Name <= name; t.next++ {
			e.fail(t.snap.Families[t.next].Name, fmt.Errorf("%w: families are not sorted by name, or one is there twice", ErrMalformed))
		}
	}
	return found
}

// encodeFamily encodes all states of the families of one name. Where its shape changes, the lines that both shapes have are the same series; so the two go in
// different requests, the older first.
func (e *Encoder) encodeFamily(column []entry) {
	for len(column) > 0 {
		f, err := e.family(column[0].family)
		if err != nil {
			e.fail(column[0].family.Name, err)
			column = column[1:]
			continue
		}
		n := 1
		for n < len(column) && f.fits(column[n].family) {
			n++
		}
		block := column[:n]
		column = column[n:]
		for len(column) > 0 && len(block) > 0 && block[len(block)-1].ms == column[0].ms {
			block = block[:len(block)-1]
		}
		e.gather(f, block)
		for _, s := range e.sets {
			e.encodeLabelSet(f, s, block)
		}
		if len(column) > 0 {
			e.out.flush()
		}
	}
}

// family gives what is prepared for a family of that name and shape.
func (e *Encoder) family(f *latency.Family) (*family, error) {
	variants := e.families[f.Name]
	i := slices.IndexFunc(variants, func(p *family) bool { return p.fits(f) })
	if i < 0 {
		if f.Name == "" {
			return nil, fmt.Errorf("%w: the family has no name", ErrMalformed)
		}
		p, err := newFamily(f, e.base)
		if err != nil {
			return nil, err
		}
		variants = append(variants, p)
		i = len(variants) - 1
		e.families[strings.Clone(f.Name)] = variants
	}
	p := variants[i]
	if p.call != e.call {
		p.call, p.live = e.call, 0
	}
	return p, nil
}

// gather sorts the block's series by label set: e.sets are the label sets in order of appearance, each with its points ascending in time.
func (e *Encoder) gather(f *family, block []entry) {
	e.block++
	e.sets, e.points = e.sets[:0], e.points[:0]
	for i, en := range block {
		for j := range en.family.Series {
			values := en.family.Series[j].LabelValues
			err := f.check(&en.family.Series[j])
			if err == nil && !e.add(e.labelSet(f, values), block, int32(i), int32(j)) {
				err = fmt.Errorf("%w: more than one series would be sent with the labels of %q", ErrMalformed, values)
			}
			if err != nil {
				e.fail(en.family.Name, err)
			}
		}
	}
}

// labelSet gives what is prepared for a label set.
func (e *Encoder) labelSet(f *family, values []string) *labelSet {
	e.key = f.key(e.key[:0], values)
	s, ok := f.sets[string(e.key)]
	if !ok {
		s = f.newLabelSet(values)
		f.sets[string(e.key)] = s
	}
	if s.call != e.call {
		s.call = e.call
		f.live++
	}
	return s
}

// add adds one state to a label set, or replaces the older one of the same millisecond. It refuses a second state of one snapshot.
func (e *Encoder) add(s *labelSet, block []entry, i, j int32) bool {
	if s.block != e.block {
		s.block, s.first = e.block, int32(len(e.points))
		e.sets = append(e.sets, s)
	} else {
		last := &e.points[s.last]
		if last.entry == i {
			return false
		}
		if block[last.entry].ms == block[i].ms {
			last.entry, last.series = i, j
			return true
		}
		last.next = int32(len(e.points))
	}
	s.last = int32(len(e.points))
	e.points = append(e.points, point{entry: i, series: j, next: -1})
	return true
}

// encodeLabelSet writes all points of a label set, as many in one request as there is room for.
func (e *Encoder) encodeLabelSet(f *family, s *labelSet, block []entry) {
	for at := s.first; at >= 0; {
		next := at
		e.stamps = e.stamps[:0]
		for n := e.out.room(len(f.lines)); next >= 0 && len(e.stamps) < n; next = e.points[next].next {
			ms := block[e.points[next].entry].ms
			e.stamps = append(e.stamps, ms)
			e.out.oldest, e.out.newest = min(e.out.oldest, ms), max(e.out.newest, ms)
		}
		n := len(e.stamps)
		e.values = slices.Grow(e.values[:0], n*len(f.lines))[:n*len(f.lines)]
		for k := range n {
			p := e.points[at]
			e.fill(f.kind, &block[p.entry].family.Series[p.series], k, n)
			at = p.next
		}
		for i := range f.lines {
			e.out.timeSeries(s, &f.lines[i], e.values[i*n:(i+1)*n], e.stamps)
		}
	}
}

// fill sets the values of all lines of one series at stamp k of n.
func (e *Encoder) fill(kind latency.Kind, s *latency.Series, k, n int) {
	if kind != latency.Histogram {
		e.values[k] = s.Value
		return
	}
	e.cum = latency.Cumulative(e.cum, s.Counts)
	for i, c := range e.cum {
		e.values[i*n+k] = float64(c)
	}
	e.values[len(e.cum)*n+k] = latency.Seconds(s.Sum)
	e.values[(len(e.cum)+1)*n+k] = float64(e.cum[len(e.cum)-1])
}

func (e *Encoder) fail(name string, err error) {
	if len(e.errs) > 0 && e.failed == name {
		return
	}
	e.failed = name
	e.errs = append(e.errs, fmt.Errorf("encode family %q: %w", name, err))
}
