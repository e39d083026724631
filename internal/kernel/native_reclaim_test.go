package kernel

import (
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// The variables that tell the child what to read, and where it becomes a member of a cgroup.
const (
	readEnvironment    = "LATPUSH_TEST_READ"
	membersEnvironment = "LATPUSH_TEST_MEMBERS"
)

// limitedCgroup makes a cgroup whose memory is limited, and returns the file that takes its members.
func limitedCgroup(t *testing.T, limit int) (members string) {
	t.Helper()
	root, key := "/sys/fs/cgroup/memory", "memory.limit_in_bytes"
	if _, err := os.Stat(filepath.Join(root, key)); err != nil {
		root, key = t.TempDir(), "memory.max"
		if err := unix.Mount("none", root, "cgroup2", 0, ""); err != nil {
			t.Fatal("mount cgroup2:", err)
		}
		t.Cleanup(func() {
			if err := unix.Unmount(root, unix.MNT_DETACH); err != nil {
				t.Error(err)
			}
		})
		if err := os.WriteFile(filepath.Join(root, "cgroup.subtree_control"), []byte("+memory"), 0); err != nil {
			t.Fatal(err)
		}
	}
	directory := filepath.Join(root, "latpush-test-"+strconv.Itoa(os.Getpid()))
	if err := os.Mkdir(directory, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { removeCgroup(t, directory) })
	if err := os.WriteFile(filepath.Join(directory, key), []byte(strconv.Itoa(limit)), 0); err != nil {
		t.Fatal(err)
	}
	return filepath.Join(directory, "cgroup.procs")
}

// removeCgroup removes a cgroup, of which the kernel lets go some moments after its last member has ended.
func removeCgroup(t *testing.T, directory string) {
	t.Helper()
	deadline := time.Now().Add(10 * time.Second)
	for err := os.Remove(directory); err != nil; err = os.Remove(directory) {
		if time.Now().After(deadline) {
			t.Error(err)
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// A program that reads more from a device than its cgroup may hold frees page cache of its own again and again, and is held up no longer than
// it runs.
func TestCgroupReclaimIsCounted(t *testing.T) {
	const size, limit, page = 64 << 20, 8 << 20, 4096
	for _, how := range []string{TpBTF, RawTracepoint, Tracepoint} {
		t.Run(how, func(t *testing.T) {
			device, members := loopDevice(t, size), limitedCgroup(t, limit)
			k := open(t, how, SourceConfig{Name: "reclaim"})
			before := sample(t, k, "memory_stall_seconds", "cgroup_reclaim")
			command := exec.Command("/proc/self/exe")
			command.Env = append(os.Environ(), childEnvironment+"=reader", readEnvironment+"="+device, membersEnvironment+"="+members)
			began := time.Now()
			if out, err := command.CombinedOutput(); err != nil {
				t.Fatalf("%v\n%s", err, out)
			}
			ran := time.Since(began)
			after := sample(t, k, "memory_stall_seconds", "cgroup_reclaim")
			got, sum := events(after)-events(before), time.Duration(after.SumNanoseconds-before.SumNanoseconds)
			t.Logf("counted %d stalls of %v in %v", got, sum, ran)
			// At least a page and at most some megabytes are freed at once.
			if least, most := uint64((size-limit)/(4<<20)), uint64(size/page); got < least || got > most || sum <= 0 || sum > ran {
				t.Errorf("counted %d stalls of %v in %v, want %d to %d", got, sum, ran, least, most)
			}
		})
	}
}

// readInCgroup is the child's part.
func readInCgroup() error {
	if err := os.WriteFile(os.Getenv(membersEnvironment), []byte(strconv.Itoa(os.Getpid())), 0); err != nil {
		return err
	}
	device, err := os.Open(os.Getenv(readEnvironment))
	if err != nil {
		return err
	}
	defer device.Close()
	for buffer := make([]byte, 1<<20); ; {
		if _, err := device.Read(buffer); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
	}
}
