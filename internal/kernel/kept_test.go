package kernel

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/cilium/ebpf"
)

// What is kept survives the process, the label set that left first makes room, and what was forgotten begins anew, later.
func TestKeptCounts(t *testing.T) {
	m, err := ebpf.NewMap(keptSpec(&ebpf.MapSpec{Name: "test", ValueSize: 16}, 2))
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	open := func(now time.Duration) *keptCounts {
		t.Helper()
		k, err := newKeptCounts(m, now)
		if err != nil {
			t.Fatal(err)
		}
		return k
	}
	k := open(1)
	take := func(name string, start time.Duration, counts ...uint64) {
		t.Helper()
		gotStart, got, err := k.take(nameKept(name), name == other)
		if err != nil || gotStart != start || !slices.Equal(got, counts) {
			t.Errorf("took %d, %d, %v of %s, want %d, %d", gotStart, got, err, name, start, counts)
		}
	}
	keep := func(name string, start, left time.Duration, counts ...uint64) {
		t.Helper()
		if err := k.keep(nameKept(name), start, counts, left); err != nil {
			t.Fatal(err)
		}
	}
	take("a", 0)
	for i := range uint64(4) {
		keep(fmt.Sprint("gone", i), 0, time.Duration(100+i), i, 2*i)
	}
	k = open(200)
	take("gone1", 0, 1, 2) // is in its map again, and holds its place
	keep("gone4", 0, 104, 4, 8)
	k = open(300)
	take("gone0", 100, 0, 0) // was forgotten, and takes the place of gone2
	take(other, 0)
	take("gone3", 0, 3, 6)
	take("gone4", 0, 4, 8)
	take("gone1", 0, 1, 2)
	keep("gone1", 0, 0, 5, 6)
	k = open(400)
	take("gone0", 100, 0, 0)
	if k.since != 102 {
		t.Errorf("forgot last at %d, want 102", k.since)
	}
	if err := k.leave(nameKept("gone0"), 100, []uint64{7, 7}, 500); err != nil {
		t.Fatal(err)
	}
	if err := k.leave(nameKept("never kept"), 0, nil, 500); err != nil {
		t.Fatal(err)
	}
	take("gone0", 100, 7, 7)
	take("gone1", 0, 5, 6)
}
