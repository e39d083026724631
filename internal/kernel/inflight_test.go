package kernel

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/latpush/latpush/bpf/selftest"
)

// The operations of the test program.
const (
	deaf  = 0 // it does not sleep interruptibly
	alert = 1
)

// caller begins and ends calls of the threads it is used on.
type caller struct {
	t        testing.TB
	source   *loadedSource
	programs map[string]*ebpf.Program
}

// newCaller keeps calls in task storage, or in a hash.
func newCaller(t testing.TB, storage bool) *caller {
	t.Helper()
	spec, err := selftest.Load("in_flight")
	if err != nil {
		t.Fatal(err)
	}
	if err := chooseStorage(spec, "task_calls", "hash_calls", storage); err != nil {
		t.Fatal(err)
	}
	s := &loadedSource{
		source: source{name: "in_flight", inFlight: &inFlight{gauges: []gauge{{name: "probe_inflight"}, {name: "argument_inflight"}}}},
		spec:   spec, options: &Options{}, environment: newEnvironment(&Options{}),
	}
	if err := s.makeMaps(nil); err != nil {
		t.Fatal(err)
	}
	c := &caller{t: t, source: s}
	if s.openInFlight(); s.inFlightErr != nil {
		t.Fatal(errors.Join(s.inFlightErr, s.close()))
	}
	if c.programs, err = s.load([]string{"begin", "end", "begin_outermost", "end_outermost"}); err != nil {
		t.Fatal(errors.Join(err, s.close()))
	}
	t.Cleanup(func() {
		for _, program := range c.programs {
			_ = program.Close()
		}
		if err := s.close(); err != nil {
			t.Error(err)
		}
	})
	return c
}

// eachStorage runs a test with calls in task storage and with calls in a hash.
func eachStorage(t *testing.T, f func(*testing.T, *caller)) {
	t.Helper()
	for name, storage := range map[string]bool{"task storage": true, "hash": false} {
		t.Run(name, func(t *testing.T) {
			if storage && lacksTaskStorage(t) {
				t.Skip("programs cannot keep data with tasks before 5.12, nor from 6.19 on where the processor has no cmpxchg16b")
			}
			f(t, newCaller(t, storage))
		})
	}
}

// lacksTaskStorage returns whether this kernel and this processor can have no task storage that works.
func lacksTaskStorage(t *testing.T) bool {
	t.Helper()
	release, err := os.ReadFile("/proc/sys/kernel/osrelease")
	if err != nil {
		t.Fatal(err)
	}
	var major, minor int
	if _, err := fmt.Sscanf(string(release), "%d.%d", &major, &minor); err != nil {
		t.Fatalf("read kernel release %q: %v", release, err)
	}
	processor, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		t.Fatal(err)
	}
	return major < 5 || major == 5 && minor < 12 ||
		runtime.GOARCH == "amd64" && !strings.Contains(string(processor), " cx16 ") && !newEnvironment(&Options{}).taskStorage()
}

// begin begins a call of this thread, with an argument of up to eight letters.
func (c *caller) begin(operation uint64, argument string) {
	var letters [8]byte
	copy(letters[:], argument)
	c.run("begin", operation, binary.NativeEndian.Uint64(letters[:]))
}

// end ends a call of this thread.
func (c *caller) end(operation uint64) { c.run("end", operation, 0) }

func (c *caller) run(program string, arguments ...uint64) {
	c.t.Helper()
	if _, err := c.programs[program].Run(&ebpf.RunOptions{Context: [2]uint64(arguments)}); err != nil {
		c.t.Error(err)
	}
}

// read returns the gauges, by name and label value.
func (c *caller) read() map[string]float64 {
	c.t.Helper()
	samples, err := c.source.inFlight.appendTo(nil)
	if err != nil {
		c.t.Fatal(err)
	}
	gauges := map[string]float64{}
	for _, s := range samples {
		name := s.Metric.Name + " " + strings.Join(s.Values, " ")
		if _, twice := gauges[name]; twice || s.Metric.Kind != KindGauge {
			c.t.Errorf("sample %s is there twice: %v; it is of kind %v", name, twice, s.Metric.Kind)
		}
		gauges[name] = s.Value
	}
	return gauges
}

// expect demands a number of operations, and an age of 0 if it is 0.
func (c *caller) expect(gauges map[string]float64, name, label string, want float64) {
	c.t.Helper()
	n, there := gauges[name+" "+label]
	age := gauges[name+"_oldest_seconds "+label]
	if !there || n != want || (age > 0) != (want > 0) {
		c.t.Errorf("%s{%s} is there: %v, and says %v, the oldest %v s old, want %v", name, label, there, n, age, want)
	}
}

// inThreads has n threads do something at once, and then wait until the returned function lets them do something else and end.
func inThreads(n int, first, last func()) (finish func()) {
	var begun, ended sync.WaitGroup
	release := make(chan struct{})
	begun.Add(n)
	for range n {
		ended.Go(func() {
			runtime.LockOSThread() // and never unlock: the thread dies with the goroutine
			first()
			begun.Done()
			<-release
			last()
		})
	}
	begun.Wait()
	return func() {
		close(release)
		ended.Wait()
	}
}

// Calls under way are counted by operation, and the oldest one says how long it has been under way.
func TestInFlightIsCounted(t *testing.T) {
	eachStorage(t, func(t *testing.T, c *caller) {
		c.expect(c.read(), "probe_inflight", "deaf", 0)
		c.expect(c.read(), "probe_inflight", "alert", 0)
		before := time.Now()
		one := inThreads(1, func() { c.begin(deaf, "a") }, func() { c.end(deaf) })
		begun := time.Now()
		time.Sleep(50 * time.Millisecond)
		three := inThreads(3, func() { c.begin(deaf, "b"); c.begin(alert, "b") }, func() { c.end(alert); c.end(deaf) })
		earliest := time.Since(begun)
		gauges := c.read()
		latest := time.Since(before)
		c.expect(gauges, "probe_inflight", "deaf", 4)
		c.expect(gauges, "probe_inflight", "alert", 3)
		if age := gauges["probe_inflight_oldest_seconds deaf"]; age < earliest.Seconds() || age > latest.Seconds() {
			t.Errorf("the oldest call is %v s old, want between %v and %v", age, earliest, latest)
		}
		if age := gauges["probe_inflight_oldest_seconds alert"]; age > (latest - 50*time.Millisecond).Seconds() {
			t.Errorf("the oldest call of another operation is %v s old, as old as one that is not of it", age)
		}
		one()
		c.expect(c.read(), "probe_inflight", "deaf", 3)
		three()
		c.expect(c.read(), "probe_inflight", "deaf", 0)
		c.expect(c.read(), "probe_inflight", "alert", 0)
	})
}

// Label sets of an open list appear when they are first seen, stay, and are bounded.
func TestInFlightLabelSets(t *testing.T) {
	eachStorage(t, func(t *testing.T, c *caller) {
		if gauges := c.read(); len(gauges) != 4 {
			t.Errorf("at the beginning there are %v", gauges)
		}
		finish := inThreads(1, func() { c.begin(deaf, "a"); c.begin(alert, "b") }, func() { c.end(deaf); c.end(alert) })
		gauges := c.read()
		c.expect(gauges, "argument_inflight", "a", 1)
		c.expect(gauges, "argument_inflight", "b", 1)
		if _, there := gauges["argument_inflight other"]; there {
			t.Error("other is there before it is used")
		}
		more := inThreads(2, func() { c.begin(deaf, "c") }, func() { c.end(deaf) })
		c.expect(c.read(), "argument_inflight", "other", 2)
		finish()
		more()
		gauges = c.read()
		for _, label := range []string{"a", "b", "other"} {
			c.expect(gauges, "argument_inflight", label, 0)
		}
	})
}

// Label sets in a map that was there before are known from the beginning, with nothing under way of what a predecessor has counted.
func TestInFlightLabelSetsStay(t *testing.T) {
	eachStorage(t, func(t *testing.T, c *caller) {
		finish := inThreads(1, func() { c.begin(alert, "a") }, func() { c.end(alert) })
		c.expect(c.read(), "argument_inflight", "a", 1)
		finish()
		if err := c.source.closeInFlight(); err != nil {
			t.Fatal(err)
		}
		if c.source.openInFlight(); c.source.inFlightErr != nil {
			t.Fatal(c.source.inFlightErr)
		}
		gauges := c.read()
		c.expect(gauges, "argument_inflight", "a", 0)
		c.expect(gauges, "probe_inflight", "alert", 0)
		if _, there := gauges["argument_inflight other"]; there {
			t.Error("other is there, and was never used")
		}
	})
}

// Keys with the same label values are one sample: device names may be of any bytes.
func TestInFlightMergesEqualLabels(t *testing.T) {
	c := newCaller(t, false)
	finish := inThreads(1, func() { c.begin(deaf, "\xff") }, func() { c.end(deaf) })
	defer finish()
	time.Sleep(10 * time.Millisecond)
	defer inThreads(1, func() { c.begin(deaf, "\xfe") }, func() { c.end(deaf) })()
	gauges := c.read()
	c.expect(gauges, "argument_inflight", "\ufffd", 2)
	if gauges["argument_inflight_oldest_seconds \ufffd"] < 0.01 {
		t.Errorf("the oldest is %v s old, want that of the older key", gauges["argument_inflight_oldest_seconds \ufffd"])
	}
}

// A thread that has died in a call is in none.
func TestInFlightForgetsTheDead(t *testing.T) {
	eachStorage(t, func(t *testing.T, c *caller) {
		dies := inThreads(2, func() { c.begin(deaf, "a") }, func() {})
		c.expect(c.read(), "probe_inflight", "deaf", 2)
		dies()
		for deadline := time.Now().Add(10 * time.Second); c.read()["probe_inflight deaf"] != 0; {
			if time.Now().After(deadline) { // a thread is there for a moment after its goroutine
				t.Fatalf("calls of threads that are no more are under way: %v", c.read())
			}
		}
	})
}

// putCall notes a call in the hash.
func (c *caller) putCall(process, thread int, operation, start uint64) {
	c.t.Helper()
	key := [2]uint64{uint64(process)<<32 | uint64(thread), operation}
	if err := c.source.maps["hash_calls"].Put(key, [3]uint64{start}); err != nil {
		c.t.Fatal(err)
	}
}

// A call that began before its thread is that of a dead thread that had the same number.
func TestInFlightNumbersComeBack(t *testing.T) {
	c := newCaller(t, false)
	now, err := monotonic()
	if err != nil {
		t.Fatal(err)
	}
	finish := inThreads(1, func() {
		c.putCall(unix.Getpid(), unix.Gettid(), deaf, 1)
		c.putCall(unix.Getpid(), unix.Gettid(), alert, now+uint64(time.Hour))
	}, func() {})
	defer finish()
	gauges := c.read()
	c.expect(gauges, "probe_inflight", "deaf", 0)
	if gauges["probe_inflight alert"] != 1 || gauges["probe_inflight_oldest_seconds alert"] != 0 {
		t.Errorf("a call from the future is not one call of no age: %v", gauges)
	}
}

// A task that sleeps interruptibly for long has left calls that do not: its end was lost. The kernel's own thread 2 always sleeps like that.
func TestInFlightEndsThatWereLost(t *testing.T) {
	if name := procFields(t, "/proc/2/comm")[0][0]; name != "kthreadd" {
		t.Skipf("process 2 is %s and not kthreadd: the test runs in a PID namespace", name)
	}
	c := newCaller(t, false)
	now, err := monotonic()
	if err != nil {
		t.Fatal(err)
	}
	if now < uint64(2*time.Minute) {
		t.Skip("the machine has just booted: no task has slept for a minute")
	}
	for _, operation := range []uint64{deaf, alert} {
		c.putCall(2, 2, operation, now-uint64(50*time.Second))
	}
	gauges := c.read()
	c.expect(gauges, "probe_inflight", "deaf", 1)
	c.expect(gauges, "probe_inflight", "alert", 1)
	for _, operation := range []uint64{deaf, alert} {
		c.putCall(2, 2, operation, now-uint64(61*time.Second))
	}
	gauges = c.read()
	c.expect(gauges, "probe_inflight", "deaf", 0)
	c.expect(gauges, "probe_inflight", "alert", 1)
}

// What lies within a call of the operation is not counted, what has taken the place of one whose end nobody saw is.
func TestOutermostCalls(t *testing.T) {
	const ended, within = 0, 3 // enum call_end
	type step struct {
		begins          bool
		frame, function uint64
		want            uint32 // of an end
	}
	for name, steps := range map[string][]step{
		"another function within":          {{true, 1000, 1, 0}, {true, 900, 2, 0}, {false, 900, 0, within}, {false, 1000, 0, ended}},
		"itself within":                    {{true, 1000, 0, 0}, {true, 900, 0, 0}, {false, 900, 0, within}, {false, 1000, 0, ended}},
		"never within itself":              {{true, 1000, 1, 0}, {true, 900, 1, 0}, {false, 900, 0, ended}},
		"a call above one that has ended":  {{true, 900, 1, 0}, {true, 1000, 2, 0}, {false, 1000, 0, ended}},
		"two calls, one after the other":   {{true, 900, 1, 0}, {false, 900, 0, ended}, {true, 800, 1, 0}, {false, 800, 0, ended}},
		"a return probe, above its return": {{true, 900, 1, 0}, {false, 908, 0, ended}},
	} {
		t.Run(name, func(t *testing.T) {
			eachStorage(t, func(t *testing.T, c *caller) {
				onThread(func() {
					for i, s := range steps {
						program := c.programs["end_outermost"]
						if s.begins {
							program = c.programs["begin_outermost"]
						}
						got, err := program.Run(&ebpf.RunOptions{Context: [2]uint64{s.frame, s.function}})
						if err != nil || got != s.want {
							t.Errorf("step %d returns %d, %v, want %d", i, got, err, s.want)
						}
					}
				})
			})
		})
	}
}
