package spool

import (
	"errors"
	"slices"

	"github.com/latpush/latpush/internal/latency"
	"github.com/latpush/latpush/internal/spool/record"
)

// errMoved says that a snapshot is no longer where it was: its segment was rewritten or removed since. The index tells where to go on.
var errMoved = errors.New("snapshot has moved")

// fetcher reads snapshots by their place in the index, keeping the file of the last segment open. For one goroutine at a time.
type fetcher struct {
	spool   *Spool
	segment *logSegment
	file    file // of segment, nil when none is open
	buffer  []byte
	decoder record.Decoder
}

// snapshot reads and decodes one snapshot. The error is a *CorruptError when there is no use in trying again, errMoved, or the file's own.
func (f *fetcher) snapshot(g *logSegment, e entry) (*latency.Snapshot, error) {
	payload, err := f.payload(g, e)
	if err != nil {
		return nil, err
	}
	snapshot, err := f.decoder.Decode(payload)
	if err != nil {
		return nil, malformed(g, e.location(), err)
	}
	return snapshot, nil
}

// payload reads the record of one snapshot, which is valid until the next call.
func (f *fetcher) payload(g *logSegment, e entry) ([]byte, error) {
	if g.frames != nil {
		return f.spool.payloadInMemory(g, e.position)
	}
	if err := f.open(g); err != nil {
		return nil, err
	}
	at := e.location()
	f.buffer = slices.Grow(f.buffer[:0], at.Length)[:at.Length]
	return g.header.ReadPayload(g.name, f.file, at, f.buffer)
}

// open makes f.file the file of a segment.
func (f *fetcher) open(g *logSegment) error {
	if f.file != nil && f.segment == g {
		return nil
	}
	f.done()
	s := f.spool
	// While names is held, the file of that name is the one that the index means.
	s.names.RLock()
	defer s.names.RUnlock()
	if !s.isListed(g) {
		return errMoved
	}
	file, err := s.fs.Open(s.path(g.name), false)
	if err != nil {
		return err
	}
	f.segment, f.file = g, file
	return nil
}

// done closes the file that is open, if one is.
func (f *fetcher) done() {
	if f.file == nil {
		return
	}
	if err := f.file.Close(); err != nil {
		f.spool.log.Warn("cannot close segment of the spool", "segment", f.segment.name, "err", err)
	}
	f.segment, f.file = nil, nil
}
