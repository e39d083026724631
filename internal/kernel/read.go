package kernel

import (
	"encoding/binary"
	"errors"
	"fmt"
	"reflect"
	"strings"
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
	learn    func(keys [][]byte) error // prepares labels for keys that have not been seen before; nil: nothing to prepare
	fromZero bool
	words    int // u64 in a value: a histogram's sum and buckets, or a counter
	cpus     int
	noBatch  bool // the kernel reads this kind of map only key by key

	batch  any    // n keys, a slice of arrays of the key's size
	keys   []byte // the same memory
	values []uint64

	known   map[string]*labelSet // by key
	sets    map[string]*labelSet // by label values: several keys can have the same
	read    []*labelSet          // what the present reading has found, in the order of the keys
	reading uint64               // the number of the present reading
}

// labelSet is what has been counted for a label set that has been seen.
type labelSet struct {
	values  []string
	counts  []uint64
	sum     uint64
	events  uint64
	reading uint64 // in which it was found last
}

func newTable(description *Metric, m *ebpf.Map, labels func([]byte) []string, fromZero bool) (*table, error) {
	cpus, err := ebpf.PossibleCPU()
	if err != nil {
		return nil, fmt.Errorf("count possible CPUs: %w", err)
	}
	t := &table{
		metric: description, m: m, labels: labels, fromZero: fromZero,
		words: int(m.ValueSize()) / 8, cpus: cpus, known: map[string]*labelSet{}, sets: map[string]*labelSet{},
	}
	t.grow(min(max(batchBytes/(8*t.words*cpus), 16), int(m.MaxEntries())))
	return t, nil
}

// grow makes room for a batch of n values.
func (t *table) grow(n int) {
	size := int(t.m.KeySize())
	batch := reflect.MakeSlice(reflect.SliceOf(reflect.ArrayOf(size, reflect.TypeFor[byte]())), n, n)
	t.batch = batch.Interface()
	t.keys = unsafe.Slice((*byte)(batch.UnsafePointer()), n*size)
	t.values = make([]uint64, n*t.words*t.cpus)
}

// begin forgets what an earlier reading, or the beginning of this one, has found.
func (t *table) begin() {
	t.reading++
	t.read = t.read[:0]
}

// appendTo appends a sample for each label set to samples.
func (t *table) appendTo(samples []Sample) ([]Sample, error) {
	var err error
	if t.noBatch {
		err = t.readSingly()
	} else {
		err = t.readBatches()
	}
	if err != nil {
		return samples, fmt.Errorf("read map of %s: %w", t.metric.Name, err)
	}
	for _, set := range t.read {
		if set.events > 0 || t.fromZero {
			samples = append(samples, t.sample(set))
		}
	}
	return samples, nil
}

func (t *table) sample(set *labelSet) Sample {
	if t.metric.Kind == KindCounter {
		return Sample{Metric: t.metric, Values: set.values, Value: float64(set.events)}
	}
	return Sample{Metric: t.metric, Values: set.values, SumNanoseconds: set.sum, Counts: set.counts}
}

func (t *table) readBatches() error {
	size := int(t.m.KeySize())
	var cursor ebpf.MapBatchCursor
	t.begin()
	for {
		n, err := t.m.BatchLookup(&cursor, t.batch, t.values, nil)
		done := errors.Is(err, ebpf.ErrKeyNotExist)
		switch {
		case errors.Is(err, ebpf.ErrNotSupported) && len(t.read) == 0:
			t.noBatch = true
			return t.readSingly()
		case errors.Is(err, unix.ENOSPC):
			t.grow(2 * len(t.keys) / size) // more keys share a hash bucket than the batch has room for
			cursor = ebpf.MapBatchCursor{}
			t.begin()
			continue
		case err != nil && !done:
			return err
		}
		if err := t.addBatch(n, size); err != nil {
			return err
		}
		if done {
			return nil
		}
	}
}

func (t *table) addBatch(n, size int) error {
	var unknown [][]byte
	for i := range n {
		if key := t.keys[i*size : (i+1)*size]; t.known[string(key)] == nil {
			unknown = append(unknown, key)
		}
	}
	if err := t.know(unknown); err != nil {
		return err
	}
	for i := range n {
		t.add(t.keys[i*size:(i+1)*size], t.values[i*t.words*t.cpus:(i+1)*t.words*t.cpus])
	}
	return nil
}

// readSingly reads key by key: for kernels that read per-CPU arrays no other way (before 5.13).
func (t *table) readSingly() error {
	key := make([]byte, t.m.KeySize())
	raw := make([][]byte, t.cpus)
	values := t.values[:t.words*t.cpus]
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
	if len(keys) > 0 && t.learn != nil {
		if err := t.learn(keys); err != nil {
			return err
		}
	}
	for _, key := range keys {
		values := t.labels(key)
		name := strings.Join(values, "\xff") // which no valid UTF-8 has
		set := t.sets[name]
		if set == nil {
			set = &labelSet{values: values, counts: make([]uint64, t.words-1)}
			t.sets[name] = set
		}
		t.known[string(key)] = set
	}
	return nil
}

// add adds what was counted for one key, of which perCPU holds one value after the other.
func (t *table) add(key []byte, perCPU []uint64) {
	set := t.known[string(key)]
	if set.reading != t.reading {
		set.reading, set.sum, set.events = t.reading, 0, 0
		clear(set.counts)
		t.read = append(t.read, set)
	}
	for cpu := range t.cpus {
		value := perCPU[cpu*t.words : (cpu+1)*t.words]
		if t.metric.Kind == KindCounter {
			set.events += value[0]
			continue
		}
		set.sum += value[0]
		for i, count := range value[1:] {
			set.counts[i] += count
			set.events += count
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
