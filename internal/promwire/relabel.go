package promwire

import (
	"encoding/binary"
	"unicode/utf8"

	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/relabel"
)

// relabeled is what the relabelling rules make of one line of one label set.
type relabeled struct {
	symbols []uint32 // names and values in pairs, sorted by name; none when the line is left out
	size    int      // of the names and values
	claim   *claim
}

// claim is one series as it is sent. Rules can make one of several; since a receiver refuses a second value for the same time, only one line sends it.
type claim struct {
	key    string
	lines  int // that have these labels
	holder *relabeled
	family *family // the holder's
}

// needRelabeled applies the rules to the lines of one label set, once.
func (e *Encoder) needRelabeled(f *family, s *labelSet, fm form) {
	if len(e.rules) == 0 || s.relabeled[fm] != nil {
		return
	}
	lines := make([]relabeled, len(f.lines[fm]))
	for i := range lines {
		lines[i] = e.relabel(s, &f.lines[fm][i])
	}
	s.relabeled[fm] = lines
}

// relabel applies the rules to one line. A line that they drop, and one that is left without a name or with a label that is no UTF-8, is left out.
func (e *Encoder) relabel(s *labelSet, l *line) relabeled {
	scratch := labels.NewScratchBuilder(len(s.symbols)/2 + 2)
	for i := 0; i < len(s.symbols); i += 2 {
		scratch.Add(e.symbols.table[s.symbols[i]].text, e.symbols.table[s.symbols[i+1]].text)
	}
	scratch.Add(nameLabel, l.name)
	if l.le != "" {
		scratch.Add(bucketLabel, l.le)
	}
	scratch.Sort()
	builder := labels.NewBuilder(scratch.Labels())
	if !relabel.ProcessBuilder(builder, e.rules...) {
		return relabeled{}
	}
	all, valid := builder.Labels(), true
	all.Range(func(l labels.Label) { valid = valid && utf8.ValidString(l.Name) && utf8.ValidString(l.Value) })
	if !valid || all.Get(nameLabel) == "" {
		return relabeled{}
	}
	r := relabeled{symbols: make([]uint32, 0, 2*all.Len())}
	all.Range(func(l labels.Label) {
		r.symbols = append(r.symbols, e.symbols.use(l.Name), e.symbols.use(l.Value))
		r.size += len(l.Name) + len(l.Value)
	})
	key := string(appendSymbols(nil, r.symbols))
	if r.claim = e.claims[key]; r.claim == nil {
		r.claim = &claim{key: key}
		e.claims[key] = r.claim
	}
	r.claim.lines++
	return r
}

// holds tells whether a line may send its series: it is the first one with these labels, or the one before belongs to another shape of the same family.
func (r *relabeled) holds(f *family) bool {
	c := r.claim
	if c == nil {
		return false
	}
	if c.holder == nil || c.family != f && c.family.name == f.name {
		c.holder, c.family = r, f
	}
	return c.holder == r
}

// disown ends what a line has of its series.
func (e *Encoder) disown(r *relabeled) {
	c := r.claim
	if c == nil {
		return
	}
	if c.holder == r {
		c.holder, c.family = nil, nil
	}
	if c.lines--; c.lines == 0 {
		delete(e.claims, c.key)
	}
}

// appendSymbols appends what tells the labels of one series from those of another.
func appendSymbols(dst []byte, symbols []uint32) []byte {
	for _, n := range symbols {
		dst = binary.LittleEndian.AppendUint32(dst, n)
	}
	return dst
}
