package kernel

import (
	"fmt"
	"slices"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"

	"github.com/latpush/latpush/bpf/selftest"
)

// countEvents lets the test program count events of the functions at some addresses, and returns the samples by the name of the function.
func countEvents(t *testing.T, events map[uint64]uint64) map[string]float64 {
	t.Helper()
	spec, err := selftest.Load("histogram")
	if err != nil {
		t.Fatal(err)
	}
	if err := setBounds(spec, []uint64{1000}); err != nil {
		t.Fatal(err)
	}
	collection, err := ebpf.NewCollection(spec)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(collection.Close)
	layout, err := newKeyLayout(spec.Maps["probe_events"].Key.(*btf.Struct))
	if err != nil {
		t.Fatal(err)
	}
	if err := putZeros(collection.Maps["probe_events"], layout.others()); err != nil {
		t.Fatal(err)
	}
	table, err := newTable(&Metric{Name: "probe_events_total", Kind: KindCounter, Labels: layout.labels()}, collection.Maps["probe_events"], new(batchBuffer), layout.values, false)
	if err != nil {
		t.Fatal(err)
	}
	table.layout = layout
	for address, n := range events {
		if _, err := collection.Programs["count"].Run(&ebpf.RunOptions{Context: [2]uint64{n, address}}); err != nil {
			t.Fatal(err)
		}
	}
	counted := map[string]float64{}
	for range 2 { // a second reading gives the same: nothing is added up twice
		samples, err := table.appendTo(nil)
		if err != nil {
			t.Fatal(err)
		}
		clear(counted)
		for _, s := range samples {
			if _, twice := counted[s.Values[0]]; twice {
				t.Errorf("two samples of %s", s.Values[0])
			}
			counted[s.Values[0]] = s.Value
		}
	}
	return counted
}

// address returns where a function of the running kernel is.
func address(t *testing.T, name string) uint64 {
	t.Helper()
	var found uint64
	if err := eachSymbol(func(address uint64, _ byte, symbol []byte) bool {
		if string(symbol) == name {
			found = address
		}
		return found == 0
	}); err != nil || found == 0 {
		t.Fatalf("the kernel lists no %s: %v", name, err)
	}
	return found
}

// Functions have names, those that are not known and those that do not fit are one label set, and none of their events is lost.
func TestCountersAreNamedByFunction(t *testing.T) {
	read, write := address(t, "vfs_read"), address(t, "vfs_write")
	counted := countEvents(t, map[uint64]uint64{read: 3, write: 1 << 40, 0x1234: 7})
	if want := map[string]float64{"vfs_read": 3, "vfs_write": 1 << 40, "other": 7}; fmt.Sprint(counted) != fmt.Sprint(want) {
		t.Errorf("counted %v, want %v", counted, want)
	}
	many := map[uint64]uint64{}
	for i := range uint64(20) {
		many[0x2000+i] = 1
	}
	if counted := countEvents(t, many); len(counted) != 1 || counted["other"] != 20 {
		t.Errorf("counted %v, want 20 of other", counted)
	}
}

func TestFunctionNames(t *testing.T) {
	known := address(t, "vfs_read")
	names, err := functionNames(map[uint64]bool{known: true, 1: true})
	if err != nil || len(names) != 1 || names[known] != "vfs_read" {
		t.Errorf("names are %v, %v", names, err)
	}
	if hasSymbol("no_such_function_of_a_kernel") || !hasSymbol("vfs_read") {
		t.Error("the list of symbols is not read right")
	}
}

// Functions have a key for "other", and are no fixed list.
func TestOtherKeyOfFunctions(t *testing.T) {
	layout := &keyLayout{size: 8, fields: []keyField{{label: "function", size: 8, symbol: true, names: map[uint64]string{0: other}}}}
	if keys := layout.others(); len(keys) != 1 || !slices.Equal(keys[0], make([]byte, 8)) || layout.values(keys[0])[0] != other {
		t.Errorf("keys of other are %x, %v", keys, layout.values(keys[0]))
	}
	if keys := layout.all(); keys != nil {
		t.Errorf("functions are a fixed list: %x", keys)
	}
}
