package guest

import (
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"
)

func TestWorkload(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	w := Workload{Reads: 2, Splices: 3, Writes: 4, Opens: 5, Creates: 6, Getattrs: 7, Fsyncs: 1, Threads: 3, Size: 100}
	runner, err := w.Prepare(dir)
	if err != nil {
		t.Fatal(err)
	}
	for run := 1; run <= 2; run++ {
		got, err := runner.Run()
		if err != nil {
			t.Fatal(err)
		}
		if want := (Counts{Reads: 15, Writes: 12, Opens: 33, Getattrs: 21, Fsyncs: 3}); got != want {
			t.Errorf("run %d: %+v, want %+v", run, got, want)
		}
		created, err := filepath.Glob(filepath.Join(dir, "*", "created-*"))
		if err != nil || len(created) != 18*run {
			t.Errorf("run %d: %d files were created, %v, want %d", run, len(created), err, 18*run)
		}
	}
	if err := runner.Close(); err != nil {
		t.Error(err)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 0 {
		t.Errorf("%v and %v are left", left, err)
	}
}

func TestWorkloadErrors(t *testing.T) {
	t.Parallel()
	if _, err := (Workload{Size: 1 << 20}).Prepare(t.TempDir()); err == nil || !strings.Contains(err.Error(), "size 1048576") {
		t.Errorf("a size above a page gives %v", err)
	}
	if _, err := (Workload{}).Prepare(filepath.Join(t.TempDir(), "absent")); err == nil {
		t.Error("a folder that is not there gives no error")
	}
	dir := t.TempDir()
	runner, err := Workload{Opens: 1, Reads: 1}.Prepare(dir)
	if err != nil {
		t.Fatal(err)
	}
	files, err := filepath.Glob(filepath.Join(dir, "*", "*"))
	if err != nil || len(files) != 2 {
		t.Fatalf("files %q, %v", files, err)
	}
	for _, file := range files {
		if err := os.Truncate(file, 0); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := runner.Run(); err == nil || !strings.Contains(err.Error(), "read 1 of 1: 0 bytes of 4096") {
		t.Errorf("a short read gives %v", err)
	}
	if err := runner.Close(); err != nil {
		t.Error(err)
	}
}

func TestSub(t *testing.T) {
	t.Parallel()
	times := func(queue, network, total time.Duration) RPCTimes { return RPCTimes{queue, network, total} }
	before := NFSStats{
		Requests: map[string]uint64{"READ": 3, "WRITE": 1}, Times: map[string]RPCTimes{"READ": times(1, 20, 21), "WRITE": times(1, 2, 3)},
		VFSOpens: 1, VFSFsyncs: 2, BytesRead: 10, Written: 5,
	}
	after := NFSStats{
		Requests: map[string]uint64{"READ": 5, "WRITE": 1, "OPEN": 4},
		Times:    map[string]RPCTimes{"READ": times(2, 50, 53), "WRITE": times(1, 2, 3), "OPEN": times(4, 5, 9)},
		VFSOpens: 4, VFSFsyncs: 2, BytesRead: 30, Written: 6,
	}
	want := NFSStats{
		Requests: map[string]uint64{"READ": 2, "OPEN": 4}, Times: map[string]RPCTimes{"READ": times(1, 30, 32), "OPEN": times(4, 5, 9)},
		VFSOpens: 3, BytesRead: 20, Written: 1,
	}
	if got := after.Sub(before); !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, want %+v", got, want)
	}
}

func TestOnlyInAGuest(t *testing.T) {
	t.Parallel()
	if err := LoadModule("loop"); err == nil || !strings.Contains(err.Error(), "guests only") {
		t.Errorf("loading a module on a machine that is no guest gives %v", err)
	}
	if _, err := Mountstats(t.TempDir()); err == nil || !strings.Contains(err.Error(), "no nfs mount") {
		t.Errorf("statistics of a folder that is no mount give %v", err)
	}
	if _, err := Diskstats("no-such-disk"); err == nil || !strings.Contains(err.Error(), "no device no-such-disk") {
		t.Errorf("statistics of a disk that is not there give %v", err)
	}
}
