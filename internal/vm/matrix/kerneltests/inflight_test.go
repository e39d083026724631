//go:build guest

package kerneltests

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/latpush/latpush/internal/kernel"
	"github.com/latpush/latpush/internal/vm/guest"
	"github.com/latpush/latpush/internal/vm/guest/guesttest"
)

// settle is how long a number of operations under way may take to become the expected one: TCP tries again at growing intervals.
const settle = 30 * time.Second

// awaitInFlight reads until so many operations are under way, as a gauge and its label values say. Some may never be seen, as far as the kernel says that
// programs were not run.
func awaitInFlight(t *testing.T, k *kernel.Kernel, gauge, labels string, want float64) reading {
	t.Helper()
	var r reading
	for deadline := time.Now().Add(settle); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		r = read(t, k)
		if s, ok := r.samples[gauge+" "+labels]; ok && s.Value == want {
			return r
		}
	}
	value := r.samples[gauge+" "+labels].Value
	if value == 0 || value > want || value+float64(r.lost) < want {
		t.Fatalf("%s{%s} is %v, want %v, and %d events were lost", gauge, labels, value, want, r.lost)
	}
	return r
}

// checkAges demands that the age of the oldest operation of each gauge, named with its label values, grows as fast as the clock, and is no more than
// the time since a moment before it began.
func checkAges(t *testing.T, k *kernel.Kernel, before time.Duration, gauges ...[2]string) {
	t.Helper()
	const watched, slack = time.Second, 0.3 // the guest may be slow between reading and looking at the clock
	age := func(r reading, gauge [2]string) float64 { return r.samples[gauge[0]+"_oldest_seconds "+gauge[1]].Value }
	at := guesttest.Monotonic(t)
	first := read(t, k)
	time.Sleep(watched)
	passed := (guesttest.Monotonic(t) - at).Seconds()
	second := read(t, k)
	for _, gauge := range gauges {
		from, to := age(first, gauge), age(second, gauge)
		if grown := to - from; from <= 0 || grown < passed-slack || grown > passed+slack {
			t.Errorf("the oldest of %s went from %v s to %v s in %v s", gauge, from, to, passed)
		}
		if most := (guesttest.Monotonic(t) - before).Seconds(); to > most {
			t.Errorf("the oldest of %s is %v s old, and began at most %v s ago", gauge, to, most)
		}
	}
}

// A server that does not answer is seen while calls wait for it: how many, and for how long. When it answers again, nothing is under way, and the
// calls are in the histogram.
func TestNFSInFlight(t *testing.T) {
	const readers = 3
	guesttest.ServeNFS(t)
	nfsOn(t)
	for _, version := range []string{"3", "4.1"} {
		t.Run(version, func(t *testing.T) {
			dir := guesttest.MountNFS(t, version, "plain")
			path := filepath.Join(dir, "in-flight")
			guesttest.Succeed(t, func() error { return os.WriteFile(path, make([]byte, 1<<20), 0o600) })
			k := open(t, "", kernel.SourceConfig{Name: "nfs"}, kernel.SourceConfig{Name: "nfs_rpc"})
			if s, ok := read(t, k).samples["nfs_inflight fsync"]; !ok || s.Value != 0 {
				t.Errorf("nfs_inflight{fsync} is there: %v, of %v, want 0 from the beginning", ok, s.Value)
			}
			disks := make([]int, readers)
			for i := range disks {
				disks[i] = guesttest.OpenDirect(t, path)
			}
			victim := startReader(t, path)
			awaitInFlight(t, k, "nfs_inflight", "open", 0)
			histogram := read(t, k)

			guesttest.Succeed(t, func() error { return guest.DropPackets("lo") })
			begun := guesttest.Monotonic(t)
			var all sync.WaitGroup
			for i := range readers {
				page := guesttest.Page(t)
				all.Go(func() {
					if _, err := unix.Pread(disks[i], page, int64(i)<<16); err != nil {
						t.Error(err)
					}
				})
			}
			awaitInFlight(t, k, "nfs_inflight", "read", readers)
			awaitInFlight(t, k, "nfs_rpc_inflight", "read", readers)
			checkAges(t, k, begun, [2]string{"nfs_inflight", "read"}, [2]string{"nfs_rpc_inflight", "read"})
			victim.read()
			awaitInFlight(t, k, "nfs_inflight", "read", readers+1)
			victim.kill()
			awaitInFlight(t, k, "nfs_inflight", "read", readers)

			guesttest.Succeed(t, func() error { return guest.RemoveDelay("lo") })
			all.Wait()
			took := guesttest.Monotonic(t) - begun
			r := awaitInFlight(t, k, "nfs_inflight", "read", 0)
			if age := r.samples["nfs_inflight_oldest_seconds read"].Value; age != 0 {
				t.Errorf("the oldest of none is %v s old", age)
			}
			r = awaitInFlight(t, k, "nfs_rpc_inflight", "read", 0)
			if age := r.samples["nfs_rpc_inflight_oldest_seconds read"].Value; age != 0 {
				t.Errorf("the oldest call of none is %v s old", age)
			}
			got := r.since(histogram, "nfs_latency_seconds read")
			if n, lost := events(got), r.lost-histogram.lost; n > readers+1 || n+lost < readers+1 {
				t.Errorf("counted %d reads, did %d", n, readers+1)
			}
			if n := between(got, time.Second, 2*took); n < readers {
				t.Errorf("%d of %d reads took between 1 s and %v: %d", n, readers, took, got.Counts)
			}
		})
	}
}

// readerOf is the environment variable that makes this program read a file once, when its input ends.
const readerOf = "LATPUSH_TEST_READER_OF"

// readOnce is what the other process does.
func readOnce(path string) {
	disk, err := unix.Open(path, unix.O_RDONLY|unix.O_DIRECT, 0)
	if err == nil {
		fmt.Println("opened")
		_, _ = io.Copy(io.Discard, os.Stdin)
		var page []byte
		if page, err = unix.Mmap(-1, 0, 4096, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE); err == nil {
			_, err = unix.Pread(disk, page, 0)
		}
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

// reader is another process that has a file open.
type reader struct {
	t       *testing.T
	command *exec.Cmd
	input   io.Closer
}

func startReader(t *testing.T, path string) *reader {
	t.Helper()
	r := &reader{t: t, command: exec.Command("/proc/self/exe")}
	r.command.Env = append(os.Environ(), readerOf+"="+path)
	r.command.Stderr = os.Stderr
	input, err := r.command.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	output, err := r.command.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	guesttest.Succeed(t, r.command.Start)
	t.Cleanup(func() { _ = r.command.Process.Kill() })
	if line, err := bufio.NewReader(output).ReadString('\n'); line != "opened\n" {
		t.Fatalf("the other process says %q: %v", line, err)
	}
	r.input = input
	return r
}

// read lets it read.
func (r *reader) read() {
	r.t.Helper()
	guesttest.Succeed(r.t, r.input.Close)
}

// kill kills it while it reads.
func (r *reader) kill() {
	r.t.Helper()
	guesttest.Succeed(r.t, func() error { return r.command.Process.Signal(unix.SIGKILL) })
	if err := r.command.Wait(); err == nil || r.command.ProcessState.ExitCode() != -1 {
		r.t.Errorf("the other process was not killed but ended: %v", r.command.ProcessState)
	}
}

// Requests are under way at the device from issue to completion, and before that in the queue. A request that is merged into another one in the
// queue is under way no longer. Schedulers let fewer writes than reads become requests, so it reads.
func TestBlockInFlight(t *testing.T) {
	const completion = 3 * time.Second
	device := slowQueue(t, completion)
	k := open(t, "", kernel.SourceConfig{Name: "block"})
	disk, name := guesttest.OpenDirect(t, device.Path), device.Name
	begun := guesttest.Monotonic(t)
	var all sync.WaitGroup
	submit := func(offset int64) {
		page := guesttest.Page(t)
		all.Go(func() {
			if _, err := unix.Pread(disk, page, offset); err != nil {
				t.Error(err)
			}
		})
	}
	submit(1 << 30) // occupies the device
	awaitInFlight(t, k, "block_io_inflight", name+" read", 1)
	submit(1 << 29) // has left the scheduler and waits for the device, which is in the queue as well
	awaitInFlight(t, k, "block_io_queued", name+" read", 1)
	submit(0)
	awaitInFlight(t, k, "block_io_queued", name+" read", 2)
	submit(8192)
	awaitInFlight(t, k, "block_io_queued", name+" read", 3)
	submit(4096) // fills the gap: three become one
	awaitInFlight(t, k, "block_io_queued", name+" read", 2)
	checkAges(t, k, begun, [2]string{"block_io_inflight", name + " read"}, [2]string{"block_io_queued", name + " read"})
	if n := read(t, k).samples["block_io_inflight "+name+" read"].Value; n != 1 {
		t.Errorf("%v requests are at the device, which takes one", n)
	}
	all.Wait()
	r := awaitInFlight(t, k, "block_io_inflight", name+" read", 0)
	for _, gauge := range []string{"block_io_inflight_oldest_seconds", "block_io_queued", "block_io_queued_oldest_seconds"} {
		if s, ok := r.samples[gauge+" "+name+" read"]; !ok || s.Value != 0 {
			t.Errorf("%s is there: %v, of %v, want 0", gauge, ok, s.Value)
		}
	}
	if n := events(r.samples["block_io_latency_seconds "+name+" read"]); n != 3 {
		t.Errorf("%d requests completed, want 3", n)
	}
}
