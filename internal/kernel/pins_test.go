package kernel

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// Status travels from a test's child process to it; errors do not.
func (h *HookStatus) UnmarshalJSON(text []byte) error {
	var plain struct{ Name, How string }
	err := json.Unmarshal(text, &plain)
	h.Name, h.How = plain.Name, plain.How
	return err
}

// What was counted while an agent ran and after it was killed goes on as if it had never ended.
func TestKilledAgentIsTakenOver(t *testing.T) {
	path := bpffs(t)
	configs := []SourceConfig{getsid().config(), {Name: "softirq"}, {Name: "runqueue"}, {Name: "reclaim"}}
	child := pinnedLife{Path: path, Configs: configs}.start(t)
	getsid().do(3)
	if !child.kill() {
		t.Fatal("the process ended by itself")
	}
	getsid().do(4)
	k := openPinned(t, path, configs...)
	getsid().do(5)
	getsid().counted(t, k, 12)
	for i, s := range k.Sources() {
		if before := child.sources[i]; s.Loaded != before.Loaded || s.Loaded == 0 || s.Detached[ReasonRestart] != 0 {
			t.Errorf("source %s is loaded since %v and was detached for %v, want %v and 0", s.Source, s.Loaded, s.Detached, before.Loaded)
		}
		wantOnce(t, k.sources[i].loaded)
	}
	closeUnpinned(t, k, path)
}

// A call that was under way when the agent was killed is timed to its end.
func TestCallUnderWayIsTakenOver(t *testing.T) {
	path := bpffs(t)
	config := SourceConfig{Name: "syscalls", Allow: []string{"rt_sigtimedwait"}}
	child := pinnedLife{Path: path, Configs: []SourceConfig{config}}.start(t)
	end := waitedFor(time.Second)
	child.kill()
	k := openPinned(t, path, config)
	end()
	if got := sample(t, k, "syscall_latency_seconds", "rt_sigtimedwait"); events(got) != 1 || got.SumNanoseconds < uint64(time.Second) {
		t.Errorf("counted %d calls of %v, want 1 of a second", events(got), time.Duration(got.SumNanoseconds))
	}
	closeUnpinned(t, k, path)
}

// loseLinks makes of pinned hooks what a kernel leaves that cannot pin their links.
func loseLinks(t *testing.T, path string) {
	t.Helper()
	root := &pinPath{path: path}
	for _, pattern := range []string{"program-*", "link-*"} {
		files, err := filepath.Glob(filepath.Join(path, "*", "*", "hooks", "*", "*", pattern))
		if err != nil || len(files) == 0 {
			t.Fatalf("no %s is pinned (%v)", pattern, err)
		}
		for _, file := range files {
			root.leave(file)
			if err := os.Remove(file); err != nil {
				t.Fatal(err)
			}
		}
	}
	root.settle()
}

// Where links cannot be pinned, the counts survive, the time without programs is counted, and a call that began before it is not timed.
func TestLostLinks(t *testing.T) {
	path := bpffs(t)
	configs := []SourceConfig{{Name: "syscalls", Allow: []string{"rt_sigtimedwait", "getsid"}}, {Name: "softirq"}}
	child := pinnedLife{Path: path, Configs: configs}.start(t)
	getsid().do(3)
	end := waitedFor(700 * time.Millisecond)
	child.kill()
	loseLinks(t, path)
	begin := time.Now()
	time.Sleep(300 * time.Millisecond)
	k := openPinned(t, path, configs...)
	least := 300 * time.Millisecond
	end()
	getsid().do(4)
	getsid().counted(t, k, 7)
	if got := sample(t, k, "syscall_latency_seconds", "rt_sigtimedwait"); events(got) != 0 {
		t.Errorf("a call of which the beginning was not seen took %v", time.Duration(got.SumNanoseconds))
	}
	for i, s := range k.Sources() {
		if got := s.Detached[ReasonRestart]; s.Loaded != child.sources[i].Loaded || got < least || got > time.Since(begin)+10*time.Second {
			t.Errorf("source %s is loaded since %v and was detached for %v, want %v and at least %v", s.Source, s.Loaded, got, child.sources[i].Loaded, least)
		}
		wantOnce(t, k.sources[i].loaded)
	}
	closeUnpinned(t, k, path)
}

// A source that was detached for its cost when the agent was killed goes on with its counts, and is attached by the next one: it may have become cheap.
func TestKilledWhileDetached(t *testing.T) {
	for name, labels := range map[string][]string{"plain": nil, "cgroup": {labelCgroup}} {
		t.Run(name, func(t *testing.T) {
			path, folder := bpffs(t), cgroupFolder(t)
			config := getsid().config()
			config.Labels = labels
			runAndKill(t, path, config)
			runInGroups(t, folder, group{"a.service", 3})
			child := pinnedLife{Path: path, Configs: []SourceConfig{config}, Detach: true}.start(t)
			runInGroups(t, folder, group{"a.service", 100})
			child.kill()
			const gap = 100 * time.Millisecond
			time.Sleep(gap)
			k := openPinned(t, path, config)
			runInGroups(t, folder, group{"a.service", 4})
			samples, _, err := k.Read()
			if err != nil {
				t.Fatal(err)
			}
			for _, s := range samples {
				if n := events(s); s.Metric.Kind == KindHistogram && n != 7 {
					t.Errorf("%v: counted %d calls, want the 3 before the programs were detached and the 4 after", s.Values, n)
				}
			}
			if len(samples) != 1 {
				t.Errorf("%d samples, want 1", len(samples))
			}
			s := k.Sources()[0]
			if s.Loaded != child.sources[0].Loaded || !s.Attached() || s.Detached[ReasonBudget] == 0 || s.Detached[ReasonRestart] < gap {
				t.Errorf("the source is loaded since %v and was detached for %v", s.Loaded, s.Detached)
			}
			wantOnce(t, k.sources[0].loaded)
			closeUnpinned(t, k, path)
		})
	}
}

// What the kernel said about programs that are gone, and what was measured, is not forgotten with them.
func TestWhatIsKnownOfLostProgramsIsKept(t *testing.T) {
	path := bpffs(t)
	runAndKill(t, path, getsid().config())
	first := openPinned(t, path, getsid().config())
	s := first.sources[0].loaded
	s.state.Recursion, s.state.Missed, s.state.CPU, s.state.Away = 7, 9, 5e9, 3e9
	if err := s.saveState(); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(s.pins.closeState(), first.pins.close()); err != nil { // as if it were killed
		t.Fatal(err)
	}
	loseLinks(t, path)
	k := openPinned(t, path, getsid().config())
	_, losses, err := k.Read()
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range losses {
		if want := map[string]uint64{reasonRecursion: 7, reasonMissed: 9}[l.Reason]; l.Events < want || l.Events > want+20 {
			t.Errorf("%d events lost by %s, want %d", l.Events, l.Reason, want)
		}
	}
	if got := k.Sources()[0]; got.Cost.Seconds < 5 || got.Cost.Seconds > 6 || got.Detached[ReasonBudget] != 3*time.Second {
		t.Errorf("the programs have cost %v s and were detached for %v, want 5 s and 3 s at least", got.Cost.Seconds, got.Detached[ReasonBudget])
	}
	first.mu.Lock() // it looks for modules
	first.sources, first.pins = nil, nil
	first.mu.Unlock()
	if err := errors.Join(k.Close(), s.removeHooks()); err != nil {
		t.Error(err)
	}
}

// A hook that was not attached when the agent was killed, as one whose module came later, is attached beside those that are taken over.
func TestLateHookJoinsTheOthers(t *testing.T) {
	path := bpffs(t)
	before := runAndKill(t, path, SourceConfig{Name: "reclaim"})
	hooks, err := filepath.Glob(filepath.Join(path, "reclaim", "*", "hooks", "compaction"))
	if err != nil || len(hooks) != 1 {
		t.Fatalf("hooks %v, %v", hooks, err)
	}
	if err := os.RemoveAll(hooks[0]); err != nil {
		t.Fatal(err)
	}
	k := openPinned(t, path, SourceConfig{Name: "reclaim"})
	if s := k.Sources()[0]; s.Loaded != before[0].Loaded || s.Detached[ReasonRestart] != 0 {
		t.Errorf("the source is loaded since %v and was detached for %v, want %v and 0", s.Loaded, s.Detached, before[0].Loaded)
	}
	closeUnpinned(t, k, path)
}

// Another layout begins anew and removes the old pins.
func TestChangedSourceBeginsAnew(t *testing.T) {
	call := getsid()
	for name, changed := range map[string]SourceConfig{
		"allow list": {Name: "syscalls", Allow: []string{"getsid", "getpgid"}},
		"bounds":     {Name: "syscalls", Allow: []string{"getsid"}, Buckets: &BucketsConfig{Exp2: &Exp2Config{Min: 1000, Count: 26}}},
	} {
		t.Run(name, func(t *testing.T) {
			path := bpffs(t)
			before := runAndKill(t, path, call.config())
			call.do(3)
			old := pinnedBelow(t, path)
			k := openPinned(t, path, changed)
			call.do(2)
			call.counted(t, k, 2)
			if s := k.Sources()[0]; s.Loaded <= before[0].Loaded {
				t.Errorf("loaded since %v, the old one was since %v", s.Loaded, before[0].Loaded)
			}
			for _, file := range pinnedBelow(t, path) {
				if slices.Contains(old, file) && file != "syscalls" {
					t.Errorf("%s is left", file)
				}
			}
			wantOnce(t, k.sources[0].loaded)
			closeUnpinned(t, k, path)
		})
	}
}

func TestFingerprint(t *testing.T) {
	fingerprint := func(config SourceConfig, ways ...string) string {
		description, _ := findSource(config.Name)
		o := &Options{Ways: ways}
		s := &loadedSource{source: description, config: config, options: o, environment: newEnvironment(o)}
		if err := s.prepare(); err != nil {
			t.Fatal(err)
		}
		got, err := s.fingerprint()
		if err != nil || !isFingerprint(got) {
			t.Fatalf("fingerprint %q, %v", got, err)
		}
		return got
	}
	block := SourceConfig{Name: "block"}
	base := fingerprint(block)
	for name, config := range map[string]SourceConfig{
		"the same": block, "another form": {Name: "block", Histogram: Custom}, "written out": {Name: "block", MaxLabelSets: defaultMaxLabelSets},
	} {
		if got := fingerprint(config); got != base {
			t.Errorf("%s: fingerprint %s, want %s", name, got, base)
		}
	}
	seen := map[string]string{base: "block"}
	for name, got := range map[string]string{
		"other bounds":     fingerprint(SourceConfig{Name: "block", Buckets: &BucketsConfig{Bounds: []Duration{1000}}}),
		"other sizes":      fingerprint(SourceConfig{Name: "block", MaxLabelSets: 7}),
		"other ways":       fingerprint(block, RawTracepoint),
		"other source":     fingerprint(SourceConfig{Name: "hardirq"}),
		"all file systems": fingerprint(SourceConfig{Name: "filesystem"}),
		"one file system":  fingerprint(SourceConfig{Name: "filesystem", FileSystems: []string{"xfs"}}),
	} {
		if other, twice := seen[got]; twice {
			t.Errorf("%s has the fingerprint of %s", name, other)
		}
		seen[got] = name
	}
}

func TestSourcesThatAreNotConfiguredAreRemoved(t *testing.T) {
	path := bpffs(t)
	runAndKill(t, path, getsid().config(), SourceConfig{Name: "softirq"})
	foreign := filepath.Join(path, "mine", "not latpush")
	if err := os.MkdirAll(foreign, 0o700); err != nil {
		t.Fatal(err)
	}
	k := openPinned(t, path, getsid().config())
	if _, err := os.Lstat(filepath.Join(path, "softirq")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("pins of softirq are left: %v", err)
	}
	if err := k.Reconfigure(t.Context(), []SourceConfig{{Name: "softirq"}}); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Lstat(filepath.Join(path, "syscalls")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("pins of syscalls are left: %v", err)
	}
	if !k.Sources()[0].Pinned {
		t.Error("a source that was added is not pinned")
	}
	if err := k.Close(); err != nil {
		t.Error(err)
	}
	if left := pinnedBelow(t, path); !reflect.DeepEqual(left, []string{"mine", "mine/not latpush"}) {
		t.Errorf("%v is left, want what is not ours", left)
	}
}

// Two agents with one pin path would take each other's programs away.
func TestSecondAgentIsRefused(t *testing.T) {
	path := bpffs(t)
	k := openPinned(t, path, getsid().config())
	before := pinnedBelow(t, path)
	_, err := Open(t.Context(), []SourceConfig{getsid().config(), {Name: "softirq"}}, Options{PinPath: path})
	if !errors.Is(err, ErrPinPathInUse) || !strings.Contains(err.Error(), path) {
		t.Errorf("the second one gets %v", err)
	}
	if _, _, err := Detach(path); !errors.Is(err, ErrPinPathInUse) {
		t.Errorf("detach gets %v", err)
	}
	if after := pinnedBelow(t, path); !slices.Equal(before, after) {
		t.Errorf("pins are %v, were %v", after, before)
	}
	getsid().do(2)
	getsid().counted(t, k, 2)
	closeUnpinned(t, k, path)
	again := openPinned(t, path, getsid().config())
	closeUnpinned(t, again, path)
}

func TestDetach(t *testing.T) {
	path := bpffs(t)
	if sources, _, err := Detach(path); len(sources) != 0 || err != nil {
		t.Errorf("without a directory: %v, %v", sources, err)
	}
	runAndKill(t, path, getsid().config(), SourceConfig{Name: "softirq"})
	sources, _, err := Detach(path)
	if !slices.Equal(sources, []string{"softirq", "syscalls"}) || err != nil {
		t.Errorf("removed %v, %v", sources, err)
	}
	if left := pinnedBelow(t, path); len(left) != 0 {
		t.Errorf("%v is left", left)
	}
	if sources, _, err := Detach(path); len(sources) != 0 || err != nil {
		t.Errorf("with nothing to remove: %v, %v", sources, err)
	}
}

// Where nothing can be pinned, sources run all the same, and say so.
func TestNothingCanBePinned(t *testing.T) {
	readOnly := bpffs(t)
	if err := unix.Mount("", filepath.Dir(readOnly), "", unix.MS_REMOUNT|unix.MS_RDONLY, ""); err != nil {
		t.Fatal(err)
	}
	for name, tt := range map[string]struct{ path, want string }{
		"no BPF file system": {filepath.Join(t.TempDir(), "a", "b"), "is not on a BPF file system (mount one: mount -t bpf bpf /sys/fs/bpf)"},
		"read-only":          {readOnly, "read-only file system"},
	} {
		t.Run(name, func(t *testing.T) {
			k, err := Open(t.Context(), []SourceConfig{getsid().config()}, Options{PinPath: tt.path})
			if err != nil {
				t.Fatal(err)
			}
			defer k.Close()
			s := k.Sources()[0]
			if s.Pinned || s.PinErr == nil || !strings.Contains(s.PinErr.Error(), tt.want) || !s.Attached() {
				t.Errorf("status %+v, want it attached and not pinned: %s", s, tt.want)
			}
			getsid().do(2)
			getsid().counted(t, k, 2)
			if _, err := os.Lstat(filepath.Dir(tt.path)); name != "read-only" && !errors.Is(err, os.ErrNotExist) {
				t.Errorf("the directory was made: %v", err)
			}
		})
	}
}
