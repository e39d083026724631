//go:build guest

package kerneltests

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/latpush/latpush/internal/kernel"
	"github.com/latpush/latpush/internal/vm/guest"
	"github.com/latpush/latpush/internal/vm/guest/guesttest"
)

// Whatever the version of the protocol and the way of attaching, exactly what was done is counted.
func TestNFSCounts(t *testing.T) {
	guesttest.ServeNFS(t)
	guesttest.MountNFS(t, "4.2", "plain") // loads both modules, whatever comes first below
	for _, how := range []string{kernel.Fentry, kernel.Kprobe} {
		t.Run(how, func(t *testing.T) {
			if how == kernel.Fentry {
				needModuleBTF(t, "nfs")
			}
			k := open(t, how, kernel.SourceConfig{Name: "nfs"})
			for _, version := range []string{"3", "4.0", "4.1", "4.2"} {
				t.Run(version, func(t *testing.T) {
					dir := guesttest.MountNFS(t, version, how)
					for name, w := range map[string]guest.Workload{
						"direct":   {Reads: 17, Splices: 2, Writes: 15, Opens: 11, Creates: 3, Getattrs: 13, Fsyncs: 4, Direct: true, Threads: 4},
						"buffered": {Reads: 30, Splices: 4, Writes: 60, Opens: 2, Creates: 5, Getattrs: 1, Fsyncs: 2},
					} {
						t.Run(name, func(t *testing.T) { checkNFSCounts(t, k, dir, w, false) })
					}
					t.Run("uncached", func(t *testing.T) { checkNFSCounts(t, k, dir, guest.Workload{Opens: 9}, true) })
				})
			}
		})
	}
}

// needModuleBTF skips on kernels before 5.11, whose modules have no type information: their functions cannot have fentry programs.
func needModuleBTF(t *testing.T, module string) {
	t.Helper()
	_, err := os.Stat("/sys/kernel/btf/" + module)
	switch {
	case err == nil:
	case strings.HasPrefix(guest.Kernel(), "5.10"):
		t.Skip("kernel 5.10 has no type information of modules")
	default:
		t.Fatalf("this kernel is new enough to have type information of modules: %v", err)
	}
}

// checkNFSCounts demands as many events of each operation as a workload does, and what the kernel's own statistics say where they tell the same.
func checkNFSCounts(t *testing.T, k *kernel.Kernel, dir string, w guest.Workload, uncached bool) {
	t.Helper()
	runner := guesttest.Prepare(t, w, dir)
	if uncached {
		guesttest.Succeed(t, guest.DropCaches)
	}
	statsBefore, err := guest.Mountstats(dir)
	if err != nil {
		t.Fatal(err)
	}
	before := read(t, k)
	did, err := runner.Run()
	if err != nil {
		t.Fatal(err)
	}
	after := read(t, k)
	stats, err := guest.Mountstats(dir)
	if err != nil {
		t.Fatal(err)
	}
	stats = stats.Sub(statsBefore)
	for operation, want := range did.ByOperation() {
		// The kernel does not run a program of fentry while one of the same function is preempted on that CPU, and says so.
		if got := events(after.since(before, "nfs_latency_seconds "+operation)); got > want || got+after.lost-before.lost < want {
			t.Errorf("%s: counted %d, did %d, and the kernel says that %d were lost", operation, got, want, after.lost-before.lost)
		}
	}
	if stats.VFSFsyncs != did.Fsyncs {
		t.Errorf("fsync: mountstats says %d, did %d", stats.VFSFsyncs, did.Fsyncs)
	}
	if rpcs := stats.Requests["WRITE"]; w.Direct && rpcs != did.Writes {
		t.Errorf("write: mountstats says %d, did %d", rpcs, did.Writes)
	}
}

// A known delay of the network is in the right bucket and in the sum.
func TestNFSDelay(t *testing.T) {
	const oneWay, times = 50 * time.Millisecond, 6
	guesttest.ServeNFS(t)
	k := open(t, "", nfsOn(t)...)
	for _, version := range []string{"3", "4.2"} {
		t.Run(version, func(t *testing.T) {
			dir := guesttest.MountNFS(t, version, "plain")
			for operation, w := range map[string]guest.Workload{
				"read":    {Reads: times, Direct: true},
				"write":   {Writes: times, Direct: true},
				"getattr": {Getattrs: times},
				"open":    {Opens: times},
			} {
				if operation == "open" && version == "3" {
					continue // the server is asked while the name is looked up: nothing is left for the open itself
				}
				runner := guesttest.Prepare(t, w, dir)
				steady(t, func() error {
					guesttest.Succeed(t, guest.DropCaches)
					before := read(t, k)
					took := runDelayed(t, runner, oneWay)
					return checkDelayed(t, before, read(t, k), "nfs_latency_seconds "+operation, times, 2*oneWay, took)
				})
			}
		})
	}
}

// runDelayed runs a workload while packets take that long each way, and returns how long it took.
func runDelayed(t *testing.T, runner *guest.Runner, oneWay time.Duration) time.Duration {
	t.Helper()
	guesttest.Succeed(t, func() error { return guest.AddDelay("lo", oneWay) })
	start := guesttest.Monotonic(t)
	_, err := runner.Run()
	took := guesttest.Monotonic(t) - start
	guesttest.Succeed(t, func() error { return guest.RemoveDelay("lo") })
	if err != nil {
		t.Fatal(err)
	}
	return took
}

// nfsOn loads the NFS modules, so that the source can be attached at once.
func nfsOn(t *testing.T) []kernel.SourceConfig {
	t.Helper()
	for _, name := range []string{"nfs", "nfsv3", "nfsv4"} {
		guesttest.Succeed(t, func() error { return guest.LoadModule(name) })
	}
	return []kernel.SourceConfig{{Name: "nfs"}}
}

// checkDelayed demands that each of a number of operations between two readings took at least delay and that together they took no longer than the
// caller waited. It says what is wrong if one of them took much longer, or all together less than the caller waited.
func checkDelayed(t *testing.T, before, after reading, name string, times uint64, delay, took time.Duration) error {
	t.Helper()
	got := after.since(before, name)
	n, sum := events(got), time.Duration(got.SumNanoseconds)
	t.Logf("%s: %d events of %v in %v", name, n, sum, took)
	if !agrees(n, times, after.lost-before.lost) {
		t.Errorf("%s: counted %d, did %d", name, n, times)
	}
	if sum < time.Duration(n)*delay || sum > took {
		t.Errorf("%s: the sum is %v, want between %v and the %v that the caller waited", name, sum, time.Duration(n)*delay, took)
	}
	// An open may need several round trips of its own, before or within the file system's function.
	if in := between(got, delay, 4*delay); in+1 < n {
		return fmt.Errorf("%s: %d of %d are in the buckets from %v to %v: %d", name, in, n, delay, 4*delay, got.Counts)
	}
	if !strings.HasSuffix(name, " open") && n == times && sum < took*95/100 {
		return fmt.Errorf("%s: the sum is %v, more than 5 %% below the %v that the caller waited", name, sum, took)
	}
	return nil
}
