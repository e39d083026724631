package bench

import (
	"fmt"
	"io"
	"os"
	"runtime"
	"runtime/debug"
	"sync"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"github.com/latpush/latpush/bpf/selftest"
)

// BenchmarkCallsCost prints what one call takes longer when its beginning is noted in task storage or in a hash, with nothing counted at its end.
func BenchmarkCallsCost(b *testing.B) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	cases := []struct {
		name   string
		attach func(*testing.B) func()
	}{
		{"empty programs", attachPair("empty")},
		{"task storage", attachPairOf("in_flight", "calls", inTaskStorage(true))},
		{"hash", attachPairOf("in_flight", "calls", inTaskStorage(false))},
	}
	times := make([][]float64, len(cases))
	for range callRounds {
		for i, c := range cases {
			detach := c.attach(b)
			timeCalls(callsWarm)
			times[i] = append(times[i], timeCalls(callsTimed))
			detach()
		}
	}
	fmt.Printf("\nnanoseconds added to one getppid by noting when it begins and ends, over empty programs, medians of %d rounds in turn\n", callRounds)
	for i := 1; i < len(cases); i++ {
		fmt.Printf("  %-26s %7.1f\n", cases[i].name, medianOf(callRounds, func(r int) float64 { return times[i][r] - times[0][r] }))
	}
}

// inTaskStorage chooses where the calls are noted.
func inTaskStorage(storage bool) func(*ebpf.CollectionSpec) error {
	return func(spec *ebpf.CollectionSpec) error { return spec.Variables["in_task_storage"].Set(storage) }
}

const (
	walkTasks  = 10_000
	walkRounds = 21
)

// BenchmarkTaskWalk prints how long it takes to count the calls under way on a host with many tasks, when none of them is in a call and when all are.
func BenchmarkTaskWalk(b *testing.B) {
	debug.SetMaxThreads(2 * walkTasks)
	defer debug.SetMaxThreads(10_000)
	fmt.Printf("\ncounting the calls under way, medians of %d\n", walkRounds)
	for name, storage := range map[string]bool{"task storage": true, "hash": false} {
		w := newWalk(b, storage)
		fmt.Printf("  %-13s %8v without other tasks\n", name, w.median(walkRounds))
		begin := w.programs["begin"]
		idle := blockedThreads(b, walkTasks, func() {})
		fmt.Printf("  %-13s %8v with %d more tasks, none of them in a call\n", name, w.median(walkRounds), walkTasks)
		idle()
		busy := blockedThreads(b, walkTasks, func() { _, _ = begin.Run(&ebpf.RunOptions{Context: [2]uint64{}}) })
		fmt.Printf("  %-13s %8v with %d more tasks, all of them in a call\n", name, w.median(walkRounds), walkTasks)
		busy()
		w.close()
	}
}

// walk is the iterator of the test program.
type walk struct {
	b        *testing.B
	programs map[string]*ebpf.Program
	iterator *link.Iter
	close    func()
}

func newWalk(b *testing.B, storage bool) *walk {
	b.Helper()
	spec, err := selftest.Load("in_flight")
	if err != nil {
		b.Fatal(err)
	}
	if err := inTaskStorage(storage)(spec); err != nil {
		b.Fatal(err)
	}
	collection, err := ebpf.NewCollection(spec)
	if err != nil {
		b.Fatal(err)
	}
	iterator, err := link.AttachIter(link.IterOptions{Program: collection.Programs["count_in_flight"]})
	if err != nil {
		b.Fatal(err)
	}
	return &walk{b: b, programs: collection.Programs, iterator: iterator, close: func() {
		_ = iterator.Close()
		collection.Close()
	}}
}

// median runs the iterator a number of times.
func (w *walk) median(rounds int) time.Duration {
	w.b.Helper()
	took := make([]float64, rounds)
	for i := range took {
		start := time.Now()
		file, err := w.iterator.Open()
		if err != nil {
			w.b.Fatal(err)
		}
		if _, err := io.Copy(io.Discard, file); err != nil {
			w.b.Fatal(err)
		}
		_ = file.Close()
		took[i] = float64(time.Since(start))
	}
	return time.Duration(medianOf(rounds, func(i int) float64 { return took[i] })).Round(time.Microsecond)
}

// blockedThreads makes threads that do something and then wait in the kernel until the returned function ends them.
func blockedThreads(b *testing.B, n int, do func()) (end func()) {
	b.Helper()
	input, output, err := os.Pipe()
	if err != nil {
		b.Fatal(err)
	}
	descriptor := int(input.Fd()) // which also makes reading block
	var begun, ended sync.WaitGroup
	begun.Add(n)
	for range n {
		ended.Go(func() {
			runtime.LockOSThread() // and never unlock: the thread dies with the goroutine
			do()
			begun.Done()
			_, _ = unix.Read(descriptor, make([]byte, 1))
		})
	}
	begun.Wait()
	return func() {
		_ = output.Close()
		ended.Wait()
		_ = input.Close()
	}
}
