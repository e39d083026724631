package sender

import (
	"context"
	"slices"
	"time"

	"github.com/latpush/latpush/internal/latency"
	"github.com/latpush/latpush/internal/spool"
)

const (
	// oldAge is the age from which on a receiver may refuse a snapshot for it. Such ones travel apart from fresh ones, since a receiver
	// answers 400 to a request of both. Prometheus takes samples up to an hour older than the newest that it has.
	oldAge = 30 * time.Minute
	// oldSpan is how much time a batch of old snapshots covers at most, so that one that is too old takes few others with it.
	oldSpan = 10 * time.Minute
)

// batch is a run of snapshots that are sent together.
type batch struct {
	entries []*entry
	samples int            // as classic lines
	old     bool           // its snapshots are older than oldAge
	last    spool.Position // the last snapshot that is done when the batch is, be it left out
}

func (b *batch) empty() bool    { return len(b.entries) == 0 }
func (b *batch) newest() *entry { return b.entries[len(b.entries)-1] }

func (b *batch) snapshots() []*latency.Snapshot {
	snapshots := make([]*latency.Snapshot, len(b.entries))
	for i, e := range b.entries {
		snapshots[i] = e.snapshot
	}
	return snapshots
}

// collect waits for a snapshot and takes what else is pending, up to the bounds. When the waiting is over, because of Drain or for good, it
// takes what is there; the batch may then be empty.
func (s *Sender) collect(waiting context.Context) (*batch, error) {
	b := new(batch)
	s.more = false
	for {
		e, err := s.head(waiting, b)
		switch {
		case err != nil && b.empty():
			return b, err
		case err != nil || e == nil:
			return b, nil // An error comes back at the next reading, when what was read before it is out of the way.
		}
		old := s.age(e) >= oldAge
		if !b.empty() && !s.fits(b, e, old) {
			s.more = true
			return b, nil
		}
		s.pop()
		s.kept, s.since, e.kept = e.snapshot, 0, true
		b.entries, b.samples, b.old, b.last = append(b.entries, e), b.samples+lines(e.snapshot), old, e.position
	}
}

// fits reports whether the next snapshot can travel with the ones in a batch.
func (s *Sender) fits(b *batch, e *entry, old bool) bool {
	maxSamples := s.limits.MaxSamples
	if !old {
		maxSamples = min(maxSamples, s.pace.carries(max(s.settings.Interval, s.settings.PushInterval)))
	}
	span := time.Duration(e.at-b.entries[0].at) * time.Millisecond
	return len(b.entries) < s.limits.MaxSnapshots && b.samples < maxSamples && e.at > b.newest().at && old == b.old && (!old || span <= oldSpan)
}

// head returns the next snapshot that is to be sent, and leaves it where it is. It is nil when there is none now, or when that is not decided
// yet. With an empty batch it waits for one. What is before it and not to be sent is done with the batch.
func (s *Sender) head(waiting context.Context, b *batch) (*entry, error) {
	for {
		found, err := s.look(waiting, 1, b.empty())
		if err != nil || !found {
			return nil, err
		}
		e := s.ahead[0]
		if limit := s.settings.SampleAgeLimit; limit > 0 && s.age(e) > limit {
			s.metrics.tooOld.Add(float64(lines(e.snapshot)))
			s.pop()
			b.last = e.position
			continue
		}
		decided, err := s.decide(waiting, e, b.empty())
		switch {
		case err != nil || decided == undecided:
			return nil, err
		case decided == keep:
			return e, nil
		}
		s.metrics.thinned.Inc()
		s.pop()
		s.since++
		b.last = e.position
	}
}

// look reads on until that many snapshots are ahead, and reports whether there are. With wait it waits for them, as long as waiting has not
// ended.
func (s *Sender) look(waiting context.Context, n int, wait bool) (bool, error) {
	for len(s.ahead) < n {
		snapshot, position, found, err := s.read(waiting, wait)
		if err != nil || !found {
			return false, err
		}
		e := &entry{snapshot: snapshot, position: position, taken: snapshot.Taken}
		s.stamp(e)
		s.ahead = append(s.ahead, e)
	}
	return true, nil
}

func (s *Sender) read(waiting context.Context, wait bool) (*latency.Snapshot, spool.Position, bool, error) {
	if wait && waiting.Err() == nil {
		snapshot, position, err := s.reader.Next(waiting)
		if err == nil || waiting.Err() == nil {
			return snapshot, position, err == nil, err
		}
	}
	return s.reader.TryNext()
}

func (s *Sender) pop() { s.ahead = slices.Delete(s.ahead, 0, 1) }

// age is how long ago a snapshot was taken.
func (s *Sender) age(e *entry) time.Duration { return s.clock.Now().Sub(e.settled) }

// lines is the number of classic sample lines that a snapshot becomes: each bucket, _sum and _count, or one value.
func lines(snapshot *latency.Snapshot) int {
	n := 0
	for i := range snapshot.Families {
		family := &snapshot.Families[i]
		perSeries := 1
		if family.Kind == latency.Histogram {
			perSeries = len(family.Bounds) + 3
		}
		n += perSeries * len(family.Series)
	}
	return n
}
