package kernel

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// keptSuffix is what the name of the map of keptCounts has beside the name of the map whose counts it keeps.
const keptSuffix = "_kept"

// keptCounts keeps what was counted for label sets that have left their map, so that their counters go on when they come back. It is a map of the
// kernel to which no program refers: it lives and is pinned as long as the map that it belongs to. When it is full, the label set that left first is
// forgotten, and begins a new counter if it comes back.
type keptCounts struct {
	m     *ebpf.Map
	limit int
	gone  map[keptName]time.Duration // when a label set left, CLOCK_BOOTTIME
	held  map[keptName]bool          // the label sets that are in their map again, or in part still
	since time.Duration              // when a label set was forgotten last, CLOCK_BOOTTIME, 0: never
}

// keptName identifies a label set in as few bytes whatever its values are.
type keptName [16]byte

// isSince tells the entry that keeps when a label set was forgotten last.
func (n keptName) isSince() bool { return n == keptName{} }

// The numbers before the counts in an entry: the Start of the label set, and when it left, 0 if it is in its map.
const (
	keptStart = iota
	keptGone
	keptHeader
)

// nameKept returns the name of a label set.
func nameKept(name string) keptName {
	sum := sha256.Sum256([]byte(name))
	return keptName(sum[:len(keptName{})])
}

// keptSpec describes the map for the counts of another map, of which max label sets are in use at most.
func keptSpec(counts *ebpf.MapSpec, maxLabelSets int) *ebpf.MapSpec {
	return &ebpf.MapSpec{
		Name: counts.Name + keptSuffix, Type: ebpf.Hash, Flags: unix.BPF_F_NO_PREALLOC,
		KeySize: uint32(len(keptName{})), ValueSize: 8*keptHeader + counts.ValueSize, MaxEntries: uint32(2*maxLabelSets + 1),
	}
}

// newKeptCounts reads what an earlier process has kept. What has not left by then counts as having left now, until it is found in its map.
func newKeptCounts(m *ebpf.Map, now time.Duration) (*keptCounts, error) {
	k := &keptCounts{m: m, limit: int(m.MaxEntries()) - 1, gone: map[keptName]time.Duration{}, held: map[keptName]bool{}}
	var name keptName
	value := make([]uint64, m.ValueSize()/8)
	entries := m.Iterate()
	for entries.Next(&name, value) {
		if name.isSince() {
			k.since = time.Duration(value[keptStart])
			continue
		}
		k.gone[name] = now
		if left := time.Duration(value[keptGone]); left > 0 {
			k.gone[name] = left
		}
	}
	if err := entries.Err(); err != nil {
		return nil, fmt.Errorf("read what is kept of label sets that have left: %w", err)
	}
	return k, nil
}

// take returns the Start of a label set that is in its map now, 0 if it is that of the source, and what was counted before, nil if nothing was. One that
// stays cannot have been forgotten.
func (k *keptCounts) take(name keptName, stays bool) (start time.Duration, counts []uint64, err error) {
	if _, kept := k.gone[name]; !kept {
		if k.since == 0 || stays {
			return 0, nil, nil
		}
		start, counts = k.since, make([]uint64, k.m.ValueSize()/8-keptHeader)
		return start, counts, k.keep(name, start, counts, 0)
	}
	value := make([]uint64, k.m.ValueSize()/8)
	if err := k.m.Lookup(name, value); err != nil {
		return 0, nil, fmt.Errorf("read what is kept of a label set: %w", err)
	}
	start, counts = time.Duration(value[keptStart]), value[keptHeader:]
	return start, counts, k.keep(name, start, counts, 0)
}

// keep keeps what was counted for a label set. Left is when it has left its map, 0 if it has not left it altogether.
func (k *keptCounts) keep(name keptName, start time.Duration, counts []uint64, left time.Duration) error {
	if _, kept := k.gone[name]; !kept && !k.held[name] && len(k.gone)+len(k.held) >= k.limit {
		if err := k.forget(); err != nil {
			return err
		}
	}
	value := slices.Concat([]uint64{uint64(start), uint64(left)}, counts)
	if err := k.m.Update(name, value, ebpf.UpdateAny); err != nil {
		return fmt.Errorf("keep what was counted for a label set: %w", err)
	}
	delete(k.gone, name)
	delete(k.held, name)
	if left > 0 {
		k.gone[name] = left
	} else {
		k.held[name] = true
	}
	return nil
}

// leave notes that a label set has left its map of which something may be kept.
func (k *keptCounts) leave(name keptName, start time.Duration, counts []uint64, now time.Duration) error {
	if !k.held[name] {
		return nil
	}
	return k.keep(name, start, counts, now)
}

// forget makes room for one label set. What begins to count from now on, the forgotten label set too, does not do so before any of those left.
func (k *keptCounts) forget() error {
	var oldest keptName
	left := time.Duration(-1)
	for name, since := range k.gone {
		if left < 0 || since < left {
			oldest, left = name, since
		}
	}
	if left < 0 {
		return errors.New("keep what was counted for a label set: there is no room")
	}
	value := make([]uint64, k.m.ValueSize()/8)
	value[keptStart] = uint64(max(left, k.since))
	if err := k.m.Update(keptName{}, value, ebpf.UpdateAny); err != nil {
		return fmt.Errorf("note that a label set is forgotten: %w", err)
	}
	k.since = time.Duration(value[keptStart])
	if err := k.m.Delete(oldest); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
		return fmt.Errorf("forget a label set: %w", err)
	}
	delete(k.gone, oldest)
	return nil
}
