package promwire

import (
	"encoding/binary"
	"slices"
	"strings"
	"time"

	"github.com/latpush/latpush/internal/latency"
)

// labelSet is what is prepared once for a label set: its labels in three pieces, between which a line puts its __name__ and its le.
//
//	0: names that sort before "__name__", those that begin with a capital
//	1: those between
//	2: names that sort after "le"
type labelSet struct {
	key       string    // its key in family.sets
	symbols   []uint32  // of names and values, in pairs
	cut       [2]int    // where pieces 1 and 2 begin in symbols
	fields    [3][]byte // the pieces as 1.0 has them; made when 1.0 first needs them
	size      int       // of all names and values
	relabeled [forms][]relabeled

	state, next state // as of the last accepted call; as of the end of the last call

	call        uint64 // the last call that had this label set
	block       uint64 // the last block that had it
	first, last int32  // its points of that block, indices in Encoder.points
}

// state is what is known of a label set between calls.
type state struct {
	alive bool // the newest snapshot has it
	form  form // how it was sent

	origin uint64 // tells one beginning of the counting from another
	start  int64  // that beginning in Unix milliseconds

	sent  int64  // timestamp of what was last sent, in Unix milliseconds
	print uint64 // fingerprint of that
}

// piece gives the symbols of one piece.
func (s *labelSet) piece(i int) []uint32 {
	switch i {
	case 0:
		return s.symbols[:s.cut[0]]
	case 1:
		return s.symbols[s.cut[0]:s.cut[1]]
	default:
		return s.symbols[s.cut[1]:]
	}
}

// newLabelSet prepares the labels of one label set.
func (e *Encoder) newLabelSet(p *family, key string, values []string) *labelSet {
	s := &labelSet{key: key, symbols: make([]uint32, 0, 2*len(p.columns))}
	for i := range p.columns {
		c := &p.columns[i]
		v := c.base
		if c.value >= 0 {
			v = p.value(values, c.value)
		}
		if v == "" {
			continue
		}
		s.symbols = append(s.symbols, e.symbols.use(c.name), e.symbols.use(v))
		s.size += len(c.name) + len(v)
		if c.section == 0 {
			s.cut[0] = len(s.symbols)
		}
		if c.section <= 1 {
			s.cut[1] = len(s.symbols)
		}
	}
	return s
}

// needFields makes the pieces as 1.0 has them.
func (e *Encoder) needFields(s *labelSet) {
	if s.fields[0] != nil {
		return
	}
	for i := range s.fields {
		s.fields[i] = slices.Clip(e.appendFields([]byte{}, s.piece(i)))
	}
}

// appendFields appends labels as 1.0 has them.
func (e *Encoder) appendFields(dst []byte, symbols []uint32) []byte {
	for i := 0; i < len(symbols); i += 2 {
		dst = appendLabel(dst, e.symbols.table[symbols[i]].text, e.symbols.table[symbols[i+1]].text)
	}
	return dst
}

// labelSet gives what is prepared for a label set.
func (e *Encoder) labelSet(f *family, values []string) *labelSet {
	e.key = f.key(e.key[:0], values)
	s, ok := f.sets[string(e.key)]
	if !ok {
		key := string(e.key)
		s = e.newLabelSet(f, key, values)
		f.sets[key] = s
	}
	e.touch(f, s)
	return s
}

// touch marks a label set as one that the call has to do with.
func (e *Encoder) touch(f *family, s *labelSet) {
	if s.call == e.call {
		return
	}
	s.call, s.next = e.call, s.state
	if f.call != e.call {
		f.call, f.live = e.call, 0
	}
	f.live++
}

// gone gives the label sets of a family that are alive so far in this call and not in the last block, sorted. The result is valid until the next call.
func (e *Encoder) gone(f *family) []*labelSet {
	f.walked = e.call
	e.missing = e.missing[:0]
	for _, s := range f.sets {
		if alive := s.call == e.call && s.next.alive || s.call != e.call && s.state.alive; alive && s.block != e.block {
			e.touch(f, s)
			e.missing = append(e.missing, s)
		}
	}
	slices.SortFunc(e.missing, func(a, b *labelSet) int { return strings.Compare(a.key, b.key) })
	return e.missing
}

// survivor gives the shape of a family of this name that has label sets of the last accepted snapshot, or nil.
func (e *Encoder) survivor(name string) *family {
	for _, f := range e.families[name] {
		if f.alive > 0 {
			return f
		}
	}
	return nil
}

// vanished gives the families whose label sets are alive and which the call did not have, sorted by name.
func (e *Encoder) vanished() []*family {
	var missing []*family
	for _, variants := range e.families {
		for _, f := range variants {
			if f.alive > 0 && f.walked != e.call {
				missing = append(missing, f)
			}
		}
	}
	slices.SortFunc(missing, func(a, b *family) int { return strings.Compare(a.name, b.name) })
	return missing
}

// Accept says that what the last call of Encode or Stale made is delivered, or refused for good. From then on, label sets are idle or missing in relation to
// its newest snapshot. Without this call the next one repeats what this one had to say.
func (e *Encoder) Accept() {
	if !e.pending {
		return
	}
	e.pending = false
	for _, variants := range e.families {
		for _, f := range variants {
			f.alive = 0
			for _, s := range f.sets {
				if s.call == e.call {
					s.state = s.next
				}
				if s.state.alive {
					f.alive++
				}
			}
		}
	}
	e.evict(0)
}

// evict forgets the label sets that the last accepted snapshot has not and that the call of the given number has not either.
func (e *Encoder) evict(call uint64) {
	for name, variants := range e.families {
		variants = slices.DeleteFunc(variants, func(f *family) bool {
			if len(f.sets) > f.alive && (f.call != call || len(f.sets) > f.live) {
				e.evictSets(f, call)
			}
			if f.call == call || len(f.sets) > 0 {
				return false
			}
			e.symbols.drop(append(f.symbols, f.helpRef, f.unitRef))
			return true
		})
		if e.families[name] = variants; len(variants) == 0 {
			delete(e.families, name)
		}
	}
}

func (e *Encoder) evictSets(f *family, call uint64) {
	for key, s := range f.sets {
		if s.call != call && !s.state.alive {
			e.release(s)
			delete(f.sets, key)
		}
	}
}

// release gives back what a label set uses.
func (e *Encoder) release(s *labelSet) {
	e.symbols.drop(s.symbols)
	for _, lines := range s.relabeled {
		for i := range lines {
			e.symbols.drop(lines[i].symbols)
			e.disown(&lines[i])
		}
	}
}

// startOf gives when the counting of a series began, in Unix milliseconds, or 0 if that is not known. The wall clock's corrections move the time that is computed
// for one and the same beginning from snapshot to snapshot; a receiver takes every other start for a counter's reset, so the first one is kept while the
// computed one is less than maxDrift away.
func (st *state) startOf(kind latency.Kind, taken *latency.Instant, s *latency.Series) int64 {
	const maxDrift = int64(time.Second / time.Millisecond)
	if kind == latency.Gauge {
		return 0
	}
	start := taken.Wall.Add(s.Start - taken.Boottime).UnixMilli()
	origin := binary.LittleEndian.Uint64(taken.BootID[:]) ^ uint64(s.Start)
	if drift := start - st.start; st.start == 0 || st.origin != origin || drift >= maxDrift || drift <= -maxDrift {
		st.origin, st.start = origin, start
		if start == 0 {
			st.start = 1 // 0 means "not known"
		}
	}
	if st.start >= taken.Wall.UnixMilli() {
		return 0 // no receiver takes it
	}
	return st.start
}

// fingerprint tells one state of a series from another: states that are not equal have the same one by a chance of 2^-64.
func fingerprint(s *latency.Series, valueBits uint64, start int64) uint64 {
	h := uint64(0xcbf29ce484222325)
	mix := func(n uint64) {
		h = (h ^ n) * 0x9e3779b97f4a7c15
		h ^= h >> 32
	}
	mix(s.Sum)
	mix(valueBits)
	mix(uint64(start))
	for _, n := range s.Counts {
		mix(n)
	}
	return h
}
