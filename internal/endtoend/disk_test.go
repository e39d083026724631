package endtoend

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/latpush/latpush/internal/spool"
)

// A disk that is full, and then is not: sampling and sending go on, what waits for a receiver waits in memory, and when there is room again it is on
// disk without anybody's help, as a kill -9 shows.
func TestDiskFull(t *testing.T) {
	if testing.Short() {
		t.Skip("several seconds")
	}
	folder := t.TempDir()
	directory := filepath.Join(folder, "spool")
	mount(t, "tmpfs", directory, "tmpfs", "size=256k")
	filler := filepath.Join(directory, "filler")
	brokenDisk(t, folder, func() { fill(t, filler) }, func() {
		if err := os.Remove(filler); err != nil {
			t.Fatal(err)
		}
	})
}

// The same with a file system that the kernel makes read-only after an error, as it does with a failing flash card, and that is mounted anew while the agent
// runs.
func TestDiskReadOnly(t *testing.T) {
	if testing.Short() {
		t.Skip("several seconds")
	}
	folder := t.TempDir()
	directory := filepath.Join(folder, "spool")
	image := filepath.Join(folder, "image")
	succeed(t, "mkfs.ext4", "-q", image, "16M")
	device := mountImage(t, image, directory)
	brokenDisk(t, folder, func() {
		if err := os.WriteFile(fmt.Sprintf("/sys/fs/ext4/%s/trigger_fs_error", filepath.Base(device)), []byte("read-only"), 0); err != nil {
			t.Fatal(err)
		}
	}, func() {
		// The broken one stays until nobody has a file of it open any more. Mounting its copy replays the journal.
		repaired := filepath.Join(folder, "repaired")
		succeed(t, "cp", image, repaired)
		if err := unix.Unmount(directory, unix.MNT_DETACH); err != nil {
			t.Fatal(err)
		}
		mountImage(t, repaired, directory)
	})
}

// brokenDisk runs an agent whose disk breaks and is repaired.
func brokenDisk(t *testing.T, folder string, breaks, repair func()) {
	t.Helper()
	s := embedded(t)
	f := newFront(t, s.writeURL())
	config := pushConfig(t, folder, f.url, "")
	d := &scripted{t: t, s: s, f: f, a: startAgent(t, config)}
	d.a.waitLog("source is running")
	d.work()
	s.expect(counted, d.calls)
	s.expect(`latpush_spool_disk_healthy`, 1)

	breaks()
	d.work()
	s.expect(`latpush_spool_disk_healthy`, 0)
	s.expect(counted, d.calls) // from memory
	f.answer(always(503))
	before, _ := f.got()
	d.work()
	f.waitAnswered(t, 503, 5)
	s.expect(`latpush_spool_disk_errors_total > bool 0`, 1)

	repair()
	spoolHolds(t, filepath.Join(folder, "spool"), before[len(before)-1].at)
	d.work()
	spoolHolds(t, filepath.Join(folder, "spool"), time.Now().Add(time.Second))
	d.a.kill()
	f.answer(nil)
	d.a = startAgent(t, config)
	s.expect(`max(max_over_time(`+counted+`[10m]))`, d.calls)
	d.a.stop()
	s.everyTick(2)
}

// spoolHolds waits until a snapshot that was taken after a moment is on disk.
func spoolHolds(t *testing.T, directory string, moment time.Time) {
	t.Helper()
	eventually(t, limit, func() error {
		contents, err := spool.Inspect(directory)
		if err != nil {
			return err
		}
		for _, segment := range contents.Segments {
			if segment.Newest.Wall.After(moment) {
				return nil
			}
		}
		return fmt.Errorf("no snapshot of after %v is on disk", moment)
	})
}

// fill writes a file until the disk is full to the last byte.
func fill(t *testing.T, path string) {
	t.Helper()
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for size := 64 << 10; size > 0; {
		if _, err := f.Write(make([]byte, size)); errors.Is(err, unix.ENOSPC) {
			size /= 2
		} else if err != nil && !errors.Is(err, io.ErrShortWrite) {
			t.Fatal(err)
		}
	}
}

// mount mounts a file system on a new folder for as long as the test.
func mount(t *testing.T, source, folder, kind, options string) {
	t.Helper()
	if err := os.MkdirAll(folder, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount(source, folder, kind, 0, options); err != nil {
		t.Fatalf("mount %s on %s: %v", kind, folder, err)
	}
	t.Cleanup(func() { _ = unix.Unmount(folder, unix.MNT_DETACH) })
}

// mountImage mounts a file with ext4, which becomes read-only at an error, and returns the device that stands for it.
func mountImage(t *testing.T, image, folder string) (device string) {
	t.Helper()
	device = strings.TrimSpace(succeed(t, "losetup", "--find", "--show", image))
	t.Cleanup(func() { _ = exec.Command("losetup", "--detach", device).Run() })
	mount(t, device, folder, "ext4", "errors=remount-ro")
	return device
}

func succeed(t *testing.T, name string, arguments ...string) (output string) {
	t.Helper()
	said, err := exec.Command(name, arguments...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(arguments, " "), err, said)
	}
	return string(said)
}
