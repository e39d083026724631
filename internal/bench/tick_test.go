package bench

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/latpush/latpush/internal/kernel"
	"github.com/latpush/latpush/internal/latency"
	"github.com/latpush/latpush/internal/promwire"
	"github.com/latpush/latpush/internal/spool"
)

const labelSets = 1000

// BenchmarkTick prints what one tick costs with 1,000 label sets of 27 buckets: reading the maps, making families, appending them to the spool
// and encoding the requests. The maps are those of the block source, filled by the benchmark; the spool is in memory and not forced to disk.
func BenchmarkTick(b *testing.B) {
	k, err := kernel.Open(b.Context(), []kernel.SourceConfig{{Name: "block", MaxLabelSets: labelSets / 2, MaxCPU: new(kernel.Cores)}}, kernel.Options{})
	if err != nil {
		b.Fatal(err)
	}
	defer k.Close()
	if status := k.Sources()[0]; !status.Attached() {
		b.Fatalf("source is not attached: %+v", status)
	}
	for _, name := range []string{"block_io_latency", "block_io_queue"} {
		fill(b, name, labelSets/2)
	}
	folder, err := os.MkdirTemp("/dev/shm", "latpush-bench")
	if err != nil {
		b.Fatal(err)
	}
	defer os.RemoveAll(folder)
	log, err := spool.Open(spool.Options{Directory: folder, Fsync: spool.FsyncNever}, nil, nil)
	if err != nil {
		b.Fatal(err)
	}
	defer log.Close()
	encoder, err := promwire.NewEncoder(promwire.Options{Labels: []promwire.Label{{Name: "job", Value: "latpush"}, {Name: "instance", Value: "edge-1"}}, MaxSamples: 2000})
	if err != nil {
		b.Fatal(err)
	}
	clock, err := latency.NewSystemClock()
	if err != nil {
		b.Fatal(err)
	}
	var phases [4]time.Duration
	tick := func() {
		at := cpuTime(b)
		lap := func(phase int) {
			now := cpuTime(b)
			phases[phase] += now - at
			at = now
		}
		samples, _, err := k.Read()
		if err != nil {
			b.Fatal(err)
		}
		if len(samples) < labelSets {
			b.Fatalf("%d label sets, want %d", len(samples), labelSets)
		}
		lap(0)
		snapshot := latency.Snapshot{Taken: clock.Now(), Families: latency.FromSamples(samples, func(string) time.Duration { return 0 })}
		lap(1)
		if err := log.Append(&snapshot); err != nil {
			b.Fatal(err)
		}
		lap(2)
		if _, err := encoder.Encode(promwire.V1, &snapshot); err != nil {
			b.Fatal(err)
		}
		encoder.Accept()
		lap(3)
	}
	for range 5 {
		tick()
	}
	phases = [4]time.Duration{}
	const ticks = 200
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	for range ticks {
		tick()
	}
	runtime.ReadMemStats(&after)
	total := phases[0] + phases[1] + phases[2] + phases[3]
	fmt.Printf("\none tick of %d label sets with 27 buckets, CPU time, mean of %d: %v (goal under 5ms)\n", labelSets, ticks, total/ticks)
	fmt.Printf("  read maps %v, make families %v, append to spool %v, encode requests %v\n", phases[0]/ticks, phases[1]/ticks, phases[2]/ticks, phases[3]/ticks)
	fmt.Printf("  %d allocations of %d KiB together\n", (after.Mallocs-before.Mallocs)/ticks, (after.TotalAlloc-before.TotalAlloc)/ticks>>10)
}

// cpuTime returns the CPU time of the process.
func cpuTime(b *testing.B) time.Duration {
	b.Helper()
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_PROCESS_CPUTIME_ID, &now); err != nil {
		b.Fatal(err)
	}
	return time.Duration(now.Nano())
}

// fill puts label sets into the newest map of a name, as if the kernel had counted them.
func fill(b *testing.B, name string, sets int) {
	b.Helper()
	m := newestMap(b, name)
	defer m.Close()
	cpus, err := ebpf.PossibleCPU()
	if err != nil {
		b.Fatal(err)
	}
	random := rand.New(rand.NewPCG(1, 2))
	for i := range sets {
		key := make([]byte, m.KeySize())
		copy(key, fmt.Sprintf("disk%d", i/4))
		binary.NativeEndian.PutUint32(key[32:], uint32(i%4))
		values := make([][]byte, cpus)
		for cpu := range values {
			values[cpu] = make([]byte, m.ValueSize())
			for word := 0; word < len(values[cpu])/8; word++ {
				binary.NativeEndian.PutUint64(values[cpu][8*word:], random.Uint64N(1<<random.IntN(24)))
			}
		}
		// A device of this machine may have taken a place already.
		if err := m.Update(key, values, ebpf.UpdateAny); err != nil && i < sets-8 {
			b.Fatalf("fill map %s with label set %d: %v", name, i, err)
		}
	}
}

// newestMap finds a map by its name, of which the kernel keeps 15 bytes.
func newestMap(b *testing.B, name string) *ebpf.Map {
	b.Helper()
	var newest *ebpf.Map
	for id := ebpf.MapID(0); ; {
		next, err := ebpf.MapGetNextID(id)
		if errors.Is(err, os.ErrNotExist) {
			break
		} else if err != nil {
			b.Fatal(err)
		}
		id = next
		m, err := ebpf.NewMapFromID(id)
		if err != nil {
			continue
		}
		info, err := m.Info()
		if err != nil || info.Name == "" || !strings.HasPrefix(name, info.Name) || info.Type != ebpf.PerCPUHash {
			_ = m.Close()
			continue
		}
		if newest != nil {
			_ = newest.Close()
		}
		newest = m
	}
	if newest == nil {
		b.Fatalf("no map %s in the kernel", name)
	}
	return newest
}
