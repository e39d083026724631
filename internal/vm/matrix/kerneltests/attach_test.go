//go:build guest

package kerneltests

import (
	"testing"
	"time"

	"github.com/latpush/latpush/internal/kernel"
	"github.com/latpush/latpush/internal/vm/guest"
	"github.com/latpush/latpush/internal/vm/guest/guesttest"
)

// This is the first test of the package, because it needs a machine that has not mounted anything yet: the agent runs before the NFS modules are loaded, and counts from the first operation of the first mount. So do two that are confined.
func TestNFSAttachesLate(t *testing.T) {
	if guest.ModuleLoaded("nfs") {
		t.Fatal("module nfs is loaded from the start")
	}
	k, err := kernel.Open(t.Context(), []kernel.SourceConfig{{Name: "nfs", MaxCPU: new(kernel.Cores)}}, kernel.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { guesttest.Succeed(t, k.Close) })
	for _, h := range k.Sources()[0].Hooks {
		if h.How != kernel.Waiting {
			t.Errorf("hook %s is %s: %v", h.Name, h.How, h.Err)
		}
	}
	if len(read(t, k).samples) != 0 {
		t.Error("there are histograms before there is anything to count")
	}
	checkConfined := startTwoConfined(t)
	guesttest.ServeNFS(t)
	start := time.Now()
	dir := guesttest.MountNFS(t, "4.2", "plain")
	t.Logf("mounted after %v", time.Since(start))
	for time.Since(start) < 30*time.Second && len(notAttached(k)) > 0 {
		time.Sleep(10 * time.Millisecond)
	}
	if missing := notAttached(k); len(missing) > 0 {
		t.Fatal(missing)
	}
	t.Logf("attached %v after the mount began", time.Since(start))
	checkNFSCounts(t, k, dir, guest.Workload{Reads: 3, Writes: 4, Opens: 5, Creates: 2, Getattrs: 6, Fsyncs: 1, Direct: true}, false)
	checkConfined(dir)
}
