package spool

import (
	"fmt"
	"slices"
	"sort"
	"strconv"
	"strings"
	"time"

	"github.com/latpush/latpush/internal/latency"
	"github.com/latpush/latpush/internal/spool/segment"
)

const (
	segmentSuffix   = ".seg"
	cursorSuffix    = ".cursor"
	temporarySuffix = ".tmp"
	corruptSuffix   = ".corrupt"
	lockName        = "lock"
)

// logSegment is a segment on disk, or a chunk of snapshots in memory, and the index of its readable snapshots. The spool's mutex guards it; name and
// header do not change.
type logSegment struct {
	name    string // empty in memory
	header  segment.Header
	size    int64               // bytes
	entries []entry             // ascending
	frames  map[Position][]byte // in memory: the frames of the entries; nil on disk
	stays   []stay              // the boots of the entries, in order
	oldest  latency.Instant     // of the first entry that was indexed; zero when there was none
	uptime  time.Duration       // from the first to the last entry that was indexed, without the time between boots
	lost    bool                // the file was removed by somebody else

	spacing time.Duration // median distance of its entries, once nothing is added any more; 0 when not known yet
	tried   time.Duration // to which it was thinned with little success
	rigid   bool          // nothing in it can be left out
	damaged bool          // not all of it could be read, so its file stays as it is
}

// stay is what a segment knows of a boot.
type stay struct {
	newest latency.Instant // of the boot's entries in this segment
	last   Position
}

// entry is one readable snapshot: 24 bytes, so that a full spool of small snapshots costs little memory.
type entry struct {
	position Position
	boottime int64  // milliseconds
	offset   uint32 // of the frame in the segment; 0 in memory
	length   uint32 // of the frame
}

func newEntry(at segment.Location, boottime time.Duration) entry {
	return entry{position: Position(at.Sequence), boottime: boottime.Milliseconds(), offset: uint32(at.Offset), length: uint32(at.Length)}
}

func (e entry) location() segment.Location {
	return segment.Location{Sequence: uint64(e.position), Offset: int64(e.offset), Length: int(e.length)}
}

// add indexes one more snapshot.
func (g *logSegment) add(at segment.Location, taken latency.Instant) {
	e := newEntry(at, taken.Boottime)
	switch n := len(g.stays); {
	case n == 0:
		g.oldest = taken
		g.stays = append(g.stays, stay{taken, e.position})
	case g.stays[n-1].newest.BootID == taken.BootID:
		g.uptime += max(0, taken.Boottime-g.stays[n-1].newest.Boottime)
		g.stays[n-1] = stay{taken, e.position}
	default:
		g.stays = append(g.stays, stay{taken, e.position})
	}
	g.entries = append(g.entries, e)
}

// newest returns when the last entry that was indexed was taken; zero when there was none.
func (g *logSegment) newest() latency.Instant {
	if len(g.stays) == 0 {
		return latency.Instant{}
	}
	return g.stays[len(g.stays)-1].newest
}

// instant returns when an entry was taken, to the millisecond, by the clock of the newest snapshot of its boot in this segment.
func (g *logSegment) instant(e entry) latency.Instant {
	i := sort.Search(len(g.stays)-1, func(i int) bool { return g.stays[i].last >= e.position })
	newest, at := g.stays[i].newest, time.Duration(e.boottime)*time.Millisecond
	return latency.Instant{BootID: newest.BootID, Boottime: at, Wall: newest.Wall.Add(at - newest.Boottime)}
}

// before returns how many entries are at a position or before it.
func (g *logSegment) before(p Position) int {
	return sort.Search(len(g.entries), func(i int) bool { return g.entries[i].position > p })
}

// after returns the entries behind a position.
func (g *logSegment) after(p Position) []entry { return g.entries[g.before(p):] }

// find returns the index of a snapshot.
func (g *logSegment) find(p Position) (int, bool) {
	i := g.before(p) - 1
	return i, i >= 0 && g.entries[i].position == p
}

// forget takes one snapshot out of the index, and reports whether it was there.
func (g *logSegment) forget(p Position) bool {
	i, found := g.find(p)
	if found {
		g.entries = slices.Delete(g.entries, i, i+1)
		delete(g.frames, p)
	}
	return found
}

// interval returns the median distance in time of successive entries, those of different boots aside; 0 when there are none.
func (g *logSegment) interval() time.Duration {
	if g.spacing == 0 && len(g.entries) > 1 {
		g.spacing = medianGap(g.entries)
	}
	return g.spacing
}

func medianGap(entries []entry) time.Duration {
	gaps := make([]int64, 0, len(entries))
	for i := 1; i < len(entries); i++ {
		if gap := entries[i].boottime - entries[i-1].boottime; gap > 0 {
			gaps = append(gaps, gap)
		}
	}
	if len(gaps) == 0 {
		return 0
	}
	slices.Sort(gaps)
	return time.Duration(gaps[len(gaps)/2]) * time.Millisecond
}

// segmentName returns the file name of the segment whose first sequence number is first. Names sort like numbers.
func segmentName(first uint64) string { return fmt.Sprintf("%020d%s", first, segmentSuffix) }

// parseSegmentName returns the sequence number in a segment's file name.
func parseSegmentName(name string) (uint64, bool) {
	digits, ok := strings.CutSuffix(name, segmentSuffix)
	if !ok || len(digits) != 20 {
		return 0, false
	}
	first, err := strconv.ParseUint(digits, 10, 63)
	return first, err == nil && first != 0
}
