package bench

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/alecthomas/units"

	"github.com/latpush/latpush/internal/endtoend/rig"
	"github.com/latpush/latpush/internal/spool"
	"github.com/latpush/latpush/internal/spool/record"
)

// BenchmarkSpoolWrites prints how much the spool writes for each byte of a snapshot: with a receiver that takes every tick at once, with none while there is
// room, and with none at the size bound, where old snapshots are thinned. Written is what was handed to the file system, so without its own metadata;
// dirtied is whole pages of 4 KiB, which is what a tick that is forced to disk costs a flash card at least.
func BenchmarkSpoolWrites(b *testing.B) {
	fmt.Printf("\nbytes that the spool writes, per byte of the encoded snapshots (goal under 1.5 without the file system's own)\n")
	for _, c := range []writing{
		{"1,000 label sets, delivered at once", 1000, 400, 64 * units.MiB, true, spool.FsyncAlways, 20},
		{"20 label sets, delivered at once", 20, 2000, 64 * units.MiB, true, spool.FsyncAlways, 20},
		{"1,000 label sets, no receiver", 1000, 400, units.GiB, false, spool.FsyncAlways, 20},
		{"20 label sets, no receiver, at the bound", 20, 20000, 2 * units.MiB, false, spool.FsyncNever, 20000},
	} {
		c.run(b)
	}
}

// writing is one way to use a spool.
type writing struct {
	name     string
	sets     int
	ticks    int
	bound    units.Base2Bytes
	deliver  bool
	fsync    spool.Fsync
	settling int // ticks before measuring
}

func (c writing) run(b *testing.B) {
	s, err := spool.Open(spool.Options{Directory: filepath.Join(b.TempDir(), "spool"), MaxBytes: c.bound, Fsync: c.fsync}, nil, nil)
	if err != nil {
		b.Fatal(err)
	}
	defer s.Close()
	reader, err := s.Reader("main")
	if err != nil {
		b.Fatal(err)
	}
	began := time.Now().Add(-time.Duration(c.settling+c.ticks) * 15 * time.Second)
	host := rig.NewHost(rig.HostOptions{Seed: 2, Sets: c.sets, Busy: max(1, c.sets/4), Began: began})
	for range c.settling {
		c.tick(b, host, s, reader)
	}
	payload := 0
	written, dirtied := processWrites(b)
	for range c.ticks {
		payload += c.tick(b, host, s, reader)
	}
	writtenAfter, dirtiedAfter := processWrites(b)
	fmt.Printf("  %-42s %8d bytes a tick, written %.2f, dirtied %.2f\n", c.name, payload/c.ticks,
		float64(writtenAfter-written)/float64(payload), float64(dirtiedAfter-dirtied)/float64(payload))
}

// tick appends a snapshot, delivers it if somebody is there to take it, and returns its encoded size in bytes.
func (c writing) tick(b *testing.B, host *rig.Host, s *spool.Spool, reader *spool.Reader) (payload int) {
	snapshot := host.Tick()
	var encoder record.Encoder
	encoded, err := encoder.Encode(nil, snapshot)
	if err != nil {
		b.Fatal(err)
	}
	if err := s.Append(snapshot); err != nil {
		b.Fatal(err)
	}
	if !c.deliver {
		return len(encoded)
	}
	_, position, found, err := reader.TryNext()
	if err != nil || !found {
		b.Fatalf("next snapshot: %v, %v", found, err)
	}
	if err := reader.Commit(position, []byte(`{"version":1,"last_ms":1795374880921}`)); err != nil {
		b.Fatal(err)
	}
	return len(encoded)
}

// processWrites returns the bytes that this process has written to files, and those that it has dirtied of block devices' page caches.
func processWrites(b *testing.B) (written, dirtied int64) {
	b.Helper()
	text, err := os.ReadFile("/proc/self/io")
	if err != nil {
		b.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), ": ")
		n, err := strconv.ParseInt(value, 10, 64)
		if err != nil {
			b.Fatal(err)
		}
		switch name {
		case "wchar":
			written = n
		case "write_bytes":
			dirtied = n
		}
	}
	return written, dirtied
}
