//go:build guest

package kerneltests

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/latpush/latpush/internal/kernel"
	"github.com/latpush/latpush/internal/vm/guest"
	"github.com/latpush/latpush/internal/vm/guest/guesttest"
)

// Before anything is mounted, file systems that are built in are attached, and the others wait: each for its own module, and none of them is an error.
func TestFileSystemsAttachLate(t *testing.T) {
	for _, name := range []string{"overlay", "xfs"} {
		if guest.ModuleLoaded(name) {
			t.Fatalf("module %s is loaded from the start", name)
		}
	}
	config := kernel.SourceConfig{Name: "filesystem", MaxCPU: new(kernel.Cores)}
	only := config
	only.FileSystems = []string{"f2fs"}
	absent, err := kernel.Open(t.Context(), []kernel.SourceConfig{only}, kernel.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { guesttest.Succeed(t, absent.Close) })
	k, err := kernel.Open(t.Context(), []kernel.SourceConfig{config}, kernel.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { guesttest.Succeed(t, k.Close) })
	for _, h := range append(absent.Sources()[0].Hooks, k.Sources()[0].Hooks...) {
		want := h.How
		switch name, _, _ := strings.Cut(h.Name, "_"); name {
		case "ext4": // in the kernel itself
			want = kernel.NotNeeded
			if h.Attached() {
				want = h.How
			}
		case "f2fs", "ovl", "xfs":
			want = kernel.Waiting
		}
		if h.How != want {
			t.Errorf("hook %s is %s, want %s: %v", h.Name, h.How, want, h.Err)
		}
	}
	disk := guesttest.FileSystem(t, "xfs", 0)
	folder := guesttest.Overlay(t, disk, disk)
	waiting := func() []string {
		return slices.DeleteFunc(notAttached(k), func(hook string) bool {
			return !strings.HasPrefix(hook, "hook xfs_") && !strings.HasPrefix(hook, "hook ovl_")
		})
	}
	for start := time.Now(); time.Since(start) < 10*time.Second && len(waiting()) > 0; time.Sleep(10 * time.Millisecond) {
	}
	if missing := waiting(); len(missing) > 0 {
		t.Fatal(strings.Join(missing, "\n"))
	}
	w := guest.Workload{Reads: 3, Splices: 2, Writes: 4, Opens: 5, Creates: 2, Getattrs: 6, Fsyncs: 1}
	checkFileSystem(t, k, "overlay", folder, w)
	checkFileSystem(t, k, "xfs", disk, w)
}
