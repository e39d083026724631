package kernel

import (
	"encoding/binary"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"time"
	"unsafe"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"
	"golang.org/x/sys/unix"
)

// batchBytes is about how much is read from the kernel in one call: with many CPUs one histogram alone takes tens of KiB.
const batchBytes = 256 << 10

// table reads the histograms, or the counters, of one map. What it returns stays valid until the next read.
type table struct {
	metric   *Metric
	m        *ebpf.Map
	labels   func(key []byte) []string
	layout   *keyLayout // of the keys; nil for an array
	fromZero bool
	words    int // u64 in a value: a histogram's sum and buckets, or a counter
	cpus     int
	noBatch  bool // the kernel reads this kind of map only key by key

	keys   int          // in a batch
	buffer *batchBuffer // for one

	known   map[string]*countedKey // by key
	sets    map[string]*labelSet   // by label values: several keys can have the same
	read    []*labelSet            // what the present reading has found, in the order of the keys
	reading uint64                 // the number of the present reading
	now     time.Duration          // when it began, CLOCK_BOOTTIME
	expiry  *expiry                // nil: the label sets are a fixed list
}

// batchBuffer has room for what is read in one call. All maps are read one after the other, so that one is enough.
type batchBuffer struct {
	keys   []byte
	values []uint64
}

// batch returns room for n keys of a size, as bytes and as a slice of arrays, and for that many numbers that belong to each.
func (b *batchBuffer) batch(n, size, numbers int) (keys []byte, arrays any, values []uint64) {
	b.keys, b.values = slices.Grow(b.keys[:0], n*size), slices.Grow(b.values[:0], n*numbers)
	keys, values = b.keys[:n*size], b.values[:n*numbers]
	array := reflect.ArrayOf(size, reflect.TypeFor[byte]())
	return keys, reflect.SliceAt(array, unsafe.Pointer(unsafe.SliceData(keys)), n).Interface(), values
}

// countedKey is a key of the map.
type countedKey struct {
	set     *labelSet
	events  uint64
	changed time.Duration // when events was first what it is, CLOCK_BOOTTIME
	reading uint64        // in which it was found last
}

// labelSet is what has been counted for a label set that has been seen.
type labelSet struct {
	name    string // its values in one
	values  []string
	counts  []uint64
	sum     uint64
	events  uint64
	reading uint64        // in which it was found last
	keys    int           // how many keys of the map have these values
	before  []uint64      // what was counted for keys that have left the map; nil: nothing
	start   time.Duration // CLOCK_BOOTTIME since when it counts, 0: since the source was loaded
}

func newTable(description *Metric, m *ebpf.Map, buffer *batchBuffer, labels func([]byte) []string, fromZero bool) (*table, error) {
	cpus, err := ebpf.PossibleCPU()
	if err != nil {
		return nil, fmt.Errorf("count possible CPUs: %w", err)
	}
	t := &table{
		metric: description, m: m, buffer: buffer, labels: labels, fromZero: fromZero,
		words: int(m.ValueSize()) / 8, cpus: cpus, known: map[string]*countedKey{}, sets: map[string]*labelSet{},
	}
	t.keys = min(max(batchBytes/(8*t.words*cpus), 16), int(m.MaxEntries()))
	return t, nil
}

// begin forgets what an earlier reading, or the beginning of this one, has found.
func (t *table) begin() {
	t.reading++
	t.read = t.read[:0]
}

// appendTo appends a sample for each label set to samples.
func (t *table) appendTo(samples []Sample) ([]Sample, error) {
	now, err := boottime()
	if err != nil {
		return samples, err
	}
	t.now = now
	if t.noBatch {
		err = t.readSingly()
	} else {
		err = t.readBatches()
	}
	if err != nil {
		return samples, fmt.Errorf("read map of %s: %w", t.metric.Name, err)
	}
	if err = t.expire(); err != nil {
		err = fmt.Errorf("expire label sets of %s: %w", t.metric.Name, err)
	}
	for _, set := range t.read {
		if set.keys > 0 && (set.events > 0 || t.fromZero) {
			samples = append(samples, t.sample(set))
		}
	}
	return samples, err
}

func (t *table) sample(set *labelSet) Sample {
	if t.metric.Kind == KindCounter {
		return Sample{Metric: t.metric, Values: set.values, Start: set.start, Value: float64(set.events)}
	}
	return Sample{Metric: t.metric, Values: set.values, Start: set.start, SumNanoseconds: set.sum, Counts: set.counts}
}

func (t *table) readBatches() error {
	size, numbers := int(t.m.KeySize()), t.words*t.cpus
	keys, arrays, values := t.buffer.batch(t.keys, size, numbers)
	var cursor ebpf.MapBatchCursor
	t.begin()
	for {
		n, err := t.m.BatchLookup(&cursor, arrays, values, nil)
		done := errors.Is(err, ebpf.ErrKeyNotExist)
		switch {
		case errors.Is(err, ebpf.ErrNotSupported) && len(t.read) == 0:
			t.noBatch = true
			return t.readSingly()
		case errors.Is(err, unix.ENOSPC):
			t.keys *= 2 // more keys share a hash bucket than the batch has room for
			keys, arrays, values = t.buffer.batch(t.keys, size, numbers)
			cursor = ebpf.MapBatchCursor{}
			t.begin()
			continue
		case err != nil && !done:
			return err
		}
		if err := t.addBatch(keys[:n*size], values[:n*numbers]); err != nil {
			return err
		}
		if done {
			return nil
		}
	}
}

func (t *table) addBatch(keys []byte, values []uint64) error {
	size, numbers := int(t.m.KeySize()), t.words*t.cpus
	var unknown [][]byte
	for key := range slices.Chunk(keys, size) {
		if t.known[string(key)] == nil {
			unknown = append(unknown, key)
		}
	}
	if err := t.know(unknown); err != nil {
		return err
	}
	for i := range len(keys) / size {
		t.add(keys[i*size:(i+1)*size], values[i*numbers:(i+1)*numbers])
	}
	return nil
}

// readSingly reads key by key: for kernels that read per-CPU arrays no other way (before 5.13).
func (t *table) readSingly() error {
	key := make([]byte, t.m.KeySize())
	raw := make([][]byte, t.cpus)
	_, _, values := t.buffer.batch(1, len(key), t.words*t.cpus)
	t.begin()
	iterator := t.m.Iterate()
	for iterator.Next(&key, &raw) {
		for cpu, value := range raw {
			for word := range t.words {
				values[cpu*t.words+word] = binary.NativeEndian.Uint64(value[8*word:])
			}
		}
		if t.known[string(key)] == nil {
			if err := t.know([][]byte{key}); err != nil {
				return err
			}
		}
		t.add(key, values)
	}
	return iterator.Err()
}

// know finds the label sets of keys that have not been seen before.
func (t *table) know(keys [][]byte) error {
	if len(keys) > 0 && t.layout != nil {
		if err := t.layout.learn(keys); err != nil {
			return err
		}
	}
	for _, key := range keys {
		values := t.labels(key)
		if values == nil || t.known[string(key)] != nil {
			continue // not known yet: a later reading finds it again
		}
		set, err := t.labelSet(values)
		if err != nil {
			return err
		}
		set.keys++
		t.known[string(key)] = &countedKey{set: set, changed: t.now}
	}
	return nil
}

// labelSet returns the label set of a key.
func (t *table) labelSet(values []string) (*labelSet, error) {
	name := strings.Join(values, "\xff") // which no valid UTF-8 has
	if set := t.sets[name]; set != nil {
		return set, nil
	}
	set := &labelSet{name: name, values: values, counts: make([]uint64, t.words-1)}
	if t.expiry != nil {
		if err := t.expiry.begin(set); err != nil {
			return nil, err
		}
	}
	t.sets[name] = set
	return set, nil
}

// add adds what was counted for one key, of which perCPU holds one value after the other.
func (t *table) add(name []byte, perCPU []uint64) {
	key := t.known[string(name)]
	if key == nil || key.reading == t.reading {
		return // its label values are not known yet, or the kernel returned it twice
	}
	set := key.set
	if set.reading != t.reading {
		set.reading, set.sum, set.events = t.reading, 0, 0
		clear(set.counts)
		set.add(set.before, t.metric.Kind)
		t.read = append(t.read, set)
	}
	before := set.events
	for cpu := range t.cpus {
		set.add(perCPU[cpu*t.words:(cpu+1)*t.words], t.metric.Kind)
	}
	if events := set.events - before; events != key.events {
		key.events, key.changed = events, t.now
	}
	key.reading = t.reading
}

// numbers returns the numbers of a type that the keys of the map have.
func (t *table) numbers(typedef string) map[uint64]bool {
	numbers := map[uint64]bool{}
	if t.layout == nil {
		return numbers
	}
	for _, field := range t.layout.fields {
		if field.typedef != typedef {
			continue
		}
		for key := range t.known {
			numbers[nativeUint(field.of([]byte(key)))] = true
		}
	}
	return numbers
}

// add adds the numbers of one value of the map; none for nil.
func (s *labelSet) add(value []uint64, kind Kind) {
	switch {
	case value == nil:
	case kind == KindCounter:
		s.events += value[0]
	default:
		s.sum += value[0]
		for i, count := range value[1:] {
			s.counts[i] += count
			s.events += count
		}
	}
}

// lossesMap holds the losses of a source.
const lossesMap = "losses"

// lossReader reads struct losses, whose members are the reasons.
type lossReader struct {
	m       *ebpf.Map
	reasons []string
	perCPU  [][]byte
}

func newLossReader(m *ebpf.Map, spec *ebpf.MapSpec) (*lossReader, error) {
	if m == nil || spec == nil {
		return nil, errors.New("find map losses: the object has no such map")
	}
	reasons, ok := spec.Value.(*btf.Struct)
	if !ok {
		return nil, errors.New("read value of map losses: it is no struct")
	}
	cpus, err := ebpf.PossibleCPU()
	if err != nil {
		return nil, fmt.Errorf("count possible CPUs: %w", err)
	}
	r := &lossReader{m: m, perCPU: make([][]byte, cpus)}
	for _, member := range reasons.Members {
		r.reasons = append(r.reasons, member.Name)
	}
	return r, nil
}

// read returns the lost events in the order of reasons.
func (r *lossReader) read() ([]uint64, error) {
	if err := r.m.Lookup(uint32(0), &r.perCPU); err != nil {
		return nil, fmt.Errorf("read map losses: %w", err)
	}
	events := make([]uint64, len(r.reasons))
	for _, raw := range r.perCPU {
		for i := range events {
			events[i] += binary.NativeEndian.Uint64(raw[8*i:])
		}
	}
	return events, nil
}
