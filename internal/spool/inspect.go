package spool

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/latpush/latpush/internal/latency"
	"github.com/latpush/latpush/internal/spool/segment"
)

// Contents is what a spool directory held at one moment.
type Contents struct {
	Directory  string
	Segments   []SegmentInfo // oldest first
	Cursors    []CursorInfo  // by name
	SetAside   []FileInfo    // what could not be read and was renamed
	Unfinished []FileInfo    // temporary files: of a write that is under way, or left by a crash

	fs    fileSystem
	index []*logSegment
}

// SegmentInfo is one segment.
type SegmentInfo struct {
	FileInfo
	Snapshots      int
	First, Last    Position // of its snapshots; 0 without any
	Oldest, Newest latency.Instant
	Spacing        time.Duration // median distance in time of successive snapshots; 0 when there are no two of one boot
	Damaged        int           // stretches that cannot be read
	Err            error         // why nothing of it can be read, else nil
}

// CursorInfo is the progress of one reader.
type CursorInfo struct {
	Name     string
	Position Position // everything up to and including it is delivered
	Pending  int      // snapshots that are not
	State    []byte   // of the reader's owner; nil if there is none
	Err      error    // why the file cannot be read, else nil
}

// FileInfo is one file of the directory.
type FileInfo struct {
	Name  string
	Bytes int64
}

// inspectAttempts is how often a directory is read again because a segment of it went away meanwhile.
const inspectAttempts = 5

// Inspect reads a spool directory and changes nothing in it. It needs no lock: an agent may be at work there. What only that agent's memory
// holds is not in it. The error wraps ErrVersion or what the operating system said.
func Inspect(directory string) (*Contents, error) { return inspect(directory, disk{}) }

func inspect(directory string, fsys fileSystem) (*Contents, error) {
	for attempt := 1; ; attempt++ {
		c := &Contents{Directory: directory, fs: fsys}
		err := c.read()
		if err == nil {
			return c, nil
		}
		if !errors.Is(err, fs.ErrNotExist) || attempt == inspectAttempts {
			return nil, fmt.Errorf("inspect spool %s: %w", directory, err)
		}
	}
}

// read fills c. The error is fs.ErrNotExist when a file went away after it was listed.
func (c *Contents) read() error {
	// A spool that is never opened: it lends its way of reading segments.
	s := &Spool{options: Options{Directory: c.Directory}, fs: c.fs, log: slog.New(slog.DiscardHandler)}
	s.metrics = newMetrics(s)
	names, err := c.fs.List(c.Directory)
	if err != nil {
		return fmt.Errorf("list directory: %w", err)
	}
	segments := slices.DeleteFunc(slices.Clone(names), func(name string) bool { _, is := parseSegmentName(name); return !is })
	for i, name := range segments {
		bound := uint64(math.MaxUint64)
		if i+1 < len(segments) {
			bound, _ = parseSegmentName(segments[i+1])
		}
		if err := c.readSegment(s, name, bound); err != nil {
			return err
		}
	}
	for _, name := range names {
		if err := c.readOther(s, name); err != nil {
			return err
		}
	}
	return nil
}

func (c *Contents) readSegment(s *Spool, name string, bound uint64) error {
	f, err := c.fs.Open(s.path(name), false)
	if err != nil {
		return fmt.Errorf("open segment %s: %w", name, err)
	}
	defer f.Close()
	size, err := f.Size()
	if err != nil {
		return fmt.Errorf("read segment %s: %w", name, err)
	}
	info, g := SegmentInfo{FileInfo: FileInfo{name, size}}, &logSegment{name: name, size: size}
	if g.header, err = segment.ReadHeader(name, f); err == nil {
		var state segmentState
		state, err = s.indexSegment(g, f, bound)
		info.Damaged = state.damaged
	}
	if errors.Is(err, ErrVersion) {
		return fmt.Errorf("%w (use the newer latpush)", err)
	}
	info.Err = err
	info.Snapshots, info.Oldest, info.Newest, info.Spacing = len(g.entries), g.oldest, g.newest(), g.interval()
	if n := len(g.entries); n > 0 {
		info.First, info.Last = g.entries[0].position, g.entries[n-1].position
		c.index = append(c.index, g)
	}
	c.Segments = append(c.Segments, info)
	return nil
}

// readOther looks at a file that is not a segment, when all segments are known.
func (c *Contents) readOther(s *Spool, name string) error {
	switch {
	case strings.HasSuffix(name, cursorSuffix):
		found, err := readCursor(c.fs, s.path(name))
		if errors.Is(err, ErrVersion) {
			return fmt.Errorf("read cursor of reader %s: %w (use the newer latpush)", strings.TrimSuffix(name, cursorSuffix), err)
		}
		info := CursorInfo{Name: strings.TrimSuffix(name, cursorSuffix), Position: found.delivered, State: found.state, Err: err}
		for _, g := range c.index {
			info.Pending += len(g.after(found.delivered))
		}
		c.Cursors = append(c.Cursors, info)
	case strings.HasSuffix(name, temporarySuffix):
		c.Unfinished = append(c.Unfinished, c.fileInfo(s.path(name), name))
	case strings.HasSuffix(name, corruptSuffix):
		c.SetAside = append(c.SetAside, c.fileInfo(s.path(name), name))
	}
	return nil
}

// fileInfo tells the size of a file, 0 when it went away meanwhile.
func (c *Contents) fileInfo(path, name string) FileInfo {
	f, err := c.fs.Open(path, false)
	if err != nil {
		return FileInfo{Name: name}
	}
	defer f.Close()
	size, _ := f.Size()
	return FileInfo{Name: name, Bytes: size}
}

// Following returns the position of the first snapshot behind p; ok is false when there is none.
func (c *Contents) Following(p Position) (following Position, ok bool) {
	for _, g := range c.index {
		if rest := g.after(p); len(rest) > 0 {
			return rest[0].position, true
		}
	}
	return 0, false
}

// Boots returns the boots of the snapshots, in the order of the log.
func (c *Contents) Boots() []Boot { return bootsOf(slices.Values(c.index)) }

// Snapshot reads the snapshot at a position. The error wraps ErrNoSnapshot when there was none, ErrCorrupt, ErrVersion, or what the operating
// system said. Where an agent is at work, a snapshot may have moved or gone since Inspect; it is looked for once more then.
func (c *Contents) Snapshot(p Position) (*latency.Snapshot, error) {
	snapshot, err := c.snapshot(p)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, ErrCorrupt) {
		if again, inspectErr := inspect(c.Directory, c.fs); inspectErr == nil {
			snapshot, err = again.snapshot(p)
		}
	}
	if err != nil {
		return nil, fmt.Errorf("read snapshot %d of spool %s: %w", p, c.Directory, err)
	}
	return snapshot, nil
}

func (c *Contents) snapshot(p Position) (*latency.Snapshot, error) {
	i := slices.IndexFunc(c.index, func(g *logSegment) bool { _, found := g.find(p); return found })
	if i < 0 {
		return nil, ErrNoSnapshot
	}
	g := c.index[i]
	at, _ := g.find(p)
	s := &Spool{options: Options{Directory: c.Directory}, fs: c.fs, log: slog.New(slog.DiscardHandler), segments: c.index}
	f := fetcher{spool: s}
	defer f.done()
	return f.snapshot(g, g.entries[at])
}
