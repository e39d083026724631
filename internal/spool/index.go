package spool

import (
	"fmt"
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

// logSegment is a segment and the index of its readable snapshots. The spool's mutex guards it; name and header do not change.
type logSegment struct {
	name    string
	header  segment.Header
	size    int64           // bytes
	entries []entry         // ascending
	newest  latency.Instant // of the last entry that was indexed; zero when there was none
	lost    bool            // the file was removed by somebody else
}

// entry is one readable snapshot: 24 bytes, so that a full spool of small snapshots costs little memory.
type entry struct {
	position Position
	wall     int64  // milliseconds since 1970, as it was believed
	offset   uint32 // of the frame in the segment
	length   uint32 // of the frame
}

func newEntry(at segment.Location, wall time.Time) entry {
	return entry{position: Position(at.Sequence), wall: wall.UnixMilli(), offset: uint32(at.Offset), length: uint32(at.Length)}
}

func (e entry) location() segment.Location {
	return segment.Location{Sequence: uint64(e.position), Offset: int64(e.offset), Length: int(e.length)}
}

// add indexes one more snapshot.
func (g *logSegment) add(at segment.Location, taken latency.Instant) {
	g.entries = append(g.entries, newEntry(at, taken.Wall))
	g.newest = taken
}

// after returns the entries behind a position.
func (g *logSegment) after(p Position) []entry {
	return g.entries[sort.Search(len(g.entries), func(i int) bool { return g.entries[i].position > p }):]
}

// forget takes one snapshot out of the index, and reports whether it was there.
func (g *logSegment) forget(p Position) bool {
	i := sort.Search(len(g.entries), func(i int) bool { return g.entries[i].position >= p })
	if i == len(g.entries) || g.entries[i].position != p {
		return false
	}
	g.entries = append(g.entries[:i], g.entries[i+1:]...)
	return true
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
