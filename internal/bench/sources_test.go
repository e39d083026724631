package bench

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"github.com/latpush/latpush/internal/kernel"
)

// workFor is how long each source is measured in each way.
const workFor = 2 * time.Second

// BenchmarkSources prints, for each source that attaches on this kernel, what one event takes in each of its programs, by the kernel's own
// statistics, beside an empty program of the same kind that is attached to the same hook at the same time. The statistics themselves are in both.
func BenchmarkSources(b *testing.B) {
	statistics, err := ebpf.EnableStats(unix.BPF_STATS_RUN_TIME)
	if err != nil {
		b.Fatalf("switch on statistics: %v", err)
	}
	defer statistics.Close()
	fmt.Printf("\nnanoseconds per event of each program, and of an empty one on the same hook\n")
	fmt.Printf("  %-16s %-16s %-28s %10s %8s %8s %8s\n", "source", "way", "event", "events", "program", "empty", "added")
	for _, name := range kernel.Names() {
		for _, way := range []string{kernel.TpBTF, kernel.RawTracepoint, kernel.Tracepoint} {
			benchSource(b, name, way)
		}
	}
}

func benchSource(b *testing.B, source, way string) {
	b.Helper()
	before := programs(b)
	k, err := kernel.Open(b.Context(), []kernel.SourceConfig{{Name: source, MaxCPU: new(kernel.Cores)}}, kernel.Options{Ways: []string{way}})
	if err != nil {
		b.Fatal(err)
	}
	defer func() { _ = k.Close() }()
	if status := k.Sources()[0]; !status.Attached() {
		return
	}
	type pair struct {
		event          string
		program, empty *ebpf.Program
	}
	var pairs []pair
	for _, id := range programs(b) {
		if slices.Contains(before, id) {
			continue
		}
		program, err := ebpf.NewProgramFromID(id)
		if err != nil {
			b.Fatal(err)
		}
		defer program.Close()
		event, known := eventOf(program, way)
		if !known {
			continue
		}
		empty, detach, err := attachEmpty(event, way)
		if err != nil {
			continue // the event of a module, or one that another source's program has in this kernel alone
		}
		defer detach()
		pairs = append(pairs, pair{event, program, empty})
	}
	work(b, workFor)
	for _, p := range pairs {
		events, ns := cost(b, p.program)
		if events == 0 {
			continue
		}
		_, floor := cost(b, p.empty)
		fmt.Printf("  %-16s %-16s %-28s %10d %8.0f %8.0f %8.0f\n", source, way, p.event, events, ns, floor, ns-floor)
	}
}

// programs lists the ids of all programs in the kernel.
func programs(b *testing.B) []ebpf.ProgramID {
	b.Helper()
	var ids []ebpf.ProgramID
	for id, err := ebpf.ProgramGetNextID(0); err == nil; id, err = ebpf.ProgramGetNextID(id) {
		ids = append(ids, id)
	}
	return ids
}

// eventOf returns the event that a program of a source is for: the program's name without the way.
func eventOf(program *ebpf.Program, way string) (string, bool) {
	info, err := program.Info()
	if err != nil {
		return "", false
	}
	functions, err := info.FuncInfos()
	if err != nil || len(functions) == 0 {
		return "", false
	}
	suffix := map[string]string{kernel.TpBTF: "_tp_btf", kernel.RawTracepoint: "_raw_tp", kernel.Tracepoint: "_tracepoint"}[way]
	return strings.CutSuffix(functions[0].Func.Name, suffix)
}

// attachEmpty attaches a program that does nothing.
func attachEmpty(event, way string) (program *ebpf.Program, detach func(), err error) {
	spec := &ebpf.ProgramSpec{
		Name: "empty", License: "Dual BSD/GPL", Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, 0), asm.Return()},
		Type: map[string]ebpf.ProgramType{kernel.TpBTF: ebpf.Tracing, kernel.RawTracepoint: ebpf.RawTracepoint, kernel.Tracepoint: ebpf.TracePoint}[way],
	}
	if way == kernel.TpBTF {
		spec.AttachType, spec.AttachTo = ebpf.AttachTraceRawTp, event
	}
	if program, err = ebpf.NewProgram(spec); err != nil {
		return nil, nil, fmt.Errorf("load empty program: %w", err)
	}
	var l link.Link
	switch way {
	case kernel.TpBTF:
		l, err = link.AttachTracing(link.TracingOptions{Program: program})
	case kernel.RawTracepoint:
		l, err = link.AttachRawTracepoint(link.RawTracepointOptions{Name: event, Program: program})
	default:
		var found []string
		if found, err = filepath.Glob("/sys/kernel/tracing/events/*/" + event); err == nil && len(found) == 1 {
			l, err = link.Tracepoint(filepath.Base(filepath.Dir(found[0])), event, program, nil)
		} else {
			err = fmt.Errorf("find tracepoint %s: %v, %w", event, found, os.ErrNotExist)
		}
	}
	if err != nil {
		_ = program.Close()
		return nil, nil, err
	}
	return program, func() { _, _ = l.Close(), program.Close() }, nil
}

func cost(b *testing.B, program *ebpf.Program) (events uint64, nanoseconds float64) {
	b.Helper()
	stats, err := program.Stats()
	if err != nil {
		b.Fatal(err)
	}
	if stats.RunCount == 0 {
		return 0, 0
	}
	return stats.RunCount, float64(stats.Runtime) / float64(stats.RunCount)
}

// work gives every source that works on this machine events: tasks that wake each other, connections, system calls, and writes to the disk.
func work(b *testing.B, d time.Duration) {
	b.Helper()
	stop := time.Now().Add(d)
	var ends [2][2]*os.File
	for i := range ends {
		var err error
		if ends[i][0], ends[i][1], err = os.Pipe(); err != nil {
			b.Fatal(err)
		}
	}
	go func() {
		defer ends[1][1].Close()
		_, _ = io.Copy(ends[1][1], ends[0][0])
	}()
	address := echoServer(b)
	file, err := os.CreateTemp(b.TempDir(), "work")
	if err != nil {
		b.Fatal(err)
	}
	defer file.Close()
	for one := make([]byte, 1); time.Now().Before(stop); {
		for range 500 {
			_, _ = ends[0][1].Write(one)
			_, _ = ends[1][0].Read(one)
		}
		exchange(b, address, 50)
		if _, err := file.Write(make([]byte, 4096)); err != nil {
			b.Fatal(err)
		}
		if err := file.Sync(); err != nil {
			b.Fatal(err)
		}
	}
	_ = ends[0][1].Close()
}
