package kernel

import (
	"encoding/binary"
	"errors"
	"fmt"
	"reflect"
	"unsafe"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"
	"golang.org/x/sys/unix"
)

// batchBytes is about how much is read from the kernel in one call: with many CPUs one histogram alone takes tens of KiB.
const batchBytes = 256 << 10

// table reads the histograms of one map. What it returns stays valid until the next read.
type table struct {
	metric   *Metric
	m        *ebpf.Map
	labels   func(key []byte) []string
	fromZero bool
	words    int // u64 in a histogram: the sum and the buckets
	cpus     int
	noBatch  bool // the kernel reads this kind of map only key by key

	batch  any    // n keys, a slice of arrays of the key's size
	keys   []byte // the same memory
	values []uint64
	known  map[string]*entry
}

// entry is a label set that has been seen.
type entry struct {
	values []string
	counts []uint64
}

func newTable(description *Metric, m *ebpf.Map, labels func([]byte) []string, fromZero bool) (*table, error) {
	cpus, err := ebpf.PossibleCPU()
	if err != nil {
		return nil, fmt.Errorf("count possible CPUs: %w", err)
	}
	t := &table{
		metric: description, m: m, labels: labels, fromZero: fromZero,
		words: int(m.ValueSize()) / 8, cpus: cpus, known: map[string]*entry{},
	}
	t.grow(min(max(batchBytes/(8*t.words*cpus), 16), int(m.MaxEntries())))
	return t, nil
}

// grow makes room for a batch of n histograms.
func (t *table) grow(n int) {
	size := int(t.m.KeySize())
	batch := reflect.MakeSlice(reflect.SliceOf(reflect.ArrayOf(size, reflect.TypeFor[byte]())), n, n)
	t.batch = batch.Interface()
	t.keys = unsafe.Slice((*byte)(batch.UnsafePointer()), n*size)
	t.values = make([]uint64, n*t.words*t.cpus)
}

// read appends a sample for each label set to samples.
func (t *table) read(samples []Sample) ([]Sample, error) {
	if t.noBatch {
		return t.readSingly(samples)
	}
	before, size := len(samples), int(t.m.KeySize())
	var cursor ebpf.MapBatchCursor
	for {
		n, err := t.m.BatchLookup(&cursor, t.batch, t.values, nil)
		done := errors.Is(err, ebpf.ErrKeyNotExist)
		switch {
		case errors.Is(err, ebpf.ErrNotSupported) && len(samples) == before:
			t.noBatch = true
			return t.readSingly(samples)
		case errors.Is(err, unix.ENOSPC):
			t.grow(2 * len(t.keys) / size) // more keys share a hash bucket than the batch has room for
			samples, cursor = samples[:before], ebpf.MapBatchCursor{}
			continue
		case err != nil && !done:
			return samples[:before], fmt.Errorf("read map of %s: %w", t.metric.Name, err)
		}
		for i := range n {
			samples = t.append(samples, t.keys[i*size:(i+1)*size], t.values[i*t.words*t.cpus:(i+1)*t.words*t.cpus])
		}
		if done {
			return samples, nil
		}
	}
}

// readSingly reads key by key: for kernels that read per-CPU arrays no other way (before 5.13).
func (t *table) readSingly(samples []Sample) ([]Sample, error) {
	key := make([]byte, t.m.KeySize())
	raw := make([][]byte, t.cpus)
	values := t.values[:t.words*t.cpus]
	iterator := t.m.Iterate()
	for iterator.Next(&key, &raw) {
		for cpu, histogram := range raw {
			for word := range t.words {
				values[cpu*t.words+word] = binary.NativeEndian.Uint64(histogram[8*word:])
			}
		}
		samples = t.append(samples, key, values)
	}
	if err := iterator.Err(); err != nil {
		return samples, fmt.Errorf("read map of %s: %w", t.metric.Name, err)
	}
	return samples, nil
}

// append adds the sample of one key, of which perCPU holds one histogram after the other.
func (t *table) append(samples []Sample, key []byte, perCPU []uint64) []Sample {
	e, ok := t.known[string(key)]
	if !ok {
		e = &entry{values: t.labels(key), counts: make([]uint64, t.words-1)}
		t.known[string(key)] = e
	}
	var sum, events uint64
	clear(e.counts)
	for cpu := range t.cpus {
		histogram := perCPU[cpu*t.words : (cpu+1)*t.words]
		sum += histogram[0]
		for i, count := range histogram[1:] {
			e.counts[i] += count
			events += count
		}
	}
	if events == 0 && !t.fromZero {
		return samples
	}
	return append(samples, Sample{Metric: t.metric, Values: e.values, SumNanoseconds: sum, Counts: e.counts})
}

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

// Reasons that the kernel counts itself, beside the members of struct losses.
const (
	reasonRecursion = "recursion" // a program was already running on that CPU
	reasonMissed    = "missed"    // the kernel had no room to follow another call of a probed function
)

// lost returns the losses of a source.
func (s *loadedSource) lost() ([]Loss, error) {
	events, err := s.losses.read()
	if err != nil {
		return nil, fmt.Errorf("read losses of source %s: %w", s.source.name, err)
	}
	var losses []Loss
	for i, reason := range s.losses.reasons {
		losses = append(losses, Loss{Source: s.source.name, Reason: reason, Events: events[i]})
	}
	var recursion, missed uint64
	for _, h := range s.hooks {
		for _, a := range h.attached {
			recursion += a.recursionMisses()
			missed += a.missed()
		}
	}
	return append(losses,
		Loss{Source: s.source.name, Reason: reasonRecursion, Events: recursion},
		Loss{Source: s.source.name, Reason: reasonMissed, Events: missed}), nil
}

// recursionMisses returns how often the kernel skipped the program because it was running on that CPU (5.12).
func (a *attachment) recursionMisses() uint64 {
	stats, err := a.program.Stats()
	if err != nil {
		return 0
	}
	return stats.RecursionMisses
}

// missed returns how often the kernel skipped a probe (6.6).
func (a *attachment) missed() uint64 {
	if a.program.Type() != ebpf.Kprobe {
		return 0
	}
	info, err := a.link.Info()
	if err != nil {
		return 0
	}
	event := info.PerfEvent()
	if event == nil || event.Kprobe() == nil {
		return 0
	}
	return event.Kprobe().Missed
}
