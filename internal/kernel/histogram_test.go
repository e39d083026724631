package kernel

import (
	"encoding/binary"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"sort"
	"testing"
	"time"

	"github.com/cilium/ebpf"

	"github.com/latpush/latpush/bpf/selftest"
)

// boundsForTests are bounds of every shape that the search in the programs has to cope with.
func boundsForTests() map[string][]uint64 {
	exp2 := BucketsConfig{Exp2: &Exp2Config{Min: Duration(time.Microsecond), Count: 27}}
	linear := BucketsConfig{Linear: &LinearConfig{Start: Duration(100 * time.Microsecond), Width: Duration(100 * time.Microsecond), Count: 20}}
	most := BucketsConfig{Linear: &LinearConfig{Start: 1, Width: 1, Count: MaxBounds}}
	dense := BucketsConfig{Linear: &LinearConfig{Start: Duration(time.Second), Width: Duration(time.Millisecond), Count: MaxBounds}}
	doublings := BucketsConfig{Exp2: &Exp2Config{Min: 1, Count: 63}}
	return map[string][]uint64{
		"default":                exp2.Nanoseconds(),
		"linear":                 linear.Nanoseconds(),
		"every nanosecond":       most.Nanoseconds(),
		"512 bounds in one bit":  dense.Nanoseconds(),
		"a schema of 3":          exponentialBounds(3, 16, 1<<62),
		"every bit":              doublings.Nanoseconds(),
		"one bound":              {1000},
		"decades":                {10_000, 100_000, 1_000_000, 10_000_000, 100_000_000, 1_000_000_000},
		"the smallest and a big": {1, 2, 3, 1 << 40, 1<<40 + 1, 1<<62 + 7},
	}
}

// edges returns the values at and beside every bound, and the extremes.
func edges(bounds []uint64) []uint64 {
	values := []uint64{0, 1, 1 << 63, math.MaxUint64, math.MaxUint64 - 1}
	for _, bound := range bounds {
		values = append(values, bound-1, bound, bound+1)
	}
	return values
}

// wantBuckets is what the histogram of values must be, from the definition.
func wantBuckets(bounds, values []uint64) (counts []uint64, sum uint64) {
	counts = make([]uint64, len(bounds)+1)
	for _, value := range values {
		counts[sort.Search(len(bounds), func(i int) bool { return value <= bounds[i] })]++
		sum += value
	}
	return counts, sum
}

// searchSlot is the search of bpf/histogram.bpf.h.
func searchSlot(t *searchTables, ns uint64) int {
	bit := 0
	if ns > 0 {
		bit = 63 - countLeadingZeros(ns)
	}
	slot := uint32(t.first[bit])
	for step := t.step; step > 0; step >>= 1 {
		if ns > t.bounds[(slot+step-1)&(searchTable-1)] {
			slot += step
		}
	}
	return int(slot)
}

func countLeadingZeros(value uint64) int {
	n := 0
	for mask := uint64(1) << 63; mask != 0 && value&mask == 0; mask >>= 1 {
		n++
	}
	return n
}

func FuzzSearchTables(f *testing.F) {
	for _, bounds := range boundsForTests() {
		raw := make([]byte, 0, 8*len(bounds))
		for _, bound := range bounds {
			raw = binary.LittleEndian.AppendUint64(raw, bound)
		}
		f.Add(raw, uint64(1000))
	}
	f.Fuzz(func(t *testing.T, raw []byte, value uint64) {
		var bounds []uint64
		for ; len(raw) >= 8 && len(bounds) < MaxBounds; raw = raw[8:] {
			if bound := binary.LittleEndian.Uint64(raw) >> 1; bound > 0 {
				bounds = append(bounds, bound)
			}
		}
		slices.Sort(bounds)
		if bounds = slices.Compact(bounds); len(bounds) == 0 {
			return
		}
		tables := newSearchTables(bounds)
		for _, value := range append(edges(bounds), value) {
			want := sort.Search(len(bounds), func(i int) bool { return value <= bounds[i] })
			if got := searchSlot(tables, value); got != want {
				t.Fatalf("value %d of bounds %d: slot %d, want %d", value, bounds, got, want)
			}
		}
	})
}

// feeder runs the test program that counts any value.
type feeder struct {
	t          testing.TB
	collection *ebpf.Collection
}

func newFeeder(t testing.TB, bounds []uint64) *feeder {
	t.Helper()
	spec, err := selftest.Load("histogram")
	if err != nil {
		t.Fatal(err)
	}
	if err := setBounds(spec, bounds); err != nil {
		t.Fatal(err)
	}
	collection, err := ebpf.NewCollection(spec)
	if err != nil {
		t.Fatalf("%+v", err)
	}
	t.Cleanup(collection.Close)
	return &feeder{t: t, collection: collection}
}

func (f *feeder) feed(label uint64, values ...uint64) {
	f.t.Helper()
	for _, value := range values {
		if _, err := f.collection.Programs["observe"].Run(&ebpf.RunOptions{Context: [2]uint64{value, label}}); err != nil {
			f.t.Fatal(err)
		}
	}
}

// read returns the samples of a map by label.
func (f *feeder) read(name string, bounds []uint64) map[uint64]Sample {
	f.t.Helper()
	table, err := newTable(&Metric{Name: name, Labels: []string{"label"}, Bounds: bounds}, f.collection.Maps[name], new(batchBuffer), func(key []byte) []string {
		return []string{fmt.Sprint(nativeUint(key))}
	}, false)
	if err != nil {
		f.t.Fatal(err)
	}
	samples, err := table.appendTo(nil)
	if err != nil {
		f.t.Fatal(err)
	}
	byLabel := map[uint64]Sample{}
	for _, sample := range samples {
		var label uint64
		if _, err := fmt.Sscan(sample.Values[0], &label); err != nil {
			f.t.Fatal(err)
		}
		byLabel[label] = sample
	}
	return byLabel
}

func TestHistogramInKernel(t *testing.T) {
	for name, bounds := range boundsForTests() {
		t.Run(name, func(t *testing.T) {
			values := edges(bounds)
			random := rand.New(rand.NewPCG(1, uint64(len(bounds))))
			for range 200 {
				values = append(values, random.Uint64()>>random.IntN(64))
			}
			f := newFeeder(t, bounds)
			f.feed(7, values...)
			counts, sum := wantBuckets(bounds, values)
			for table, label := range map[string]uint64{"probe": 7, "probe_alone": 0} {
				got := f.read(table, bounds)[label]
				if !slices.Equal(got.Counts, counts) {
					t.Errorf("%s: buckets %d, want %d", table, got.Counts, counts)
				}
				if got.SumNanoseconds != sum {
					t.Errorf("%s: sum %d, want %d", table, got.SumNanoseconds, sum)
				}
			}
		})
	}
}

// A full map counts further label sets under "other", and where even that is missing, as lost.
func TestFullMapInKernel(t *testing.T) {
	bounds := []uint64{1000, 2000}
	f := newFeeder(t, bounds)
	for label := range uint64(6) {
		f.feed(label, 1500)
	}
	got := f.read("probe", bounds)
	if len(got) != 4 {
		t.Errorf("%d label sets in a map of 4: %v", len(got), got)
	}
	reader, err := newLossReader(f.collection.Maps["losses"], mustSpec(t).Maps["losses"])
	if err != nil {
		t.Fatal(err)
	}
	if lost := lostFor(t, reader, "histograms_full"); lost != 2 {
		t.Errorf("%d events lost without a place for other, want 2", lost)
	}

	f = newFeeder(t, bounds)
	key := make([]byte, 4)
	putNativeUint(key, 1000)
	if err := putZeros(f.collection.Maps["probe"], [][]byte{key}); err != nil {
		t.Fatal(err)
	}
	for label := range uint64(6) {
		f.feed(label, 1500, 500, 2500)
	}
	got = f.read("probe", bounds)
	if want := []uint64{3, 3, 3}; !slices.Equal(got[1000].Counts, want) || got[1000].SumNanoseconds != 3*4500 {
		t.Errorf("other is %v, want buckets %d and sum %d", got[1000], want, 3*4500)
	}
	if reader, err = newLossReader(f.collection.Maps["losses"], mustSpec(t).Maps["losses"]); err != nil {
		t.Fatal(err)
	}
	if lost := lostFor(t, reader, "histograms_full"); lost != 0 {
		t.Errorf("%d events lost with a place for other", lost)
	}
}

func mustSpec(t *testing.T) *ebpf.CollectionSpec {
	t.Helper()
	spec, err := selftest.Load("histogram")
	if err != nil {
		t.Fatal(err)
	}
	return spec
}

func lostFor(t *testing.T, r *lossReader, reason string) uint64 {
	t.Helper()
	events, err := r.read()
	if err != nil {
		t.Fatal(err)
	}
	i := slices.Index(r.reasons, reason)
	if i < 0 {
		t.Fatalf("no reason %s in %v", reason, r.reasons)
	}
	return events[i]
}

// Reading key by key, as kernels before 5.13 need it for arrays, gives the same as reading in batches.
func TestReadSingly(t *testing.T) {
	bounds := boundsForTests()["default"]
	f := newFeeder(t, bounds)
	f.feed(1, 10, 2000, 3_000_000)
	f.feed(2, 5_000_000_000, 1<<40)
	for _, name := range []string{"probe", "probe_alone"} {
		table, err := newTable(&Metric{Name: name, Bounds: bounds}, f.collection.Maps[name], new(batchBuffer), func(key []byte) []string { return []string{string(key)} }, false)
		if err != nil {
			t.Fatal(err)
		}
		read := func() string {
			samples, err := table.appendTo(nil)
			if err != nil {
				t.Fatal(err)
			}
			slices.SortFunc(samples, func(a, b Sample) int { return slices.Compare(a.Values, b.Values) })
			return fmt.Sprint(samples)
		}
		batched := read()
		table.noBatch = true
		if singly := read(); singly != batched || len(batched) < 10 {
			t.Errorf("%s singly %s, in batches %s", name, singly, batched)
		}
	}
}
