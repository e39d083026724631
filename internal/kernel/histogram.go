package kernel

import (
	"fmt"
	"math"
	"math/bits"
	"sort"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"
)

// searchTable is the length of histogram_bounds in bpf/histogram.bpf.h: the search may look one power of two past the last bound.
const searchTable = 2 * MaxBounds

// searchTables are the constants with which the programs find a value's bucket; see bpf/histogram.bpf.h.
type searchTables struct {
	bounds [searchTable]uint64
	first  [64]uint16
	step   uint32
	last   uint32
}

// newSearchTables prepares the search in ascending bounds.
func newSearchTables(bounds []uint64) *searchTables {
	t := &searchTables{last: uint32(len(bounds))}
	for i := range t.bounds {
		t.bounds[i] = math.MaxUint64
	}
	copy(t.bounds[:], bounds)
	slotOf := func(ns uint64) int { return sort.Search(len(bounds), func(i int) bool { return bounds[i] >= ns }) }
	widest := 1
	for bit := range t.first {
		lowest, highest := uint64(1)<<bit, uint64(1)<<bit<<1-1
		if bit == 0 {
			lowest = 0 // the programs take 0 and 1 as one
		}
		t.first[bit] = uint16(slotOf(lowest))
		widest = max(widest, slotOf(highest)-slotOf(lowest)+1)
	}
	if widest > 1 {
		t.step = 1 << (bits.Len(uint(widest-1)) - 1)
	}
	return t
}

// setBounds gives the programs of spec their bounds and cuts the histograms in its maps to size.
func setBounds(spec *ebpf.CollectionSpec, bounds []uint64) error {
	t := newSearchTables(bounds)
	for name, value := range map[string]any{
		"histogram_bounds": t.bounds, "histogram_first": t.first, "histogram_step": t.step, "histogram_last": t.last,
	} {
		if err := setVariable(spec, name, value); err != nil {
			return err
		}
	}
	for _, m := range spec.Maps {
		whole, ok := m.Value.(*btf.Struct)
		if !ok || whole.Name != "histogram" {
			continue
		}
		cut, err := cutHistogram(whole, len(bounds)+1)
		if err != nil {
			return fmt.Errorf("size histograms of map %s: %w", m.Name, err)
		}
		m.Value, m.ValueSize = cut, cut.Size
	}
	return nil
}

// cutHistogram returns struct histogram with as many buckets as are needed.
func cutHistogram(whole *btf.Struct, buckets int) (*btf.Struct, error) {
	cut := btf.Copy(whole).(*btf.Struct)
	last := &cut.Members[len(cut.Members)-1]
	array, ok := last.Type.(*btf.Array)
	if !ok || last.Name != "buckets" {
		return nil, fmt.Errorf("last member of struct %s is not the array of buckets", whole.Name)
	}
	array.Nelems = uint32(buckets)
	cut.Size = last.Offset.Bytes() + uint32(buckets)*8
	return cut, nil
}

func setVariable(spec *ebpf.CollectionSpec, name string, value any) error {
	v, ok := spec.Variables[name]
	if !ok {
		return fmt.Errorf("set constant %s: the object has no such constant", name)
	}
	if err := v.Set(value); err != nil {
		return fmt.Errorf("set constant %s: %w", name, err)
	}
	return nil
}
