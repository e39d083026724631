//go:build guest

package kerneltests

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/latpush/latpush/internal/kernel"
	"github.com/latpush/latpush/internal/vm/guest"
	"github.com/latpush/latpush/internal/vm/guest/guesttest"
)

const (
	diskTime = 5 * time.Millisecond   // of each request to the devices below the file systems
	slowTime = 100 * time.Millisecond // of each read of the slow file
)

// operations are those of a file system, in the order of their numbers.
func operations() []string { return []string{"read", "write", "open", "fsync", "getattr"} }

// fileSystemsIn returns the file systems of which the functions can have fentry programs: before 5.11 modules have no type information.
func fileSystemsIn(how string) []string {
	if how == kernel.Fentry && strings.HasPrefix(guest.Kernel(), "5.10") {
		return []string{"ext4"}
	}
	return []string{"ext4", "xfs", "btrfs", "fuse", "overlay"}
}

// Whatever the file system and the way of attaching, exactly what was done is counted, and where each request to the device takes a known time, that
// is what is measured.
func TestFileSystems(t *testing.T) {
	var gate sync.RWMutex // while it is locked, the slow file does not answer
	fuse := guesttest.FUSE(t, func() {
		gate.RLock()
		defer gate.RUnlock()
		time.Sleep(slowTime)
	})
	disks := map[string]string{}
	for _, kind := range []string{"ext4", "xfs", "btrfs"} {
		disks[kind] = guesttest.FileSystem(t, kind, diskTime)
	}
	overlay := guesttest.Overlay(t, disks["ext4"], disks["ext4"])
	for _, how := range []string{kernel.Fentry, kernel.Kprobe} {
		t.Run(how, func(t *testing.T) {
			names := fileSystemsIn(how)
			start := time.Now()
			k := open(t, how, kernel.SourceConfig{Name: "filesystem", FileSystems: names})
			t.Logf("attached in %v", time.Since(start))
			for _, name := range names {
				folder := map[string]string{"fuse": filepath.Join(fuse, guest.FUSEFiles), "overlay": overlay}[name] + disks[name]
				t.Run(name, func(t *testing.T) { checkOperations(t, k, name, folder) })
			}
			if len(names) > 1 {
				t.Run("stacked", func(t *testing.T) { checkStacked(t, k, overlay, disks["ext4"]) })
				t.Run("slow", func(t *testing.T) { checkSlow(t, k, fuse, disks["xfs"]) })
				t.Run("in flight", func(t *testing.T) { checkInFlight(t, k, &gate, fuse, disks["xfs"]) })
			}
		})
	}
}

// What tasks of two control groups do is told apart.
func TestFileSystemsByCgroup(t *testing.T) {
	disk := guesttest.FileSystem(t, "ext4", diskTime)
	for _, how := range []string{kernel.Fentry, kernel.Kprobe} {
		t.Run(how, func(t *testing.T) {
			root := cgroupRoot(t)
			k := open(t, how, kernel.SourceConfig{Name: "filesystem", FileSystems: []string{"ext4"}, Labels: []string{"cgroup"}})
			for name, w := range map[string]guest.Workload{
				"a.service": {Reads: 9, Writes: 8, Opens: 7, Creates: 2, Getattrs: 6, Fsyncs: 3},
				"b.service": {Reads: 4, Writes: 5, Opens: 6, Creates: 1, Getattrs: 11, Fsyncs: 2, Direct: true},
			} {
				runner := guesttest.Prepare(t, w, disk)
				before := read(t, k)
				var did guest.Counts
				inCgroup(t, root, name, func() {
					var err error
					if did, err = runner.Run(); err != nil {
						t.Fatal(err)
					}
				})
				after := read(t, k)
				for operation, want := range did.ByOperation() {
					got := counted(after, before, "filesystem_latency_seconds", 2, "ext4", operation)
					if n := got[name]; n > want || n+after.lost-before.lost < want || len(got) != 1 {
						t.Errorf("%s: counted %v, did %d in %s", operation, got, want, name)
					}
				}
			}
		})
	}
}

// The same for the file system that Debian's kernels for clouds do not have.
func TestF2FS(t *testing.T) {
	disk := guesttest.FileSystem(t, "f2fs", diskTime)
	for _, how := range []string{kernel.Fentry, kernel.Kprobe} {
		t.Run(how, func(t *testing.T) {
			if how == kernel.Fentry {
				needModuleBTF(t, "f2fs")
			}
			k := open(t, how, kernel.SourceConfig{Name: "filesystem", FileSystems: []string{"f2fs"}})
			checkOperations(t, k, "f2fs", disk)
		})
	}
}

// checkOperations does in a folder of a file system all that is counted.
func checkOperations(t *testing.T, k *kernel.Kernel, name, folder string) {
	t.Helper()
	w := guest.Workload{Reads: 30, Splices: 4, Writes: 12, Opens: 7, Creates: 5, Getattrs: 13, Fsyncs: 2, Threads: 2}
	checkFileSystem(t, k, name, folder, w)
	checkFolder(t, k, name, folder)
	checkSynchronousWrites(t, k, name, folder)
	if name != "fuse" {
		w.Direct = true
		checkFileSystem(t, k, name, folder, w)
		checkUncounted(t, k, name, folder)
		checkDirectReads(t, k, name, folder)
	}
}

// checkCounted demands as many events of each operation of a file system as were done between two readings. The kernel does not run a program while it is
// preempted on the same processor, and says so.
func checkCounted(t *testing.T, before, after reading, name string, want map[string]uint64) {
	t.Helper()
	for _, operation := range operations() {
		got := events(after.since(before, "filesystem_latency_seconds "+name+" "+operation))
		if n := want[operation]; got > n || got+after.lost-before.lost < n {
			t.Errorf("%s of %s: counted %d, did %d, and the kernel says that %d were lost", operation, name, got, n, after.lost-before.lost)
		}
	}
}

func checkFileSystem(t *testing.T, k *kernel.Kernel, name, folder string, w guest.Workload) {
	t.Helper()
	runner := guesttest.Prepare(t, w, folder)
	before := read(t, k)
	start := guesttest.Monotonic(t)
	did, err := runner.Run()
	took := (guesttest.Monotonic(t) - start) * time.Duration(max(w.Threads, 1))
	if err != nil {
		t.Fatal(err)
	}
	after := read(t, k)
	checkCounted(t, before, after, name, did.ByOperation())
	var sum time.Duration
	for _, operation := range operations() {
		sum += time.Duration(after.since(before, "filesystem_latency_seconds "+name+" "+operation).SumNanoseconds)
	}
	if sum > took || sum == 0 {
		t.Errorf("%s: the operations took %v, the callers waited %v", name, sum, took)
	}
}

// measure does something that must succeed between two readings.
func measure(t *testing.T, k *kernel.Kernel, do func() error) (before, after reading) {
	t.Helper()
	before = read(t, k)
	if err := do(); err != nil {
		t.Fatal(err)
	}
	return before, read(t, k)
}

// checkFolder does to a folder and to a symbolic link what can be done to them.
func checkFolder(t *testing.T, k *kernel.Kernel, name, folder string) {
	t.Helper()
	link := filepath.Join(folder, "link-"+filepath.Base(t.TempDir()))
	if err := os.Symlink("nowhere", link); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { guesttest.Succeed(t, func() error { return os.Remove(link) }) })
	before, after := measure(t, k, func() error {
		for range 3 {
			descriptor, err := unix.Open(folder, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
			if err != nil {
				return fmt.Errorf("open folder: %w", err)
			}
			if err := unix.Fsync(descriptor); err != nil {
				return fmt.Errorf("fsync folder: %w", err)
			}
			var status unix.Stat_t
			if err := unix.Fstat(descriptor, &status); err != nil {
				return fmt.Errorf("stat folder: %w", err)
			}
			if err := unix.Lstat(link, &status); err != nil {
				return fmt.Errorf("stat link: %w", err)
			}
			if err := unix.Close(descriptor); err != nil {
				return fmt.Errorf("close folder: %w", err)
			}
		}
		return nil
	})
	want := map[string]uint64{"open": 3, "fsync": 3, "getattr": 6}
	for _, s := range k.Sources() {
		for _, h := range s.Hooks {
			if h.Name == map[string]string{"ext4": "ext4_dir_open", "btrfs": "btrfs_opendir", "f2fs": "f2fs_dir_open"}[name] && !h.Attached() {
				want["open"] = 0 // this kernel's file system does nothing when a folder is opened
			}
		}
	}
	checkCounted(t, before, after, name, want)
}

// checkSynchronousWrites writes with O_DSYNC: each write contains an fsync, which is counted as what it is.
func checkSynchronousWrites(t *testing.T, k *kernel.Kernel, name, folder string) {
	t.Helper()
	descriptor := openIn(t, folder, unix.O_RDWR|unix.O_DSYNC)
	page := guesttest.Page(t)
	before, after := measure(t, k, func() error {
		for range 4 {
			if _, err := unix.Pwrite(descriptor, page, 0); err != nil {
				return err
			}
		}
		return nil
	})
	want := map[string]uint64{"write": 4, "fsync": 4}
	if name == "overlay" {
		want["fsync"] = 0 // the file system below does it
	}
	if name == "fuse" && events(after.since(before, "filesystem_latency_seconds fuse fsync")) == 0 {
		want["fsync"] = 0 // new kernels leave it to the server
	}
	checkCounted(t, before, after, name, want)
}

// checkUncounted reads in the ways of which the function's time is not the read's.
func checkUncounted(t *testing.T, k *kernel.Kernel, name, folder string) {
	t.Helper()
	direct := openIn(t, folder, unix.O_RDWR|unix.O_DIRECT)
	page := guesttest.Page(t)
	if _, err := unix.Pwrite(direct, page, 0); err != nil { // past the page cache
		t.Fatal(err)
	}
	buffered, err := unix.Open(fmt.Sprintf("/proc/self/fd/%d", direct), unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { guesttest.Succeed(t, func() error { return unix.Close(buffered) }) })
	before, after := measure(t, k, func() error {
		n, err := unix.Preadv2(buffered, [][]byte{page}, 0, unix.RWF_NOWAIT)
		if !errors.Is(err, unix.EAGAIN) && (name != "overlay" || !errors.Is(err, unix.EOPNOTSUPP)) {
			t.Errorf("read without waiting: %d bytes, error %v, want EAGAIN", n, err)
		}
		return nil
	})
	checkCounted(t, before, after, name, nil)
	const attempts = 10 // the guest may be so slow that the device has answered before the call returns, and then it counts
	for range attempts {
		before, after = measure(t, k, func() error { return guest.ReadAsynchronously(direct, page, 1) })
		if events(after.since(before, "filesystem_latency_seconds "+name+" read")) == 0 {
			return
		}
	}
	t.Errorf("%d asynchronous reads of %s all count", attempts, name)
}

// checkDirectReads reads from the device.
func checkDirectReads(t *testing.T, k *kernel.Kernel, name, folder string) {
	t.Helper()
	const times = 10
	runner := guesttest.Prepare(t, guest.Workload{Reads: times, Direct: true}, folder)
	steady(t, func() error {
		start := guesttest.Monotonic(t)
		before, after := measure(t, k, func() error {
			_, err := runner.Run()
			return err
		})
		took := guesttest.Monotonic(t) - start
		got := after.since(before, "filesystem_latency_seconds "+name+" read")
		n, sum := events(got), time.Duration(got.SumNanoseconds)
		if !agrees(n, times, after.lost-before.lost) || sum+diskTime < time.Duration(n)*diskTime || sum > took {
			t.Errorf("%d reads of %s took %v of %v, in the buckets %d", n, name, sum, took, got.Counts)
		}
		if in := between(got, diskTime, 8*diskTime); in+1 < n {
			return fmt.Errorf("%d of %d reads of %s took about %v: %d", in, n, name, diskTime, got.Counts)
		}
		return nil
	})
}

// checkStacked reads a file through an overlay on an overlay on a disk. What lies on itself counts once, with the whole time.
func checkStacked(t *testing.T, k *kernel.Kernel, overlay, disk string) {
	t.Helper()
	const file = "below"
	if err := os.WriteFile(filepath.Join(overlay, file), make([]byte, 4096), 0o644); err != nil {
		t.Fatal(err)
	}
	top := guesttest.Overlay(t, overlay, filepath.Join(disk, filepath.Base(t.TempDir())))
	descriptor := openDirect(t, filepath.Join(top, file))
	page := guesttest.Page(t)
	start := guesttest.Monotonic(t)
	before, after := measure(t, k, func() error {
		for range 6 {
			if _, err := unix.Pread(descriptor, page, 0); err != nil {
				return err
			}
		}
		var status unix.Stat_t
		return unix.Fstat(descriptor, &status)
	})
	took := guesttest.Monotonic(t) - start
	checkCounted(t, before, after, "overlay", map[string]uint64{"read": 6, "getattr": 1})
	outer := after.since(before, "filesystem_latency_seconds overlay read")
	inner := after.since(before, "filesystem_latency_seconds ext4 read")
	t.Logf("6 reads took %v, of which the overlays %v, of which ext4 %v", took, time.Duration(outer.SumNanoseconds), time.Duration(inner.SumNanoseconds))
	if n := events(inner) + after.lost - before.lost; n < 6 || events(inner) > 6 {
		t.Errorf("counted %d reads of the disk below, did 6", events(inner))
	}
	if after.lost == before.lost &&
		(inner.SumNanoseconds > outer.SumNanoseconds || outer.SumNanoseconds > uint64(took) || inner.SumNanoseconds < uint64(6*diskTime)) {
		t.Errorf("6 reads took %v, of which the overlays %v, of which ext4 %v",
			took, time.Duration(outer.SumNanoseconds), time.Duration(inner.SumNanoseconds))
	}
}

// checkSlow reads a file of which every read takes a known time, by itself and through an overlay.
func checkSlow(t *testing.T, k *kernel.Kernel, fuse, layer string) {
	t.Helper()
	overlay := guesttest.Overlay(t, fuse, filepath.Join(layer, filepath.Base(t.TempDir())))
	page := guesttest.Page(t)
	for folder, names := range map[string][]string{fuse: {"fuse"}, overlay: {"fuse", "overlay"}} {
		const times = 4
		descriptor, err := unix.Open(filepath.Join(folder, guest.FUSESlow), unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { guesttest.Succeed(t, func() error { return unix.Close(descriptor) }) })
		steady(t, func() error {
			var took time.Duration
			before, after := measure(t, k, func() error {
				start := guesttest.Monotonic(t)
				for i := range times {
					if _, err := unix.Pread(descriptor, page, int64(i*len(page))); err != nil {
						return err
					}
				}
				took = guesttest.Monotonic(t) - start
				return nil
			})
			var errs []error
			for _, name := range names {
				errs = append(errs, checkDelayed(t, before, after, "filesystem_latency_seconds "+name+" read", times, slowTime, took))
			}
			return errors.Join(errs...)
		})
	}
}

// checkInFlight reads from a server that does not answer, also through an overlay: what waits is seen, and how long, until the server answers.
func checkInFlight(t *testing.T, k *kernel.Kernel, gate *sync.RWMutex, fuse, layer string) {
	t.Helper()
	overlay := guesttest.Overlay(t, fuse, filepath.Join(layer, filepath.Base(t.TempDir())))
	var disks []int
	for _, folder := range []string{fuse, fuse, overlay} {
		descriptor, err := unix.Open(filepath.Join(folder, guest.FUSESlow), unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { guesttest.Succeed(t, func() error { return unix.Close(descriptor) }) })
		disks = append(disks, descriptor)
	}
	before := read(t, k)
	gate.Lock()
	open := sync.OnceFunc(gate.Unlock)
	defer open()
	begun := guesttest.Monotonic(t)
	var all sync.WaitGroup
	for _, disk := range disks {
		page := guesttest.Page(t)
		all.Go(func() {
			if _, err := unix.Pread(disk, page, 0); err != nil {
				t.Error(err)
			}
		})
	}
	awaitInFlight(t, k, "filesystem_inflight", "fuse read", 3)
	awaitInFlight(t, k, "filesystem_inflight", "overlay read", 1)
	checkAges(t, k, begun, [2]string{"filesystem_inflight", "fuse read"}, [2]string{"filesystem_inflight", "overlay read"})
	open()
	all.Wait()
	for _, name := range []string{"fuse", "overlay"} {
		after := awaitInFlight(t, k, "filesystem_inflight", name+" read", 0)
		if age := after.samples["filesystem_inflight_oldest_seconds "+name+" read"].Value; age != 0 {
			t.Errorf("the oldest read of %s of none is %v s old", name, age)
		}
		if n := between(after.since(before, "filesystem_latency_seconds "+name+" read"), time.Second, settle); n == 0 && after.lost == before.lost {
			t.Errorf("no read of %s took more than a second", name)
		}
	}
}

// openIn makes and opens a file for as long as the test.
func openIn(t *testing.T, folder string, flags int) (descriptor int) {
	t.Helper()
	file, err := os.CreateTemp(folder, "file-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { guesttest.Succeed(t, func() error { return os.Remove(file.Name()) }) })
	guesttest.Succeed(t, file.Close)
	if descriptor, err = unix.Open(file.Name(), flags|unix.O_CLOEXEC, 0); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { guesttest.Succeed(t, func() error { return unix.Close(descriptor) }) })
	return descriptor
}

func openDirect(t *testing.T, file string) (descriptor int) {
	t.Helper()
	descriptor, err := unix.Open(file, unix.O_RDONLY|unix.O_DIRECT|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { guesttest.Succeed(t, func() error { return unix.Close(descriptor) }) })
	return descriptor
}
