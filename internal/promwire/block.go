package promwire

import (
	"fmt"
	"math"

	"github.com/latpush/latpush/internal/latency"
)

// block is a stretch of time in which a family has one shape.
type block struct {
	family      *family
	entries     []entry // ascending in time; those of one moment belong together
	first, last int     // indices of its moments: first may lie before that of the first entry
}

// point is one state of a label set.
type point struct {
	entry  int32 // index in the block
	series int32 // index in the entry's family
	next   int32 // index of the label set's next point, or -1
}

// step is what is sent of a label set for one moment.
type step struct {
	ms, start int64           // Unix milliseconds; start is 0 when it is not known
	series    *latency.Series // nil: a stale marker
}

// encodeFamily encodes all states of the families of one name. Where its shape changes, the lines that both shapes have are the same series; so the two go in
// different requests, the older first.
func (e *Encoder) encodeFamily(column []entry) {
	e.divide(column)
	alive, next := e.survivor(column[0].family.Name), 0
	for i, b := range e.blocks {
		begins := b.entries[0].moment
		if b.last = len(e.moments) - 1; i+1 < len(e.blocks) {
			b.last = e.blocks[i+1].entries[0].moment - 1
		}
		if alive != nil && alive != b.family {
			if next < begins {
				e.encodeBlock(block{family: alive, first: next, last: begins - 1})
			}
			e.succeed(alive, b, begins)
			if next = begins; e.o.StaleMarkers {
				e.out.flush()
			}
		}
		b.first = next
		e.encodeBlock(b)
		if i+1 < len(e.blocks) {
			e.out.flush()
		}
		alive, next = b.family, b.last+1
	}
}

// divide fills e.blocks with the stretches of equal shape. Of two shapes at one moment the later one counts.
func (e *Encoder) divide(column []entry) {
	e.blocks = e.blocks[:0]
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
		for last := len(e.blocks) - 1; last >= 0 && e.blocks[last].drop(column[0].moment); last-- {
			e.blocks = e.blocks[:last]
		}
		e.blocks = append(e.blocks, block{family: f, entries: column[:n]})
		column = column[n:]
	}
}

// drop takes the entries of a moment from the end of a block and tells whether none are left.
func (b *block) drop(moment int) bool {
	for len(b.entries) > 0 && b.entries[len(b.entries)-1].moment == moment {
		b.entries = b.entries[:len(b.entries)-1]
	}
	return len(b.entries) == 0
}

// encodeBlock encodes a block: the label sets that its entries have, in order of appearance, and then the ends of those that were there before.
func (e *Encoder) encodeBlock(b block) {
	e.gather(&b)
	for _, s := range e.sets {
		e.encodeLabelSet(&b, s, s.first)
	}
	for _, s := range e.gone(b.family) {
		e.encodeLabelSet(&b, s, -1)
	}
}

// gather sorts the block's series by label set: e.sets are the label sets in order of appearance, each with its points ascending in time.
func (e *Encoder) gather(b *block) {
	e.block++
	e.sets, e.points = e.sets[:0], e.points[:0]
	for i, en := range b.entries {
		e.describe(b.family, en.family)
		for j := range en.family.Series {
			values := en.family.Series[j].LabelValues
			err := b.family.check(&en.family.Series[j])
			if err == nil && !e.add(e.labelSet(b.family, values), b.entries, int32(i), int32(j)) {
				err = fmt.Errorf("%w: more than one series would be sent with the labels of %q", ErrMalformed, values)
			}
			if err != nil {
				e.fail(en.family.Name, err)
			}
		}
	}
}

// add adds one state to a label set, or replaces the older one of the same moment. It refuses a second state of one snapshot.
func (e *Encoder) add(s *labelSet, entries []entry, i, j int32) bool {
	if s.block != e.block {
		s.block, s.first = e.block, int32(len(e.points))
		e.sets = append(e.sets, s)
	} else {
		last := &e.points[s.last]
		if last.entry == i {
			return false
		}
		if entries[last.entry].moment == entries[i].moment {
			last.entry, last.series = i, j
			return true
		}
		last.next = int32(len(e.points))
	}
	s.last = int32(len(e.points))
	e.points = append(e.points, point{entry: i, series: j, next: -1})
	return true
}

// encodeLabelSet encodes what a label set has to say in a block: its states from the given point on, without those that say nothing new, and its end.
func (e *Encoder) encodeLabelSet(b *block, s *labelSet, at int32) {
	e.steps = e.steps[:0]
	fm := e.form(b.family)
	for m := b.first; m <= b.last && (at >= 0 || s.next.alive); m++ {
		if at >= 0 && b.entries[e.points[at].entry].moment == m {
			p := e.points[at]
			en := &b.entries[p.entry]
			e.state(b.family.kind, fm, s, en.taken, &en.family.Series[p.series])
			at = p.next
			continue
		}
		if !s.next.alive {
			continue
		}
		if was := e.finish(s, m); was != fm {
			e.write(b.family, s, was, e.steps, nil)
			e.steps = e.steps[:0]
		}
	}
	e.write(b.family, s, fm, e.steps, nil)
}

// state adds the step for one state of a label set, unless that is idle.
func (e *Encoder) state(kind latency.Kind, fm form, s *labelSet, taken *latency.Instant, series *latency.Series) {
	st, ms := &s.next, taken.Wall.UnixMilli()
	start := st.startOf(kind, taken, series)
	print := uint64(0)
	if e.o.IdleInterval > 0 {
		print = fingerprint(series, math.Float64bits(series.Value), start)
		since := ms - st.sent
		if st.alive && st.form == fm && st.print == print && since >= 0 && since < e.o.IdleInterval.Milliseconds() {
			return
		}
	}
	st.alive, st.form, st.sent, st.print = true, fm, ms, print
	e.steps = append(e.steps, step{ms: ms, start: start, series: series})
}

// finish ends a label set at a moment, adds the step for that if there are stale markers, and gives the form of what ends.
func (e *Encoder) finish(s *labelSet, moment int) form {
	was := s.next.form
	s.next = state{}
	if e.o.StaleMarkers {
		e.steps = append(e.steps, step{ms: e.moments[moment]})
	}
	return was
}

// succeed ends the label sets of a shape that another one follows at a moment, except for the lines that are the same series in both.
func (e *Encoder) succeed(old *family, b block, moment int) {
	e.block++
	var going map[string]bool
	for _, s := range e.gone(old) {
		e.steps = e.steps[:0]
		was := e.finish(s, moment)
		if going == nil {
			going = e.seriesAt(&b, moment)
		}
		e.write(old, s, was, e.steps, going)
	}
}

// seriesAt gives the series that a block has at a moment.
func (e *Encoder) seriesAt(b *block, moment int) map[string]bool {
	series := map[string]bool{}
	fm := e.form(b.family)
	for _, en := range b.entries {
		for i := range en.family.Series {
			if en.moment != moment || b.family.check(&en.family.Series[i]) != nil {
				continue
			}
			s := e.labelSet(b.family, en.family.Series[i].LabelValues)
			e.needRelabeled(b.family, s, fm)
			for j := range b.family.lines[fm] {
				e.key = e.identity(e.key[:0], b.family, s, fm, j)
				series[string(e.key)] = true
			}
		}
	}
	return series
}
