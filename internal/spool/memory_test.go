package spool

import (
	"bytes"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"testing"
)

// memoryDisk is a fileSystem in memory that keeps apart what a program sees and what a power cut leaves, as doc.go assumes it of the
// machine. Each step that changes something is numbered and may be made to fail.
type memoryDisk struct {
	mu      sync.Mutex
	seen    map[string]*inode
	durable map[string]*inode // names that SyncDirectory made durable
	locked  bool
	steps   int
	fault   func(step int, operation, path string) fault // nil for none
	readErr func(path string, from, to int64) error      // nil for none
}

// fault is how a step fails: with err, nil for not at all. Of a write, the first kept/1000 are in the file nevertheless.
type fault struct {
	err  error
	kept int
}

type inode struct {
	seen     []byte
	durable  []byte
	dirty    []stretch // of seen, written since the last sync
	doubtful []stretch // dirty when a sync failed: no later one writes them, and yet they may be on disk
}

type stretch struct{ from, to int }

func newMemoryDisk() *memoryDisk {
	return &memoryDisk{seen: make(map[string]*inode), durable: make(map[string]*inode)}
}

// setFault changes how steps fail, for tests in which the spool is at work meanwhile.
func (d *memoryDisk) setFault(fault func(step int, operation, path string) fault) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.fault = fault
}

// powerCut returns the disk as it is after a power cut now: without anything that was not synced, or, given a source of randomness, with
// any part of it.
func (d *memoryDisk) powerCut(rng *rand.Rand) *memoryDisk {
	d.mu.Lock()
	defer d.mu.Unlock()
	after := newMemoryDisk()
	files := make(map[*inode]*inode)
	for _, name := range slices.Sorted(maps.Keys(merged(d.seen, d.durable))) {
		node := d.durable[name]
		if rng != nil && rng.IntN(2) == 0 {
			node = d.seen[name]
		}
		if node == nil {
			continue
		}
		if files[node] == nil {
			b := node.afterPowerCut(rng)
			files[node] = &inode{seen: b, durable: bytes.Clone(b)}
		}
		after.seen[name], after.durable[name] = files[node], files[node]
	}
	return after
}

func merged(a, b map[string]*inode) map[string]*inode {
	all := maps.Clone(a)
	maps.Copy(all, b)
	return all
}

// afterPowerCut keeps, of each write, all, nothing, or sector by sector the old bytes, the new ones or neither.
func (n *inode) afterPowerCut(rng *rand.Rand) []byte {
	if rng == nil {
		return bytes.Clone(n.durable)
	}
	const sector = 64 // smaller than a real one, since so are the records of the tests
	size := len(n.durable)
	switch rng.IntN(3) {
	case 0:
		size = len(n.seen)
	case 1:
		low, high := min(size, len(n.seen)), max(size, len(n.seen))
		size = low + rng.IntN(high-low+1)
	}
	b := make([]byte, size)
	copy(b, n.durable)
	for _, s := range slices.Concat(n.doubtful, n.dirty) {
		whole := rng.IntN(3)
		for from := s.from; from < min(s.to, size); from += sector {
			to := min(from+sector, s.to, size)
			switch {
			case whole == 0 || whole == 1 && rng.IntN(3) == 0:
				copy(b[from:to], n.seen[min(from, len(n.seen)):])
			case whole == 1 && rng.IntN(2) == 0:
				for i := from; i < to; i++ {
					b[i] = byte(rng.Uint32())
				}
			}
		}
	}
	return b
}

// step numbers a change and says whether it fails.
func (d *memoryDisk) step(operation, path string) fault {
	d.steps++
	if d.fault == nil {
		return fault{}
	}
	return d.fault(d.steps, operation, filepath.Base(path))
}

func (d *memoryDisk) MakeDirectory(string) error { return nil }

func (d *memoryDisk) List(string) ([]string, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.Sorted(maps.Keys(d.seen)), nil
}

func (d *memoryDisk) Create(path string) (file, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if f := d.step("create", path); f.err != nil {
		return nil, f.err
	}
	node := &inode{}
	d.seen[filepath.Base(path)] = node
	return &memoryFile{disk: d, path: path, node: node, writable: true}, nil
}

func (d *memoryDisk) Open(path string, write bool) (file, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	node := d.seen[filepath.Base(path)]
	if node == nil {
		return nil, fs.ErrNotExist
	}
	return &memoryFile{disk: d, path: path, node: node, writable: write}, nil
}

func (d *memoryDisk) Rename(from, to string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if f := d.step("rename", to); f.err != nil {
		return f.err
	}
	node := d.seen[filepath.Base(from)]
	if node == nil {
		return fs.ErrNotExist
	}
	delete(d.seen, filepath.Base(from))
	d.seen[filepath.Base(to)] = node
	return nil
}

func (d *memoryDisk) Remove(path string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if f := d.step("remove", path); f.err != nil {
		return f.err
	}
	if d.seen[filepath.Base(path)] == nil {
		return fs.ErrNotExist
	}
	delete(d.seen, filepath.Base(path))
	return nil
}

func (d *memoryDisk) SyncDirectory(path string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if f := d.step("sync directory", path); f.err != nil {
		return f.err
	}
	d.durable = maps.Clone(d.seen)
	return nil
}

func (d *memoryDisk) Lock(string) (io.Closer, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.locked {
		return nil, ErrLocked
	}
	d.locked = true
	return unlocker{d}, nil
}

type unlocker struct{ disk *memoryDisk }

func (u unlocker) Close() error {
	u.disk.mu.Lock()
	defer u.disk.mu.Unlock()
	u.disk.locked = false
	return nil
}

type memoryFile struct {
	disk     *memoryDisk
	path     string
	node     *inode
	writable bool
	closed   bool
}

func (f *memoryFile) ReadAt(b []byte, offset int64) (int, error) {
	f.disk.mu.Lock()
	defer f.disk.mu.Unlock()
	if f.disk.readErr != nil {
		if err := f.disk.readErr(filepath.Base(f.path), offset, offset+int64(len(b))); err != nil {
			return 0, err
		}
	}
	return bytes.NewReader(f.node.seen).ReadAt(b, offset)
}

func (f *memoryFile) WriteAt(b []byte, offset int64) (int, error) {
	f.disk.mu.Lock()
	defer f.disk.mu.Unlock()
	if !f.writable || f.closed {
		return 0, syscall.EBADF
	}
	fault := f.disk.step("write", f.path)
	if fault.err != nil {
		b = b[:len(b)*fault.kept/1000]
	}
	end := int(offset) + len(b)
	if end > len(f.node.seen) {
		f.node.seen = append(f.node.seen, make([]byte, end-len(f.node.seen))...)
	}
	f.node.dirty = append(f.node.dirty, stretch{int(offset), end})
	return copy(f.node.seen[offset:], b), fault.err
}

func (f *memoryFile) Truncate(size int64) error {
	f.disk.mu.Lock()
	defer f.disk.mu.Unlock()
	if fault := f.disk.step("truncate", f.path); fault.err != nil {
		return fault.err
	}
	f.node.seen = f.node.seen[:size]
	for i := range f.node.dirty {
		f.node.dirty[i].to = max(f.node.dirty[i].from, min(f.node.dirty[i].to, int(size)))
	}
	return nil
}

// Sync makes what is dirty durable. When it fails, the pages are clean all the same, as on Linux: no later Sync writes them.
func (f *memoryFile) Sync() error {
	f.disk.mu.Lock()
	defer f.disk.mu.Unlock()
	fault := f.disk.step("sync", f.path)
	n := f.node
	if fault.err == nil {
		n.durable = append(n.durable[:min(len(n.durable), len(n.seen))], make([]byte, max(0, len(n.seen)-len(n.durable)))...)
		for _, s := range n.dirty {
			copy(n.durable[min(s.from, len(n.durable)):], n.seen[min(s.from, len(n.seen)):min(s.to, len(n.seen))])
		}
	}
	if fault.err != nil {
		n.doubtful = append(n.doubtful, n.dirty...)
	}
	n.dirty = nil
	return fault.err
}

func (f *memoryFile) Close() error {
	f.disk.mu.Lock()
	defer f.disk.mu.Unlock()
	if f.closed {
		return fs.ErrClosed
	}
	f.closed = true
	return nil
}

func (f *memoryFile) Size() (int64, error) {
	f.disk.mu.Lock()
	defer f.disk.mu.Unlock()
	return int64(len(f.node.seen)), nil
}

func (f *memoryFile) Removed() (bool, error) {
	f.disk.mu.Lock()
	defer f.disk.mu.Unlock()
	for _, node := range f.disk.seen {
		if node == f.node {
			return false, nil
		}
	}
	return true, nil
}

// contents returns a file as a program sees it, for tests that damage it in place.
func (d *memoryDisk) contents(t *testing.T, name string) *inode {
	t.Helper()
	d.mu.Lock()
	defer d.mu.Unlock()
	node := d.seen[name]
	if node == nil {
		t.Fatalf("no file %s on the disk, there are %v", name, slices.Sorted(maps.Keys(d.seen)))
	}
	return node
}

// The tests of the spool prove nothing if the disk they run on forgets too little.
func TestMemoryDiskForgets(t *testing.T) {
	t.Parallel()
	write := func(d *memoryDisk, path, text string, sync bool) file {
		f, err := d.Create(path)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.WriteAt([]byte(text), 0); err != nil {
			t.Fatal(err)
		}
		if sync {
			if err := f.Sync(); err != nil {
				t.Fatal(err)
			}
		}
		return f
	}
	after := func(d *memoryDisk) string {
		text := ""
		for name, node := range d.powerCut(nil).seen {
			text += fmt.Sprintf("%s=%s ", name, bytes.ReplaceAll(node.seen, []byte{0}, []byte{'.'}))
		}
		return text
	}
	tests := map[string]struct {
		run  func(d *memoryDisk)
		want string
	}{
		"name not synced": {func(d *memoryDisk) { write(d, "a", "one", true) }, ""},
		"data not synced": {func(d *memoryDisk) { write(d, "a", "one", false); _ = d.SyncDirectory("") }, "a= "},
		"both synced":     {func(d *memoryDisk) { write(d, "a", "one", true); _ = d.SyncDirectory("") }, "a=one "},
		"rename not synced": {func(d *memoryDisk) {
			write(d, "a", "one", true)
			_ = d.SyncDirectory("")
			_ = d.Rename("a", "b")
		}, "a=one "},
		"rename over": {func(d *memoryDisk) {
			write(d, "a", "one", true)
			write(d, "b", "two", true)
			_ = d.Rename("b", "a")
			_ = d.SyncDirectory("")
		}, "a=two "},
		"removal not synced": {func(d *memoryDisk) {
			write(d, "a", "one", true)
			_ = d.SyncDirectory("")
			_ = d.Remove("a")
		}, "a=one "},
		"write after sync": {func(d *memoryDisk) {
			_, _ = write(d, "a", "one", true).WriteAt([]byte("two!"), 0)
			_ = d.SyncDirectory("")
		}, "a=one "},
		"truncate after sync": {func(d *memoryDisk) {
			_ = write(d, "a", "one", true).Truncate(1)
			_ = d.SyncDirectory("")
		}, "a=one "},
		"failed sync drops pages": {func(d *memoryDisk) {
			f := write(d, "a", "one", true)
			_ = d.SyncDirectory("")
			_, _ = f.WriteAt([]byte("two"), 3)
			d.fault = func(int, string, string) fault { return fault{err: syscall.EIO} }
			_ = f.Sync()
			d.fault = nil
			_, _ = f.WriteAt([]byte("three"), 6)
			_ = f.Sync()
		}, "a=one...three "},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d := newMemoryDisk()
			test.run(d)
			if got := after(d); got != test.want {
				t.Errorf("after a power cut: %q, want %q", got, test.want)
			}
		})
	}
}
