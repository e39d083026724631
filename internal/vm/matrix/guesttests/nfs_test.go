//go:build guest

package guesttests

import (
	"testing"
	"time"

	"github.com/latpush/latpush/internal/vm/guest"
	"github.com/latpush/latpush/internal/vm/guest/guesttest"
)

// versions begins with 3: a machine that mounts nothing else never loads the module of version 4.
func versions() []string { return []string{"3", "4.0", "4.1", "4.2"} }

func TestNFSModules(t *testing.T) {
	guesttest.ServeNFS(t)
	for _, version := range versions() {
		dir := guesttest.MountNFS(t, version, "plain")
		if guest.ModuleLoaded("nfsv4") != (version != "3") {
			t.Errorf("after mounting version %s on %s, module nfsv4 is loaded: %v", version, dir, guest.ModuleLoaded("nfsv4"))
		}
	}
}

func TestNFSCounts(t *testing.T) {
	guesttest.ServeNFS(t)
	for _, version := range versions() {
		t.Run(version, func(t *testing.T) {
			dir := guesttest.MountNFS(t, version, "plain")
			t.Run("direct", func(t *testing.T) {
				w := guest.Workload{Reads: 7, Splices: 2, Writes: 5, Opens: 11, Creates: 3, Getattrs: 13, Fsyncs: 4, Direct: true, Threads: 2}
				checkCounts(t, version, dir, w, false)
			})
			t.Run("buffered", func(t *testing.T) {
				w := guest.Workload{Reads: 3, Splices: 4, Writes: 6, Opens: 2, Creates: 5, Getattrs: 1, Fsyncs: 2}
				checkCounts(t, version, dir, w, false)
			})
			t.Run("uncached", func(t *testing.T) {
				checkCounts(t, version, dir, guest.Workload{Opens: 9}, true)
			})
		})
	}
}

// checkCounts compares what a workload did with what the kernel's NFS client counted, at its upper side (events, bytes) and at its lower side (RPCs).
func checkCounts(t *testing.T, version, dir string, w guest.Workload, uncached bool) {
	t.Helper()
	runner := guesttest.Prepare(t, w, dir)
	if uncached {
		guesttest.Succeed(t, guest.DropCaches)
	}
	before, err := guest.Mountstats(dir)
	if err != nil {
		t.Fatal(err)
	}
	did, err := runner.Run()
	if err != nil {
		t.Fatal(err)
	}
	after, err := guest.Mountstats(dir)
	if err != nil {
		t.Fatal(err)
	}
	seen := after.Sub(before)
	t.Logf("did %+v, the kernel saw %+v", did, seen)

	threads := uint64(max(w.Threads, 1))
	creates, splices := threads*uint64(w.Creates), threads*uint64(w.Splices)
	check := func(what string, got, want uint64) {
		t.Helper()
		if got != want {
			t.Errorf("%s: the kernel saw %d, want %d", what, got, want)
		}
	}
	check("fsyncs", seen.VFSFsyncs, did.Fsyncs)
	if w.Direct {
		check("READ", seen.Requests["READ"]+seen.Requests["READ_PLUS"], did.Reads-splices)
		check("WRITE", seen.Requests["WRITE"], did.Writes)
		check("bytes read by splices", seen.BytesRead, splices*4096)
	} else {
		check("bytes read", seen.BytesRead, did.Reads*4096)
		check("bytes written", seen.Written, did.Writes*4096)
	}
	if version == "3" {
		check("opens", seen.VFSOpens, did.Opens)
		check("CREATE", seen.Requests["CREATE"], creates)
	} else {
		check("OPEN", seen.Requests["OPEN"]+seen.Requests["OPEN_NOATTR"], did.Opens)
	}
	switch {
	case uncached: // attributes come with the look-ups
	case version == "3": // an open of a file that exists asks whether it has changed
		check("GETATTR", seen.Requests["GETATTR"], did.Getattrs+did.Opens-creates)
	default:
		check("GETATTR", seen.Requests["GETATTR"], did.Getattrs)
	}
}

func TestNFSDelay(t *testing.T) {
	const oneWay = 50 * time.Millisecond
	guesttest.ServeNFS(t)
	for _, version := range versions() {
		t.Run(version, func(t *testing.T) {
			dir := guesttest.MountNFS(t, version, "plain")
			for _, operation := range []struct {
				name     string
				workload guest.Workload
			}{
				{"getattr", guest.Workload{Getattrs: 1}},
				{"read", guest.Workload{Reads: 1, Direct: true}},
				{"write", guest.Workload{Writes: 1, Direct: true}},
				{"write and fsync", guest.Workload{Writes: 1, Fsyncs: 1}},
			} {
				runner := guesttest.Prepare(t, operation.workload, dir)
				run := func() error { _, err := runner.Run(); return err }
				guesttest.Succeed(t, func() error { return guest.AddDelay("lo", oneWay) })
				slow := fastest(t, 5, run)
				guesttest.Succeed(t, func() error { return guest.RemoveDelay("lo") })
				quick := fastest(t, 20, run)
				within(t, operation.name+" with delay", slow, 2*oneWay, 4*oneWay)
				within(t, operation.name+" without", quick, 0, 2*oneWay)
			}
		})
	}
}
