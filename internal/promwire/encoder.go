package promwire

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/prometheus/prometheus/model/relabel"

	"github.com/latpush/latpush/internal/latency"
)

// ErrMalformed is in the error of Encode when a snapshot contradicts itself, for example with fewer label values than label names.
var ErrMalformed = errors.New("malformed snapshot")

// Encoder makes remote write requests of snapshots, for one receiver. It keeps the prepared labels of the label sets that its last call had, what was last
// accepted of each, and its buffers. It is for one goroutine.
type Encoder struct {
	o        Options
	base     []Label
	rules    []*relabel.Config
	families map[string][]*family // by name; more than one only around a change of shape
	symbols  *symbols
	claims   map[string]*claim
	call     uint64 // number of the call, marks what it had
	block    uint64 // number of the block, likewise
	pending  bool   // the call has something to accept
	out      packer

	// Scratch of one call.
	ticks   []tick
	moments []int64 // the ticks' timestamps, each once
	column  []entry
	blocks  []block
	sets    []*labelSet
	missing []*labelSet
	points  []point
	steps   []step
	key     []byte
	errs    []error
	failed  string // the family that the last error is about: one for each is enough
	writer  writer
}

// tick is one of the call's snapshots.
type tick struct {
	ms     int64 // its timestamp
	moment int   // the index of that
	snap   *latency.Snapshot
	next   int // index of the first family that is not done
}

// entry is one family at one timestamp.
type entry struct {
	moment int
	taken  *latency.Instant
	family *latency.Family
}

// NewEncoder makes an Encoder. The error is that of Options.Validate.
func NewEncoder(o Options) (*Encoder, error) {
	rules, err := o.validate()
	if err != nil {
		return nil, err
	}
	e := &Encoder{o: o, base: o.baseLabels(), rules: rules, families: make(map[string][]*family), symbols: newSymbols(), claims: make(map[string]*claim)}
	e.out = packer{symbols: e.symbols, maxSamples: cmp.Or(o.MaxSamples, defaultMaxSamples), maxBytes: cmp.Or(o.MaxBytes, defaultMaxBytes)}
	return e, nil
}

// Encode makes the requests that carry snaps, to be sent one after the other. A sample's timestamp is its snapshot's Taken.Wall in milliseconds. The samples of
// a series ascend strictly: of two snapshots with the same millisecond the later argument counts. Snapshots may be given in any order of time, but since a
// receiver judges age against the newest sample that it has, those of one call should lie within minutes.
//
// A label set that the last accepted snapshot or the snapshot before has and this one has not ends with a stale marker, if Options has them. The call can be
// repeated, in the other protocol too: until Accept is called, it has no effect on what later calls give.
//
// The requests and their bodies are valid until the next call of Encode or Stale. The error joins one ErrMalformed for each family that was left out, wholly or
// in part; the requests then hold the rest.
func (e *Encoder) Encode(p Protocol, snaps ...*latency.Snapshot) ([]Request, error) {
	e.begin(p, snaps)
	for e.nextFamily() {
		e.encodeFamily(e.column)
	}
	if len(e.moments) > 0 {
		for _, f := range e.vanished() {
			e.encodeBlock(block{family: f, last: len(e.moments) - 1})
		}
	}
	e.end()
	return e.out.end(), errors.Join(e.errs...)
}

// Stale makes the requests that end every series of the last accepted snapshot, for a clean stop; none without Options.StaleMarkers. The time is that of the
// markers, and has to be after the last snapshot's.
func (e *Encoder) Stale(p Protocol, at time.Time) ([]Request, error) {
	e.begin(p, nil)
	e.moments, e.pending = append(e.moments, at.UnixMilli()), true
	for _, f := range e.vanished() {
		e.encodeBlock(block{family: f})
	}
	e.end()
	return e.out.end(), nil
}

func (e *Encoder) begin(p Protocol, snaps []*latency.Snapshot) {
	e.call++
	e.errs, e.failed, e.pending = e.errs[:0], "", len(snaps) > 0
	e.ticks, e.moments = e.ticks[:0], e.moments[:0]
	for _, s := range snaps {
		e.ticks = append(e.ticks, tick{ms: s.Taken.Wall.UnixMilli(), snap: s})
	}
	slices.SortStableFunc(e.ticks, func(a, b tick) int { return cmp.Compare(a.ms, b.ms) })
	for i := range e.ticks {
		t := &e.ticks[i]
		if i == 0 || t.ms != e.ticks[i-1].ms {
			e.moments = append(e.moments, t.ms)
		}
		t.moment = len(e.moments) - 1
	}
	e.out.begin(p)
}

// end forgets what neither the call nor the last accepted snapshot had, and the snapshots.
func (e *Encoder) end() {
	e.evict(e.call)
	clear(e.ticks)
	clear(e.column[:cap(e.column)])
	clear(e.blocks[:cap(e.blocks)])
	clear(e.sets[:cap(e.sets)])
	clear(e.missing[:cap(e.missing)])
	clear(e.steps[:cap(e.steps)])
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
		e.column = append(e.column, entry{t.moment, &t.snap.Taken, &t.snap.Families[t.next]})
		// A name that is not greater than this one would be the same series a second time.
		for t.next++; t.next < len(t.snap.Families) && t.snap.Families[t.next].Name <= name; t.next++ {
			e.fail(t.snap.Families[t.next].Name, fmt.Errorf("%w: families are not sorted by name, or one is there twice", ErrMalformed))
		}
	}
	return found
}

// family gives what is prepared for a family of that name and shape.
func (e *Encoder) family(f *latency.Family) (*family, error) {
	variants := e.families[f.Name]
	i := slices.IndexFunc(variants, func(p *family) bool { return p.fits(f) })
	if i < 0 {
		if f.Name == "" {
			return nil, fmt.Errorf("%w: the family has no name", ErrMalformed)
		}
		p, err := e.newFamily(f)
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

func (e *Encoder) fail(name string, err error) {
	if len(e.errs) > 0 && e.failed == name {
		return
	}
	e.failed = name
	e.errs = append(e.errs, fmt.Errorf("encode family %q: %w", name, err))
}
