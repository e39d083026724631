package kernel

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
)

// inFlight describes the gauges of operations that have begun and not ended. A program of the source, an iterator, finds them when they are read.
type inFlight struct {
	elementsOf string // the map that the iterator goes through; empty: it goes through the tasks
	gauges     []gauge
}

// gauge describes the two gauges of one map: how many operations there are, and how old the oldest one is.
type gauge struct {
	name   string // of the number, and of the map; oldestName is that of the age
	help   string
	oldest string // help of the age
}

func (g *gauge) oldestName() string { return g.name + "_oldest_seconds" }

// iterator is the name of the program in the objects.
const iterator = "count_in_flight"

// inFlightReader runs a source's iterator and reads what it has found.
type inFlightReader struct {
	link    *link.Iter
	program *ebpf.Program
	tables  []*gaugeTable
}

// openInFlight prepares the gauges of a source that has some.
func (s *loadedSource) openInFlight() {
	if s.source.inFlight != nil {
		s.inFlight, s.inFlightErr = s.newInFlightReader()
	}
}

// closeInFlight removes the iterator.
func (s *loadedSource) closeInFlight() error {
	if s.inFlight == nil {
		return nil
	}
	r := s.inFlight
	s.inFlight = nil
	return errors.Join(r.link.Close(), r.program.Close())
}

// newInFlightReader prepares the gauges of a source. With an error there is nothing to close.
func (s *loadedSource) newInFlightReader() (*inFlightReader, error) {
	r := &inFlightReader{}
	for i := range s.source.inFlight.gauges {
		t, err := s.newGaugeTable(&s.source.inFlight.gauges[i])
		if err != nil {
			return nil, err
		}
		r.tables = append(r.tables, t)
	}
	programs, err := s.load([]string{iterator})
	if err != nil {
		return nil, s.environment.explain(err)
	}
	r.program = programs[iterator]
	r.link, err = link.AttachIter(link.IterOptions{Program: r.program, Map: s.maps[s.source.inFlight.elementsOf]})
	if err != nil {
		return nil, errors.Join(fmt.Errorf("attach iterator: %w", s.environment.explain(err)), r.program.Close())
	}
	return r, nil
}

// appendTo appends two samples for each label set to samples: every one of a closed list, and of others those that have been seen.
func (r *inFlightReader) appendTo(samples []Sample) ([]Sample, error) {
	for _, t := range r.tables {
		if err := t.clear(); err != nil {
			return samples, err
		}
	}
	if err := r.run(); err != nil {
		return samples, err
	}
	now, err := monotonic()
	if err != nil {
		return samples, err
	}
	for _, t := range r.tables {
		if samples, err = t.appendTo(samples, now); err != nil {
			return samples, err
		}
	}
	return samples, nil
}

// run lets the kernel call the program for each task or element. The program writes nothing to the file: reading it is what runs the program.
func (r *inFlightReader) run() error {
	file, err := r.link.Open()
	if err != nil {
		return fmt.Errorf("open iterator: %w", err)
	}
	_, err = io.Copy(io.Discard, file)
	if err := errors.Join(err, file.Close()); err != nil {
		return fmt.Errorf("run iterator: %w", err)
	}
	return nil
}

// gaugeTable reads the map of a gauge.
type gaugeTable struct {
	number, oldest *Metric
	m              *ebpf.Map
	labels         func(key []byte) []string
	keys           map[string]*gaugeSet // by key
	sets           []*gaugeSet          // in the order in which they were seen
	byValues       map[string]*gaugeSet // by label values: several keys can have the same
}

// gaugeSet is a label set.
type gaugeSet struct {
	values     []string
	reported   bool   // it is of a closed list, or has had operations
	operations uint64 // that are under way
	oldest     uint64 // when the oldest one began, in nanoseconds of CLOCK_MONOTONIC
}

// newGaugeTable prepares reading a gauge's map, and puts the label sets into it that exist from the beginning: all of a closed list, or "other".
func (s *loadedSource) newGaugeTable(g *gauge) (*gaugeTable, error) {
	layout, err := layoutOf(s.spec, g.name)
	if err != nil {
		return nil, err
	}
	t := &gaugeTable{
		number:   &Metric{Name: g.name, Help: g.help, Kind: KindGauge, Labels: layout.labels()},
		oldest:   &Metric{Name: g.oldestName(), Help: g.oldest, Kind: KindGauge, Labels: layout.labels()},
		m:        s.maps[g.name],
		labels:   s.labelsOf(layout),
		keys:     map[string]*gaugeSet{},
		byValues: map[string]*gaugeSet{},
	}
	if err := t.read(); err != nil {
		return nil, err
	}
	rest := layout.others()
	for key, set := range t.keys { // seen before: the map is older than this source, or its programs were taken away for a while
		set.reported = !slices.ContainsFunc(rest, func(other []byte) bool { return string(other) == key })
	}
	closed := layout.all()
	for _, key := range closed {
		t.set(key).reported = true
	}
	if closed == nil {
		for _, key := range rest {
			t.set(key)
		}
	}
	return t, t.clear()
}

// set returns the label set of a key.
func (t *gaugeTable) set(key []byte) *gaugeSet {
	if set, ok := t.keys[string(key)]; ok {
		return set
	}
	values := t.labels(key)
	name := strings.Join(values, "\xff") // which no valid UTF-8 has
	set, ok := t.byValues[name]
	if !ok {
		set = &gaugeSet{values: values}
		t.byValues[name] = set
		t.sets = append(t.sets, set)
	}
	t.keys[string(key)] = set
	return set
}

// clear makes the map say that nothing is under way.
func (t *gaugeTable) clear() error {
	zero := make([]byte, t.m.ValueSize())
	for key := range t.keys {
		if err := t.m.Update([]byte(key), zero, ebpf.UpdateAny); err != nil {
			return fmt.Errorf("clear map of %s: %w", t.number.Name, err)
		}
	}
	for _, set := range t.sets {
		set.operations, set.oldest = 0, 0
	}
	return nil
}

// read adds what the map says to the label sets.
func (t *gaugeTable) read() error {
	key, value := make([]byte, t.m.KeySize()), struct{ Operations, Oldest uint64 }{}
	entries := t.m.Iterate()
	for entries.Next(&key, &value) {
		set := t.set(key)
		if value.Operations == 0 {
			continue
		}
		set.reported = true
		if set.operations == 0 || value.Oldest < set.oldest {
			set.oldest = value.Oldest
		}
		set.operations += value.Operations
	}
	if err := entries.Err(); err != nil {
		return fmt.Errorf("read map of %s: %w", t.number.Name, err)
	}
	return nil
}

// appendTo reads the map at a time of CLOCK_MONOTONIC and appends the samples.
func (t *gaugeTable) appendTo(samples []Sample, now uint64) ([]Sample, error) {
	if err := t.read(); err != nil {
		return samples, err
	}
	for _, set := range t.sets {
		if !set.reported {
			continue
		}
		age := 0.0
		if set.operations > 0 && now > set.oldest {
			age = float64(now-set.oldest) / 1e9
		}
		samples = append(samples,
			Sample{Metric: t.number, Values: set.values, Value: float64(set.operations)},
			Sample{Metric: t.oldest, Values: set.values, Value: age})
	}
	return samples, nil
}
