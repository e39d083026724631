//go:build guest

package kerneltests

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/latpush/latpush/internal/kernel"
	"github.com/latpush/latpush/internal/vm/guest"
	"github.com/latpush/latpush/internal/vm/guest/guesttest"
)

// Each remote procedure call of a mount is counted once in each phase, and the phases add up to what the kernel says in mountstats.
func TestNFSRPCAgreesWithMountstats(t *testing.T) {
	guesttest.ServeNFS(t)
	nfsOn(t)
	for _, how := range []string{kernel.TpBTF, kernel.RawTracepoint, kernel.Tracepoint} {
		t.Run(how, func(t *testing.T) {
			if how != kernel.Tracepoint {
				needModuleBTF(t, "nfs")
			}
			k := open(t, how, kernel.SourceConfig{Name: "nfs_rpc"})
			for _, version := range []string{"3", "4.2"} {
				t.Run(version, func(t *testing.T) {
					dir := guesttest.MountNFS(t, version, how)
					w := guest.Workload{Reads: 17, Splices: 2, Writes: 15, Opens: 11, Creates: 3, Getattrs: 13, Fsyncs: 4, Direct: true, Threads: 4}
					checkRPCs(t, k, dir, guesttest.Prepare(t, w, dir))
				})
			}
		})
	}
}

// rpcSlack is by how much a sum in mountstats, in whole milliseconds at both ends, and sums of whole microseconds may be off.
const rpcSlack = 2 * time.Millisecond

func checkRPCs(t *testing.T, k *kernel.Kernel, dir string, runner *guest.Runner) {
	t.Helper()
	statsBefore, err := guest.Mountstats(dir)
	if err != nil {
		t.Fatal(err)
	}
	before := read(t, k)
	did, err := runner.Run()
	if err != nil {
		t.Fatal(err)
	}
	var stats guest.NFSStats
	var after reading
	// The last calls, which close files, end some time after the workload.
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		if stats, err = guest.Mountstats(dir); err != nil {
			t.Fatal(err)
		}
		stats = stats.Sub(statsBefore)
		if after = read(t, k); rpcsAgree(before, after, stats) || time.Now().After(deadline) {
			break
		}
	}
	// What is spliced may come from the page cache, and newer clients of 4.2 read with READ_PLUS.
	if stats.Requests["WRITE"] < did.Writes || stats.Requests["READ"]+stats.Requests["READ_PLUS"] < did.Reads/2 {
		t.Errorf("mountstats says %v, did %+v", stats.Requests, did)
	}
	lost := after.lost - before.lost
	for operation, requests := range stats.Requests {
		label := strings.ToLower(operation)
		for phase, want := range map[string]time.Duration{
			"queue": stats.Times[operation].Queue, "network": stats.Times[operation].Network, "total": stats.Times[operation].Total,
		} {
			got := after.since(before, "nfs_rpc_latency_seconds "+label+" "+phase)
			sum := time.Duration(got.SumNanoseconds)
			// The kernel does not run a program while it is preempted on that CPU, and says so.
			if events(got) > requests || events(got)+lost < requests || lost == 0 && (sum-want).Abs() > rpcSlack {
				t.Errorf("%s, %s: counted %d of %v and lost %d in all, mountstats says %d of %v", label, phase, events(got), sum, lost, requests, want)
			}
		}
	}
	t.Logf("%d operations agree: %v", len(stats.Requests), stats.Requests)
}

func rpcsAgree(before, after reading, stats guest.NFSStats) bool {
	for operation, requests := range stats.Requests {
		if events(after.since(before, "nfs_rpc_latency_seconds "+strings.ToLower(operation)+" total"))+after.lost-before.lost < requests {
			return false
		}
	}
	return true
}

// A slow network is in the network phase, and calls do not wait in the queue for it.
func TestNFSRPCDelay(t *testing.T) {
	const oneWay, times = 50 * time.Millisecond, 6
	guesttest.ServeNFS(t)
	nfsOn(t)
	k := open(t, "", kernel.SourceConfig{Name: "nfs_rpc"})
	dir := guesttest.MountNFS(t, "4.1", "plain")
	runner := guesttest.Prepare(t, guest.Workload{Reads: times, Direct: true}, dir)
	steady(t, func() error {
		guesttest.Succeed(t, guest.DropCaches)
		before := read(t, k)
		took := runDelayed(t, runner, oneWay)
		after := read(t, k)
		var errs []error
		for _, phase := range []string{"network", "total"} {
			errs = append(errs, checkDelayed(t, before, after, "nfs_rpc_latency_seconds read "+phase, times, 2*oneWay, took))
		}
		if queue := time.Duration(after.since(before, "nfs_rpc_latency_seconds read queue").SumNanoseconds); queue > times*oneWay {
			errs = append(errs, fmt.Errorf("%d calls waited %v in the queue", times, queue))
		}
		return errors.Join(errs...)
	})
}
