package kernel

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// Requests of ioctl(2) for a mounted file system, which golang.org/x/sys does not have.
const (
	freeze = 0xc0045877 // FIFREEZE
	thaw   = 0xc0045878 // FITHAW
)

// mountedDevice makes a file system on a loop device and mounts it.
func mountedDevice(t *testing.T) (folder string) {
	t.Helper()
	device := loopDevice(t, 16<<20)
	if output, err := exec.Command("mke2fs", "-q", "-t", "ext4", device).CombinedOutput(); err != nil {
		t.Fatalf("mke2fs: %v\n%s", err, output)
	}
	folder = t.TempDir()
	if err := unix.Mount(device, folder, "ext4", 0, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(folder, 0); err != nil {
			t.Error(err)
		}
	})
	return folder
}

// A request that hangs in its device is under way for as long as it hangs: here the device is a file on a file system that is frozen.
func TestBlockRequestThatHangs(t *testing.T) {
	k := open(t, "", SourceConfig{Name: "block"})
	hangingRequest(t, k)
}

// The same when the programs were taken away for a while, and with them the notes of requests under way. Meanwhile nothing is said.
func TestBlockRequestThatHangsAfterDetaching(t *testing.T) {
	k := open(t, "", SourceConfig{Name: "block"})
	name := hangingRequest(t, k)
	s := k.sources[0].loaded
	if err := s.detach(errors.New("for the test")); err != nil {
		t.Fatal(err)
	}
	if found := sample(t, k, "block_io_inflight", name, "write"); found.Metric != nil {
		t.Errorf("%v requests are under way while none can be seen", found.Value)
	}
	if _, err := s.attachAgain(); err != nil {
		t.Fatal(err)
	}
	if found := sample(t, k, "block_io_inflight", name, "write"); found.Metric == nil || found.Value != 0 {
		t.Errorf("after attaching again %v writes are under way, want 0 of a label set that was seen before", found)
	}
	hangingRequest(t, k)
}

// hangingRequest makes a write hang for a while, demands that it is under way until it ends, and returns the name of the device.
func hangingRequest(t *testing.T, k *Kernel) (name string) {
	t.Helper()
	folder := mountedDevice(t)
	file := filepath.Join(folder, "disk")
	if err := os.WriteFile(file, make([]byte, 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	path := loopDeviceOn(t, file)
	root, err := os.Open(folder)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = unix.IoctlSetInt(int(root.Fd()), thaw, 0) // if the test did not come that far
		_ = root.Close()
	})
	directIO(t, path, 1) // what the label sets are seen with
	if err := unix.IoctlSetInt(int(root.Fd()), freeze, 0); err != nil {
		t.Fatal(err)
	}
	frozen := time.Now()
	done := make(chan struct{})
	go func() {
		defer close(done)
		directIO(t, path, 1)
	}()
	name = strings.TrimPrefix(path, "/dev/")
	for deadline := time.Now().Add(10 * time.Second); sample(t, k, "block_io_inflight", name, "write").Value != 1 && time.Now().Before(deadline); {
		time.Sleep(time.Millisecond)
	}
	seen := time.Now()
	time.Sleep(200 * time.Millisecond)
	age := sample(t, k, "block_io_inflight_oldest_seconds", name, "write").Value
	if age < time.Since(seen).Seconds()-0.1 || age > time.Since(frozen).Seconds() {
		t.Errorf("the request is %v s old, and hangs since %v to %v ago", age, time.Since(seen), time.Since(frozen))
	}
	if n := sample(t, k, "block_io_inflight", name, "write").Value; n != 1 {
		t.Errorf("%v writes are under way, want 1", n)
	}
	if err := unix.IoctlSetInt(int(root.Fd()), thaw, 0); err != nil {
		t.Fatal(err)
	}
	<-done
	for _, gauge := range []string{"block_io_inflight", "block_io_inflight_oldest_seconds"} {
		if value := sample(t, k, gauge, name, "write").Value; value != 0 {
			t.Errorf("%s is %v after the last write, want 0", gauge, value)
		}
	}
	return name
}
