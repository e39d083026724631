package bench

import (
	"fmt"
	"runtime"
	"slices"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"github.com/latpush/latpush/bpf/selftest"
	"github.com/latpush/latpush/internal/kernel"
)

const (
	callRounds = 15
	callsWarm  = 20_000
	callsTimed = 200_000
)

// BenchmarkSyscallCost prints what one system call takes longer under the syscalls source, under a program that works as exporters do, and
// under two bare readings of the clock, all on the same hooks.
func BenchmarkSyscallCost(b *testing.B) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	cases := []struct {
		name   string
		attach func(*testing.B) func()
	}{
		{"none", func(*testing.B) func() { return func() {} }},
		{"empty programs", attachPair("empty")},
		{"two clock reads", attachPair("clock")},
		{"exporter style", attachPair("entries")},
		{"latpush", attachSource(kernel.SourceConfig{Name: "syscalls", Allow: []string{"getppid"}})},
		{"latpush, call not listed", attachSource(kernel.SourceConfig{Name: "syscalls", Allow: []string{"getsid"}})},
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
	// Each round is compared within itself; the median of the rounds is what is said.
	added := func(i, over int) float64 {
		return medianOf(callRounds, func(r int) float64 { return times[i][r] - times[over][r] })
	}
	fmt.Printf("\nnanoseconds added to one getppid, medians of %d rounds in turn; bare call %.1f ns\n", callRounds, medianOf(callRounds, func(r int) float64 { return times[0][r] }))
	for i := 1; i < len(cases); i++ {
		fmt.Printf("  %-26s %7.1f over no programs %7.1f over empty ones\n", cases[i].name, added(i, 0), added(i, 1))
	}
	ratio := func(over, base int) float64 {
		return medianOf(callRounds, func(r int) float64 { return (times[4][r] - times[base][r]) / (times[over][r] - times[base][r]) })
	}
	fmt.Printf("  latpush / two clock reads  %.2f over no programs (goal at most 1.3)\n", ratio(2, 0))
	fmt.Printf("  latpush / exporter style   %.2f over no programs (goal under 0.5), %.2f over empty ones\n", ratio(3, 0), ratio(3, 1))
}

func timeCalls(n int) float64 {
	start := time.Now()
	for range n {
		_, _, _ = unix.RawSyscall(unix.SYS_GETPPID, 0, 0, 0)
	}
	return float64(time.Since(start).Nanoseconds()) / float64(n)
}

func medianOf(n int, value func(int) float64) float64 {
	values := make([]float64, n)
	for i := range values {
		values[i] = value(i)
	}
	slices.Sort(values)
	return values[n/2]
}

func attachPair(name string) func(*testing.B) func() {
	return attachPairOf("cost", name, func(*ebpf.CollectionSpec) error { return nil })
}

// attachPairOf attaches two programs of an object, after it was configured.
func attachPairOf(object, name string, configure func(*ebpf.CollectionSpec) error) func(*testing.B) func() {
	return func(b *testing.B) func() {
		b.Helper()
		spec, err := selftest.Load(object)
		if err == nil {
			err = configure(spec)
		}
		if err != nil {
			b.Fatal(err)
		}
		collection, err := ebpf.NewCollection(spec)
		if err != nil {
			b.Fatal(err)
		}
		var links []link.Link
		for _, end := range []string{"_exit", "_enter"} {
			l, err := link.AttachTracing(link.TracingOptions{Program: collection.Programs[name+end]})
			if err != nil {
				b.Fatal(err)
			}
			links = append(links, l)
		}
		return func() {
			for _, l := range links {
				_ = l.Close()
			}
			collection.Close()
		}
	}
}

func attachSource(config kernel.SourceConfig) func(*testing.B) func() {
	return func(b *testing.B) func() {
		b.Helper()
		config.MaxCPU = new(kernel.Cores) // no bound
		k, err := kernel.Open(b.Context(), []kernel.SourceConfig{config}, kernel.Options{Ways: []string{kernel.TpBTF}})
		if err != nil {
			b.Fatal(err)
		}
		if status := k.Sources()[0]; !status.Attached() {
			b.Fatalf("source is not attached: %+v", status)
		}
		return func() { _ = k.Close() }
	}
}
