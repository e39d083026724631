//go:build guest

package kerneltests

import (
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/latpush/latpush/internal/kernel"
	"github.com/latpush/latpush/internal/vm/guest"
	"github.com/latpush/latpush/internal/vm/guest/guesttest"
)

// cgroupRoot mounts the unified hierarchy for as long as the test.
func cgroupRoot(t *testing.T) string {
	t.Helper()
	root := t.TempDir()
	if err := unix.Mount("none", root, "cgroup2", 0, ""); err != nil {
		t.Fatal("mount cgroup2:", err)
	}
	t.Cleanup(func() { guesttest.Succeed(t, func() error { return guest.Unmount(root) }) })
	return root
}

// inCgroup runs f while this process is in a group below root, which it makes and removes again.
func inCgroup(t *testing.T, root, name string, f func()) {
	t.Helper()
	self := []byte(strconv.Itoa(os.Getpid()))
	directory := filepath.Join(root, name)
	if err := os.MkdirAll(directory, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(directory, "cgroup.procs"), self, 0); err != nil {
		t.Fatal(err)
	}
	f()
	if err := os.WriteFile(filepath.Join(root, "cgroup.procs"), self, 0); err != nil {
		t.Fatal(err)
	}
	for ; directory != root; directory = filepath.Dir(directory) {
		deadline := guesttest.Monotonic(t) + 10*time.Second
		for err := os.Remove(directory); err != nil; err = os.Remove(directory) {
			if guesttest.Monotonic(t) > deadline { // a child that has ended is a member for a moment still
				t.Fatal(err)
			}
			runtime.Gosched()
		}
	}
}

// group is a control group in which a test does something and which has counts of its own, or "" for no group and no such label.
type group string

// groups are the ways to count what waits itself.
func groups() []group { return []group{"", "app.service"} }

func (g group) String() string {
	if g == "" {
		return "plain"
	}
	return "cgroup"
}

func (g group) labels() []string {
	if g == "" {
		return nil
	}
	return []string{"cgroup"}
}

// do calls f, in the group if there is one.
func (g group) do(t *testing.T, f func()) {
	t.Helper()
	if g == "" {
		f()
		return
	}
	inCgroup(t, cgroupRoot(t), string(g), f)
}

// sample names one in a reading: it has these values of the other labels.
func (g group) sample(metric string, values ...string) string {
	if g != "" {
		values = append(values, string(g))
	}
	return metric + " " + strings.Join(values, " ")
}

// counted returns the events of one metric since an earlier reading, by the value of the label in one place of those whose other values are these.
func counted(after, before reading, metric string, place int, others ...string) map[string]uint64 {
	events := map[string]uint64{}
	for _, s := range after.samples {
		if s.Metric.Name != metric {
			continue
		}
		rest := append(append([]string{}, s.Values[:place]...), s.Values[place+1:]...)
		if strings.Join(rest, " ") != strings.Join(others, " ") {
			continue
		}
		n := between(after.since(before, metric+" "+strings.Join(s.Values, " ")), 0, 1<<62)
		if n > 0 {
			events[s.Values[place]] += n
		}
	}
	return events
}

// Every source with the label counts under the groups' names what is done in them, in every way of attaching, although the groups are gone by then.
func TestCgroupLabels(t *testing.T) {
	const calls = 100
	root := cgroupRoot(t)
	pod := "kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod0b8ac2ea_5f0e_4a6d_9f46_3d0f0bb6a1c7.slice/cri-containerd-" +
		strings.Repeat("ab", 32) + ".scope"
	names := map[string]string{"system.slice/nginx.service": "nginx.service", pod: "pod:0b8ac2ea-5f0e-4a6d-9f46-3d0f0bb6a1c7:abababababab"}
	for _, how := range []string{kernel.TpBTF, kernel.RawTracepoint} {
		t.Run(how, func(t *testing.T) {
			labels := []string{"cgroup"}
			k := open(t, how, kernel.SourceConfig{Name: "syscalls", Allow: []string{"getsid"}, Labels: labels},
				kernel.SourceConfig{Name: "runqueue", Labels: labels}, kernel.SourceConfig{Name: "offcpu", Labels: labels},
				kernel.SourceConfig{Name: "oncpu", Labels: labels})
			before := read(t, k)
			for path := range names {
				inCgroup(t, root, path, func() { sleepAndCall(calls) })
			}
			after := read(t, k)
			syscalls := counted(after, before, "syscall_latency_seconds", 1, "getsid")
			want := map[string]uint64{}
			for _, name := range names {
				want[name] = calls
			}
			if !maps.Equal(syscalls, want) && after.lost == before.lost {
				t.Errorf("counted calls in %v, want %v", syscalls, want)
			}
			for _, name := range names {
				// Each sleep is a switch away, a wait for a CPU and a switch back.
				for metric, got := range map[string]uint64{
					"run_queue_latency_seconds": counted(after, before, "run_queue_latency_seconds", 0)[name],
					"task_on_cpu_seconds":       counted(after, before, "task_on_cpu_seconds", 0)[name],
					"task_off_cpu_seconds":      counted(after, before, "task_off_cpu_seconds", 1, "voluntary")[name],
				} {
					if got+after.lost-before.lost < calls || got > 100*calls {
						t.Errorf("%s: counted %d in %s, want %d at least", metric, got, name, calls)
					}
				}
			}
		})
	}
}

// sleepAndCall makes one thread sleep and call getsid that often.
func sleepAndCall(times int) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // and never unlock: the thread ends
		for range times {
			request := unix.NsecToTimespec(int64(100 * time.Microsecond))
			_ = unix.ClockNanosleep(unix.CLOCK_MONOTONIC, 0, &request, nil)
			_, _ = unix.Getsid(0)
		}
	}()
	<-done
}

// What has counted nothing for a while leaves, in every kernel's way to take a key out of a map, and its counts go on when it is back.
func TestLabelSetsExpire(t *testing.T) {
	root, expire := cgroupRoot(t), kernel.Duration(time.Second)
	k := open(t, "", kernel.SourceConfig{Name: "syscalls", Allow: []string{"getsid"}, Labels: []string{"cgroup"}, LabelSetsExpire: &expire})
	for round := range uint64(3) {
		inCgroup(t, root, "a.service", func() { sleepAndCall(10) })
		now := read(t, k)
		if got := counted(now, reading{}, "syscall_latency_seconds", 1, "getsid")["a.service"]; got+now.lost < 10*(round+1) || got > 10*(round+1) {
			t.Errorf("counted %d in round %d, want %d", got, round, 10*(round+1))
		}
		for deadline := guesttest.Monotonic(t) + 10*time.Second; ; {
			if _, there := read(t, k).samples["syscall_latency_seconds getsid a.service"]; !there {
				break
			}
			if guesttest.Monotonic(t) > deadline {
				t.Fatal("the label set does not leave")
			}
			time.Sleep(100 * time.Millisecond)
		}
	}
}

// Two mounts of one file system of one server are told apart, and a mount that takes the place of another has counts of its own.
func TestNFSMountLabels(t *testing.T) {
	guesttest.ServeNFS(t)
	first, second := guesttest.MountNFS(t, "4.2", "first"), guesttest.MountNFS(t, "4.2", "second")
	for _, how := range []string{kernel.Fentry, kernel.Kprobe} {
		t.Run(how, func(t *testing.T) {
			if how == kernel.Fentry {
				needModuleBTF(t, "nfs")
			}
			root := cgroupRoot(t)
			k := open(t, how, kernel.SourceConfig{Name: "nfs", Labels: []string{"server", "mount", "cgroup"}})
			work := map[string]guest.Workload{
				first:  {Reads: 17, Splices: 2, Writes: 15, Opens: 11, Creates: 3, Getattrs: 13, Fsyncs: 4, Direct: true},
				second: {Reads: 5, Splices: 1, Writes: 3, Opens: 2, Creates: 1, Getattrs: 7, Fsyncs: 6, Direct: true},
			}
			for folder, w := range work {
				runner := guesttest.Prepare(t, w, folder)
				before := read(t, k)
				var did guest.Counts
				inCgroup(t, root, "db.service", func() {
					var err error
					if did, err = runner.Run(); err != nil {
						t.Fatal(err)
					}
				})
				after := read(t, k)
				for operation, want := range did.ByOperation() {
					got := counted(after, before, "nfs_latency_seconds", 2, operation, "db.service", "127.0.0.1")
					if n := got[folder]; n > want || n+after.lost-before.lost < want || len(got) != 1 {
						t.Errorf("%s: counted %v, did %d in %s", operation, got, want, folder)
					}
				}
			}
		})
	}
}
