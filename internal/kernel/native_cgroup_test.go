package kernel

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// The variables that tell the child of TestCgroups below which folder it makes control groups, and which, with how many calls in each.
const (
	groupsEnvironment = "LATPUSH_TEST_GROUPS"
	callsEnvironment  = "LATPUSH_TEST_CALLS"
)

// cgroupFolder returns a folder of the hierarchy that the label cgroup is of.
func cgroupFolder(t *testing.T) string {
	t.Helper()
	root := "/sys/fs/cgroup/cpu"
	if newEnvironment(&Options{}).cgroupController() == noController {
		root = t.TempDir()
		if err := unix.Mount("none", root, "cgroup2", 0, ""); err != nil {
			t.Fatal("mount cgroup2:", err)
		}
		t.Cleanup(func() {
			if err := unix.Unmount(root, unix.MNT_DETACH); err != nil {
				t.Error(err)
			}
		})
	}
	folder := filepath.Join(root, "latpush-"+strconv.Itoa(os.Getpid()))
	if err := os.Mkdir(folder, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { removeCgroup(t, folder) })
	return folder
}

// group is a control group and what is done in it.
type group struct {
	path  string // below the folder
	calls int    // of getsid
}

// runInGroups makes groups, calls getsid in one after the other, and removes each before it makes the next.
func runInGroups(t *testing.T, folder string, groups ...group) {
	t.Helper()
	var calls strings.Builder
	for _, g := range groups {
		fmt.Fprintf(&calls, "%s %d\n", g.path, g.calls)
	}
	file := filepath.Join(t.TempDir(), "calls")
	if err := os.WriteFile(file, []byte(calls.String()), 0o644); err != nil {
		t.Fatal(err)
	}
	command := exec.Command("/proc/self/exe")
	command.Env = append(os.Environ(), childEnvironment+"=groups", groupsEnvironment+"="+folder, callsEnvironment+"="+file)
	if out, err := command.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
}

// callInGroups is the child's part.
func callInGroups() error {
	folder, self := os.Getenv(groupsEnvironment), []byte(strconv.Itoa(os.Getpid()))
	calls, err := os.ReadFile(os.Getenv(callsEnvironment))
	if err != nil {
		return err
	}
	runtime.LockOSThread()
	for line := range strings.Lines(string(calls)) {
		path, number, _ := strings.Cut(strings.TrimSpace(line), " ")
		times, err := strconv.Atoi(number)
		if err != nil {
			return err
		}
		directory := filepath.Join(folder, path)
		if err := os.MkdirAll(directory, 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(directory, "cgroup.procs"), self, 0); err != nil {
			return err
		}
		for range times {
			_, _ = unix.Getsid(0)
		}
		if err := os.WriteFile(filepath.Join(folder, "cgroup.procs"), self, 0); err != nil {
			return err
		}
		for ; directory != folder; directory = filepath.Dir(directory) {
			if err := os.Remove(directory); err != nil {
				return err
			}
		}
	}
	// The folder itself goes with the test, once this process has left it.
	return os.WriteFile(filepath.Join(filepath.Dir(folder), "cgroup.procs"), self, 0)
}

// calledIn returns how many calls were counted by the value of the label cgroup.
func calledIn(t *testing.T, k *Kernel) map[string]uint64 {
	t.Helper()
	samples, losses, err := k.Read()
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range losses {
		if l.Events != 0 && !canSkip(t, l.Reason) {
			t.Errorf("source %s lost %d events: %s", l.Source, l.Events, l.Reason)
		}
	}
	calls := map[string]uint64{}
	for _, s := range samples {
		if s.Metric.Name == "syscall_latency_seconds" {
			calls[s.Values[1]] = events(s)
		}
	}
	return calls
}

// What is done in control groups is counted under their names, exactly, although they are gone when the maps are read.
func TestCgroupsAreCountedExactly(t *testing.T) {
	container := strings.Repeat("0123456789abcdef", 4)
	deep := strings.Repeat(strings.Repeat("d", 250)+"/", 8)
	for _, how := range []string{TpBTF, RawTracepoint, Tracepoint} {
		t.Run(how, func(t *testing.T) {
			folder := cgroupFolder(t)
			k := open(t, how, SourceConfig{Name: "syscalls", Allow: []string{"getsid"}, Labels: []string{labelCgroup}})
			runInGroups(t, folder,
				group{"nginx.service", 1000}, group{"system.slice/docker-" + container + ".scope/init", 77}, group{"plain", 5},
				group{"nginx.service", 11}, group{deep + "bottom", 3}, group{"far.service/" + deep + "bottom", 2}, group{"odd\xff\x01name", 1})
			calls := calledIn(t, k)
			skipped := skippedBy(t, k.sources[0].loaded)
			if how == Tracepoint { // its programs know nothing of groups
				if len(calls) != 1 || calls[other] > 1099 || calls[other]+skipped < 1099 {
					t.Errorf("counted %v, want 1099 in %s alone", calls, other)
				}
				return
			}
			for name, want := range map[string]uint64{
				"nginx.service": 1011, "docker:0123456789ab": 77, "/" + filepath.Base(folder) + "/plain": 5, "far.service": 2,
				"/" + filepath.Base(folder) + "/odd\ufffd\x01name": 1,
			} {
				if calls[name] > want || calls[name]+skipped < want {
					t.Errorf("counted %d calls in %q, want %d, of which the kernel skipped %d", calls[name], name, want, skipped)
				}
			}
			var long uint64
			for name, n := range calls {
				if len(name) > maxLabelValue {
					t.Errorf("label value of %d bytes: %q", len(name), name)
				}
				if strings.HasPrefix(name, "/"+filepath.Base(folder)+"/ddd") {
					long += n
				}
			}
			if long > 3 || long+skipped < 3 || calls[other] != 0 {
				t.Errorf("counted %d calls in the deep group, want 3, and %d in %s: %v", long, calls[other], other, calls)
			}
		})
	}
}

// A label set that counts nothing leaves the map, its series ends, and its counts go on when it is back, in another group of the same name.
func TestLabelSetsExpire(t *testing.T) {
	folder := cgroupFolder(t)
	expire := Duration(time.Millisecond)
	k := open(t, "", SourceConfig{Name: "syscalls", Allow: []string{"getsid"}, Labels: []string{labelCgroup}, LabelSetsExpire: &expire})
	runInGroups(t, folder, group{"a.service", 10}, group{"b.service", 20})
	if calls := calledIn(t, k); calls["a.service"] != 10 || calls["b.service"] != 20 {
		t.Errorf("counted %v", calls)
	}
	time.Sleep(2 * time.Millisecond)
	if calls := calledIn(t, k); len(calls) != 0 {
		t.Errorf("label sets that have counted nothing are still there: %v", calls)
	}
	for range 2 {
		calledIn(t, k)
	}
	if held := heldIn(t, k, "syscall_latency_by_cgroup") + heldIn(t, k, cgroupPathsMap); held != 1 {
		t.Errorf("%d label sets and paths are in their maps, want that of %s alone", held, other)
	}
	runInGroups(t, folder, group{"b.service", 3})
	if calls := calledIn(t, k); len(calls) != 1 || calls["b.service"] != 23 {
		t.Errorf("counted %v, want 23 in b.service alone", calls)
	}
}

// Of many groups that come and go, every call is counted, and nothing grows with them.
func TestCgroupsComeAndGo(t *testing.T) {
	const many, sets, rounds, each = 10_000, 64, 10, 3
	folder := cgroupFolder(t)
	expire := Duration(time.Millisecond)
	k := open(t, "", SourceConfig{
		Name: "syscalls", Allow: []string{"getsid"}, Labels: []string{labelCgroup}, MaxLabelSets: sets, LabelSetsExpire: &expire,
	})
	total := func() (n uint64) {
		for _, calls := range calledIn(t, k) {
			n += calls
		}
		return n
	}
	var heap []uint64
	var seen uint64
	for round := range rounds {
		groups := make([]group, many/rounds)
		for i := range groups {
			groups[i] = group{fmt.Sprintf("job-%d-%d.service", round, i), each}
		}
		runInGroups(t, folder, groups...)
		// What has left is in no sample: of this round, what is in the map and what had no place there.
		calls := calledIn(t, k)
		if len(calls) > sets+1 {
			t.Errorf("%d label sets, want at most %d", len(calls), sets+1)
		}
		var now uint64
		for _, n := range calls {
			now += n
		}
		skipped := skippedBy(t, k.sources[0].loaded)
		if want := uint64((round*(many/rounds-sets) + many/rounds) * each); now > want || now+skipped < want {
			t.Errorf("counted %d calls in round %d, want %d, of which the kernel skipped %d", now, round, want, skipped)
		}
		seen = now
		time.Sleep(2 * time.Millisecond)
		for range 3 { // the label sets leave, then their paths
			total()
		}
		var memory runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&memory)
		heap = append(heap, memory.HeapAlloc)
	}
	t.Logf("counted %d calls; heap after each round: %d", seen, heap)
	if grown := int64(heap[rounds-1]) - int64(heap[1]); grown > 256<<10 {
		t.Errorf("the heap has grown by %d bytes: %d", grown, heap)
	}
	if kept := heldIn(t, k, "syscall_latency_by_cgroup"+keptSuffix); kept > 2*sets+1 {
		t.Errorf("%d label sets are kept", kept)
	}
	// The first one was forgotten, and begins a new series; the last one was not. A program that is preempted misses events, in some kernels.
	const again = 20
	_, lostBefore := sampleAndSkipped(t, k, "syscall_latency_seconds")
	runInGroups(t, folder, group{"job-0-0.service", again}, group{fmt.Sprintf("job-%d-0.service", rounds-1), again})
	samples, losses, err := k.Read() // once: the next reading comes too late for them
	if err != nil {
		t.Fatal(err)
	}
	lost := -lostBefore
	for _, l := range losses {
		lost += l.Events
	}
	byGroup := map[string]Sample{}
	for _, s := range samples {
		byGroup[s.Values[1]] = s
	}
	first, last := byGroup["job-0-0.service"], byGroup[fmt.Sprintf("job-%d-0.service", rounds-1)]
	for what, counts := range map[string]struct{ got, want uint64 }{"first": {events(first), again}, "last": {events(last), each + again}} {
		if counts.got > counts.want || counts.got+lost < counts.want {
			t.Errorf("counted %d calls in the %s group, want %d (%d lost)", counts.got, what, counts.want, lost)
		}
	}
	if first.Start == 0 || first.Start < last.Start {
		t.Errorf("the first group counts since %v, the last one since %v", first.Start, last.Start)
	}
}
