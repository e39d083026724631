package kernel

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/cilium/ebpf"
)

// defaultLabelSetsExpire is long enough for what happens once every half hour, such as a job of cron.
const defaultLabelSetsExpire = time.Hour

// expiry lets label sets leave a map that have counted nothing for a while.
type expiry struct {
	after time.Duration // 0: they never leave
	kept  *keptCounts
	stay  map[string]bool // the keys that never leave: those of "other"
}

// begin finds out what was counted before for a label set that has come. Those of "other" are there from the beginning and were never forgotten.
func (e *expiry) begin(set *labelSet) (err error) {
	set.start, set.before, err = e.kept.take(nameKept(set.name), slices.Contains(set.values, other))
	return err
}

// expire removes from the map what has counted nothing for too long, and from memory what is in the map no more. A label set without keys has no
// sample: its series ends.
func (t *table) expire() error {
	var errs []error
	for name, key := range t.known {
		switch {
		case key.reading != t.reading:
			delete(t.known, name)
			key.set.keys--
		case t.expiry != nil && !t.expiry.stay[name] && (t.idle(key) || t.layout.changed([]byte(name))):
			errs = append(errs, t.retire(name, key))
		}
	}
	for name, set := range t.sets {
		if set.keys > 0 {
			continue
		}
		delete(t.sets, name)
		if t.expiry != nil {
			errs = append(errs, t.expiry.kept.leave(nameKept(name), set.start, set.before, t.now))
		}
	}
	return errors.Join(errs...)
}

// idle returns whether nothing has been counted for a key for too long.
func (t *table) idle(key *countedKey) bool {
	return t.expiry.after > 0 && t.now-key.changed >= t.expiry.after
}

// retire moves what was counted for a key to where it is kept. A process that is killed between the two steps loses it, which is a counter that starts
// again; in the other order it would be counted twice.
func (t *table) retire(name string, key *countedKey) error {
	counts, err := t.remove([]byte(name))
	if err != nil {
		return fmt.Errorf("remove label set of %s: %w", t.metric.Name, err)
	}
	set := key.set
	if set.before == nil {
		set.before = make([]uint64, t.words)
	}
	for i, n := range counts {
		set.before[i] += n
	}
	delete(t.known, name)
	set.keys--
	left := t.now
	if set.keys > 0 {
		left = 0
	}
	return t.expiry.kept.keep(nameKept(set.name), set.start, set.before, left)
}

// remove takes a key out of the map and returns what was counted for it, added up over CPUs.
func (t *table) remove(key []byte) ([]uint64, error) {
	perCPU := make([][]byte, t.cpus)
	err := t.m.LookupAndDelete(key, &perCPU)
	if errors.Is(err, ebpf.ErrNotSupported) { // before 5.14; an event between the two is lost
		if err = t.m.Lookup(key, &perCPU); err == nil {
			err = t.m.Delete(key)
		}
	}
	if err != nil {
		return nil, err
	}
	counts := make([]uint64, t.words)
	for _, value := range perCPU {
		for i := range counts {
			counts[i] += binary.NativeEndian.Uint64(value[8*i:])
		}
	}
	return counts, nil
}
