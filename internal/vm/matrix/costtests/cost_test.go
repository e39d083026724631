//go:build guest

package costtests

import (
	"fmt"
	"os"
	"path/filepath"
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
	var stat unix.Stat_t
	compare(t, "getattr of an NFS file with cached attributes", "nfs_getattr", kernel.SourceConfig{Name: "nfs"},
		func() error { return unix.Stat(folder, &stat) })
}

// TestFileSystemProbes prints the same of the filesystem source and a read that the page cache answers.
func TestFileSystemProbes(t *testing.T) {
	path := filepath.Join(guesttest.FileSystem(t, "ext4", 0), "cached")
	page := make([]byte, 4096)
	if err := os.WriteFile(path, page, 0o644); err != nil {
		t.Fatal(err)
	}
	file, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { guesttest.Succeed(t, file.Close) })
	compare(t, "read of a cached page of an ext4 file", "ext4_file_read_iter", kernel.SourceConfig{Name: "filesystem", FileSystems: []string{"ext4"}},
		func() error {
			_, err := unix.Pread(int(file.Fd()), page, 0)
			return err
		})
}

// compare prints what a call, which runs a function of the kernel once, takes longer under a source and under kprobes on the function.
func compare(t *testing.T, title, function string, config kernel.SourceConfig, call func() error) {
	t.Helper()
	config.MaxCPU = new(kernel.Cores)
	cases := []struct {
		name   string
		attach func(*testing.T) (detach func())
	}{
		{"no programs", func(*testing.T) func() { return func() {} }},
		{"exporter style, kprobe", attachTwin(function)},
		{"latpush, kprobe", attachSource(kernel.Kprobe, config)},
		{"latpush, fentry", attachSource(kernel.Fentry, config)},
	}
	times := make([][]float64, len(cases))
	for range rounds {
		for i, c := range cases {
			detach := c.attach(t)
			timeCalls(t, call, callsTimed/10)
			times[i] = append(times[i], timeCalls(t, call, callsTimed))
			detach()
		}
	}
	added := func(i, r int) float64 { return times[i][r] - times[0][r] }
	fmt.Printf("one %s, medians of %d rounds in turn; without programs %.0f ns\n", title, rounds, median(func(r int) float64 { return times[0][r] }))
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
func timeCalls(t *testing.T, call func() error, n int) float64 {
	t.Helper()
	began := time.Now()
	for range n {
		if err := call(); err != nil {
			t.Fatal(err)
		}
	}
	return float64(time.Since(began).Nanoseconds()) / float64(n)
}

func attachTwin(function string) func(*testing.T) func() {
	return func(t *testing.T) func() {
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
		end, err := link.Kretprobe(function, collection.Programs["entries_kretprobe"], nil)
		if err != nil {
			t.Fatal(err)
		}
		begin, err := link.Kprobe(function, collection.Programs["entries_kprobe"], nil)
		if err != nil {
			t.Fatal(err)
		}
		return func() {
			_, _ = begin.Close(), end.Close()
			collection.Close()
		}
	}
}

func attachSource(way string, config kernel.SourceConfig) func(*testing.T) func() {
	return func(t *testing.T) func() {
		t.Helper()
		k, err := kernel.Open(t.Context(), []kernel.SourceConfig{config}, kernel.Options{Ways: []string{way}})
		if err != nil {
			t.Fatal(err)
		}
		if status := k.Sources()[0]; !status.Attached() {
			t.Fatalf("source is not attached: %+v", status)
		}
		return func() { _ = k.Close() }
	}
}
