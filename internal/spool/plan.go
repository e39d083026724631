package spool

import (
	"time"

	"github.com/latpush/latpush/internal/latency"
)

// place is where a snapshot is.
type place struct {
	segment *logSegment
	entry   entry
}

// runView is a run of segments as it was when the decision began: readers may take snapshots out of it meanwhile.
type runView struct {
	segments  []*logSegment
	entries   [][]entry // of each segment
	before    *place    // the snapshot in front of the run
	after     *place    // the snapshot behind it
	delivered Position  // by every reader
	target    time.Duration
}

// decision is which snapshots of the first segments of a runView stay.
type decision struct {
	segments []*logSegment
	keep     []place
	size     int64 // of the frames that stay, bytes
	freed    int64 // of those that do not
	thinned  int   // snapshots that some reader has not got and that are left out
}

// tolerance is by how much the distance of two ticks may be longer than meant.
const tolerance = 8 // of 8ths: 1/8

// planner decides which snapshots of a runView stay. It decodes each once.
type planner struct {
	fetcher fetcher
	view    runView

	kept *latency.Snapshot // the last one that stays, nil when it cannot be read or there is none
	decision
}

// gain is what thinning a segment brings, in bytes.
type gain struct {
	freed   int64
	hopeful int64 // would be freed if more distance was allowed
}

// view copies what a decision about a run needs. The caller holds mu.
func (s *Spool) view(list []*logSegment, r run) runView {
	st := runView{segments: list[r.from:r.to], target: r.target, delivered: s.deliveredByAll()}
	for _, g := range st.segments {
		st.entries = append(st.entries, append([]entry(nil), g.entries...))
	}
	first, last := st.segments[0], st.segments[len(st.segments)-1]
	inRun, behind := false, false
	for g := range s.all() {
		inRun = inRun || g == first
		switch n := len(g.entries); {
		case n == 0:
		case !inRun:
			st.before = &place{g, g.entries[n-1]}
		case behind && st.after == nil:
			st.after = &place{g, g.entries[0]}
		}
		behind = behind || g == last
	}
	return st
}

// plan decides which snapshots of a runView stay. It stops in front of a segment with which the rest would be larger than room, and notes at
// segments that there is little to gain from them. The error is the file's own or errMoved: nothing is decided then.
func (s *Spool) plan(st runView, room int64) (decision, error) {
	p := planner{fetcher: fetcher{spool: s}, view: st}
	defer p.fetcher.done()
	if st.before != nil && st.before.entry.position > st.delivered {
		// One that cannot be read is as good as none: the next one stays.
		p.kept, _ = p.fetcher.snapshot(st.before.segment, st.before.entry)
	}
	it, err := p.following(0, -1)
	if err != nil {
		return decision{}, err
	}
	gains := make([]gain, len(st.segments))
	for i, g := range st.segments {
		start := p.decision
		if it, err = p.segment(i, it, &gains[i]); err != nil {
			return decision{}, err
		}
		if i > 0 && p.size > room {
			p.decision = start
			break
		}
		p.segments = append(p.segments, g)
		p.freed += gains[i].freed
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for i, g := range p.segments {
		worth := g.size / 8
		g.rigid = g.rigid || st.target > 0 && gains[i].freed+gains[i].hopeful < worth
		if gains[i].freed < worth {
			g.tried = max(g.tried, st.target)
		}
	}
	return p.decision, nil
}

// segment decides about one segment, of which it is the first snapshot, and returns the first one behind it.
func (p *planner) segment(i int, it *latency.Snapshot, won *gain) (*latency.Snapshot, error) {
	g := p.view.segments[i]
	for j, e := range p.view.entries[i] {
		after, err := p.following(i, j)
		if err != nil {
			return nil, err
		}
		delivered := e.position <= p.view.delivered
		can := p.kept != nil && after != nil && it != nil && latency.Omittable(p.kept, it, after)
		near := can && after.Taken.Boottime-p.kept.Taken.Boottime <= p.view.target+p.view.target/tolerance
		switch {
		case delivered:
			// What is delivered may have been refused, so the first one behind it stays.
			won.freed += int64(e.length)
		case near:
			won.freed += int64(e.length)
			p.thinned++
		default:
			if can {
				won.hopeful += int64(e.length)
			}
			p.kept = it
			p.keep = append(p.keep, place{g, e})
			p.size += int64(e.length)
		}
		it = after
	}
	return it, nil
}

// following returns the snapshot behind entry j of segment i, nil when there is none or it cannot be read.
func (p *planner) following(i, j int) (*latency.Snapshot, error) {
	st := &p.view
	if st.target == 0 {
		return nil, nil // all that is not delivered stays
	}
	for j++; i < len(st.segments); i, j = i+1, 0 {
		if j < len(st.entries[i]) {
			if st.entries[i][j].position <= st.delivered {
				return nil, nil // it goes, whatever is in it
			}
			at := place{st.segments[i], st.entries[i][j]}
			snapshot, err := p.fetcher.snapshot(at.segment, at.entry)
			if err != nil {
				return nil, p.fetcher.spool.cannotRead(at, err)
			}
			return snapshot, nil
		}
	}
	if st.after == nil {
		return nil, nil
	}
	// Without one that can be read, the last snapshot of the run stays.
	snapshot, _ := p.fetcher.snapshot(st.after.segment, st.after.entry)
	return snapshot, nil
}
