//go:build guest

package costtests

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"github.com/latpush/latpush/bpf/selftest"
	"github.com/latpush/latpush/internal/kernel"
	"github.com/latpush/latpush/internal/vm/guest"
	"github.com/latpush/latpush/internal/vm/guest/guesttest"
)

const (
	rounds     = 7
	callsTimed = 5000
)

func TestMain(m *testing.M) { guesttest.Main(m) }

// TestProbes prints what one getattr of an NFS file takes longer under the nfs source, attached in each way, and under kprobes that work as
// exporters do.
func TestProbes(t *testing.T) {
	guesttest.ServeNFS(t)
	folder := guesttest.MountNFS(t, "4.2", "cost")
	guesttest.Prepare(t, guest.Workload{Getattrs: 1}, folder)
	cases := []struct {
		name   string
		attach func(*testing.T) (detach func())
	}{
		{"no programs", func(*testing.T) func() { return func() {} }},
		{"exporter style, kprobe", attachTwin},
		{"latpush, kprobe", attachSource(kernel.Kprobe)},
		{"latpush, fentry", attachSource(kernel.Fentry)},
	}
	times := make([][]float64, len(cases))
	for range rounds {
		for i, c := range cases {
			detach := c.attach(t)
			timeCalls(t, folder, callsTimed/10)
			times[i] = append(times[i], timeCalls(t, folder, callsTimed))
			detach()
		}
	}
	added := func(i, r int) float64 { return times[i][r] - times[0][r] }
	fmt.Printf("one getattr of an NFS file with cached attributes, medians of %d rounds in turn; without programs %.0f ns\n",
		rounds, median(func(r int) float64 { return times[0][r] }))
	for i := 1; i < len(cases); i++ {
		fmt.Printf("  %-24s %6.0f ns added, %.2f of exporter style\n", cases[i].name,
			median(func(r int) float64 { return added(i, r) }), median(func(r int) float64 { return added(i, r) / added(1, r) }))
	}
}

func median(of func(round int) float64) float64 {
	var values []float64
	for r := range rounds {
		values = append(values, of(r))
	}
	slices.Sort(values)
	return values[rounds/2]
}

// timeCalls returns the nanoseconds that one of n calls takes.
func timeCalls(t *testing.T, folder string, n int) float64 {
	t.Helper()
	var stat unix.Stat_t
	began := time.Now()
	for range n {
		if err := unix.Stat(folder, &stat); err != nil {
			t.Fatal(err)
		}
	}
	return float64(time.Since(began).Nanoseconds()) / float64(n)
}

func attachTwin(t *testing.T) (detach func()) {
	t.Helper()
	spec, err := selftest.Load("cost")
	if err != nil {
		t.Fatal(err)
	}
	for name := range spec.Programs {
		if name != "entries_kprobe" && name != "entries_kretprobe" {
			delete(spec.Programs, name)
		}
	}
	collection, err := ebpf.NewCollection(spec)
	if err != nil {
		t.Fatal(err)
	}
	end, err := link.Kretprobe("nfs_getattr", collection.Programs["entries_kretprobe"], nil)
	if err != nil {
		t.Fatal(err)
	}
	begin, err := link.Kprobe("nfs_getattr", collection.Programs["entries_kprobe"], nil)
	if err != nil {
		t.Fatal(err)
	}
	return func() {
		_, _ = begin.Close(), end.Close()
		collection.Close()
	}
}

func attachSource(way string) func(*testing.T) func() {
	return func(t *testing.T) func() {
		t.Helper()
		k, err := kernel.Open(t.Context(), []kernel.SourceConfig{{Name: "nfs", MaxCPU: new(kernel.Cores)}}, kernel.Options{Ways: []string{way}})
		if err != nil {
			t.Fatal(err)
		}
		if status := k.Sources()[0]; !status.Attached() {
			t.Fatalf("source is not attached: %+v", status)
		}
		return func() { _ = k.Close() }
	}
}
