package kernel

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Tests that attach to the running kernel's tracepoints, do a known amount of work and demand the same amount in the histograms.

// open runs sources and demands that each hook of each is attached in the given way, or in any if how is empty.
func open(t *testing.T, how string, configs ...SourceConfig) *Kernel {
	t.Helper()
	var o Options
	if how != "" {
		o.Ways = []string{how}
	}
	k, err := Open(t.Context(), configs, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := k.Close(); err != nil {
			t.Error(err)
		}
	})
	for _, s := range k.Sources() {
		if s.Err != nil {
			t.Fatalf("source %s: %v", s.Source, s.Err)
		}
		for _, h := range s.Hooks {
			if h.Err != nil || (how != "" && h.How != how) {
				t.Fatalf("hook %s of %s is %s, want %q: %v", h.Name, s.Source, h.How, how, h.Err)
			}
		}
	}
	return k
}

// sample returns the sample of a metric whose label values are values; an empty one if there is none.
func sample(t *testing.T, k *Kernel, metric string, values ...string) Sample {
	t.Helper()
	samples, losses, err := k.Read()
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range losses {
		// An interrupt can find the same program running on its CPU, which the kernel does not allow.
		if l.Events != 0 && (l.Reason != reasonRecursion || l.Events > 20) {
			t.Errorf("source %s lost %d events: %s", l.Source, l.Events, l.Reason)
		}
	}
	for _, s := range samples {
		if s.Metric.Name == metric && slices.Equal(s.Values, values) {
			s.Counts = slices.Clone(s.Counts)
			return s
		}
	}
	return Sample{}
}

func events(s Sample) uint64 {
	var n uint64
	for _, count := range s.Counts {
		n += count
	}
	return n
}

// onThread runs f on a thread of its own, which ends with it.
func onThread(f func()) {
	var done sync.WaitGroup
	done.Go(func() {
		runtime.LockOSThread() // and never unlock: the thread dies with the goroutine
		f()
	})
	done.Wait()
}

func TestSyscallsAreCountedExactly(t *testing.T) {
	for _, how := range []string{TpBTF, RawTracepoint, Tracepoint} {
		t.Run(how, func(t *testing.T) {
			k := open(t, how, SourceConfig{Name: "syscalls", Allow: []string{"getsid", "getpgid"}})
			onThread(func() {
				for range 1000 {
					_, _ = unix.Getsid(0)
				}
				for range 10 {
					_, _ = unix.Getpgid(0)
				}
			})
			if n := events(sample(t, k, "syscall_latency_seconds", "getsid")); n != 1000 {
				t.Errorf("counted %d calls of getsid, want 1000", n)
			}
			if n := events(sample(t, k, "syscall_latency_seconds", "getpgid")); n != 10 {
				t.Errorf("counted %d calls of getpgid, want 10", n)
			}
		})
	}
}

// Calls of known length by several threads of one process at once: none may take another one's start.
func TestSyscallLengths(t *testing.T) {
	k := open(t, "", SourceConfig{Name: "syscalls", Allow: []string{"pselect6"}})
	const short, long, each = 3 * time.Millisecond, 40 * time.Millisecond, 20
	var threads sync.WaitGroup
	var mu sync.Mutex
	var took time.Duration // as the callers see it, which is a little longer
	var tookLow, tookHigh uint64
	for _, length := range []time.Duration{short, long} {
		for range 4 {
			threads.Go(func() {
				onThread(func() {
					for range each / 4 {
						request := unix.NsecToTimespec(length.Nanoseconds())
						start := time.Now()
						_, _ = unix.Pselect(0, nil, nil, nil, &request, nil)
						this := time.Since(start)
						mu.Lock()
						took += this
						if this <= 16384*time.Microsecond {
							tookLow++
						} else if this > 32768*time.Microsecond {
							tookHigh++
						}
						mu.Unlock()
					}
				})
			})
		}
	}
	threads.Wait()
	got := sample(t, k, "syscall_latency_seconds", "pselect6")
	if n := events(got); n != 2*each {
		t.Fatalf("counted %d calls, want %d", n, 2*each)
	}
	var low, high uint64
	for i, count := range got.Counts {
		if i <= 14 { // up to 16.384 ms
			low += count
		} else if i >= 16 { // above 32.768 ms
			high += count
		}
	}
	if low < tookLow || low > each {
		t.Errorf("%d calls of up to 16 ms, want at least %d and at most %d: %d", low, tookLow, each, got.Counts)
	}
	if high < each || high > tookHigh {
		t.Errorf("%d calls of more than 32 ms, want at least %d and at most %d: %d", high, each, tookHigh, got.Counts)
	}
	if sum := time.Duration(got.SumNanoseconds); sum < each*(short+long) || sum > took {
		t.Errorf("calls took %v, want between the %v that they slept and the %v that their callers waited", sum, each*(short+long), took)
	}
}

// A call that begins on one CPU and ends on another is timed right.
func TestSyscallThatMigrates(t *testing.T) {
	if runtime.NumCPU() < 2 {
		t.Skip("one CPU: nothing can migrate")
	}
	k := open(t, "", SourceConfig{Name: "syscalls", Allow: []string{"sched_setaffinity"}})
	const moves = 200
	onThread(func() {
		for i := range moves {
			var cpus unix.CPUSet
			cpus.Set(i % 2)
			if err := unix.SchedSetaffinity(0, &cpus); err != nil {
				t.Errorf("move to CPU %d: %v", i%2, err)
			}
		}
	})
	got := sample(t, k, "syscall_latency_seconds", "sched_setaffinity")
	if n := events(got); n != moves {
		t.Errorf("counted %d calls, want %d", n, moves)
	}
	if sum := time.Duration(got.SumNanoseconds); sum > 10*time.Second {
		t.Errorf("%d calls took %v", moves, sum)
	}
}

func procFields(t *testing.T, name string) [][]string {
	t.Helper()
	file, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	var lines [][]string
	scanner := bufio.NewScanner(file)
	for scanner.Scan() {
		if fields := strings.Fields(scanner.Text()); len(fields) > 0 {
			lines = append(lines, fields)
		}
	}
	return lines
}

func parse(t *testing.T, text string) uint64 {
	t.Helper()
	number, err := strconv.ParseUint(text, 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return number
}

// within returns whether got is want, give or take some part of it and a few at the edges of the measurement.
func within(got, want, part, few uint64) bool {
	slack := want/part + few
	return got+slack >= want && got <= want+slack
}

// threadWaits returns how often the calling thread got a CPU and how long it waited for one, as the scheduler counts it.
func threadWaits(t *testing.T) (arrivals uint64, waited time.Duration) {
	t.Helper()
	fields := procFields(t, "/proc/thread-self/schedstat")[0]
	return parse(t, fields[2]), time.Duration(parse(t, fields[1]))
}

// switches returns how often the kernel has switched between tasks since boot.
func switches(t *testing.T) uint64 {
	t.Helper()
	for _, fields := range procFields(t, "/proc/stat") {
		if fields[0] == "ctxt" {
			return parse(t, fields[1])
		}
	}
	t.Fatal("no ctxt in /proc/stat")
	return 0
}

// The waits of all tasks are at least those of the test's own threads, as the scheduler counts them, and at most as many as there were
// switches. The guests, whose kernels have /proc/schedstat, demand equality.
func TestRunqueueAgreesWithScheduler(t *testing.T) {
	for _, how := range []string{TpBTF, RawTracepoint, Tracepoint} {
		t.Run(how, func(t *testing.T) {
			k := open(t, how, SourceConfig{Name: "runqueue"})
			switchesBefore := switches(t)
			before := sample(t, k, "run_queue_latency_seconds")
			// More busy threads than CPUs, which are preempted, and threads that sleep and wake.
			stop := time.Now().Add(time.Second)
			var threads sync.WaitGroup
			var arrivals, waited atomic.Uint64
			run := func(step func()) {
				threads.Go(func() {
					onThread(func() {
						n, w := threadWaits(t)
						for time.Now().Before(stop) {
							step()
						}
						nAfter, wAfter := threadWaits(t)
						arrivals.Add(nAfter - n)
						waited.Add(uint64(wAfter - w))
					})
				})
			}
			for range 2 * runtime.NumCPU() {
				run(func() {})
				run(func() {
					request := unix.NsecToTimespec(int64(time.Millisecond))
					_ = unix.ClockNanosleep(unix.CLOCK_MONOTONIC, 0, &request, nil)
				})
			}
			threads.Wait()
			after := sample(t, k, "run_queue_latency_seconds")
			most := switches(t) - switchesBefore
			got, sum := events(after)-events(before), time.Duration(after.SumNanoseconds-before.SumNanoseconds)
			least, leastSum := arrivals.Load(), time.Duration(waited.Load())
			t.Logf("counted %d waits of %v; the threads had %d of %v, and there were %d switches", got, sum, least, leastSum, most)
			if least < 200 || got < least || got > most {
				t.Errorf("counted %d waits, want between %d and %d", got, least, most)
			}
			if sum < leastSum*9/10 {
				t.Errorf("counted %v of waiting, the threads alone waited %v", sum, leastSum)
			}
		})
	}
}

// A task waits as long as a more urgent one keeps its CPU, whether it is woken meanwhile or was running before.
func TestRunqueueWaitIsMeasured(t *testing.T) {
	const rounds, sleep = 4, 20 * time.Millisecond
	for name, start := range map[string]func(spin func()){
		"woken":     func(spin func()) { time.AfterFunc(sleep/4, spin) },
		"preempted": func(spin func()) { spin() },
	} {
		t.Run(name, func(t *testing.T) {
			k := open(t, "", SourceConfig{Name: "runqueue"})
			before := sample(t, k, "run_queue_latency_seconds")
			var waited time.Duration
			for range rounds {
				spin := startSpinner(t)
				onThread(func() {
					if err := urgent(0, 10); err != nil {
						t.Error(err)
					}
					request := unix.NsecToTimespec(sleep.Nanoseconds())
					began := time.Now()
					start(spin)
					_ = unix.ClockNanosleep(unix.CLOCK_MONOTONIC, 0, &request, nil)
					waited += time.Since(began) - sleep
				})
			}
			after := sample(t, k, "run_queue_latency_seconds")
			long := after.Counts[17] + after.Counts[18] - before.Counts[17] - before.Counts[18] // above 65.5 ms, up to 262 ms
			sum := time.Duration(after.SumNanoseconds - before.SumNanoseconds)
			t.Logf("%d long waits; all waits took %v, the test's own %v", long, sum, waited)
			if long < rounds-1 || waited < (rounds-1)*(spinTime-2*sleep) || sum < waited*95/100 {
				t.Errorf("%d long waits of %d, %v of waiting where the test waited %v", long, rounds, sum, waited)
			}
		})
	}
}

// spinTime is how long a spinner keeps its CPU.
const spinTime = 150 * time.Millisecond

// startSpinner starts a process that waits, and then keeps the last CPU busy for a while when the returned function is called.
func startSpinner(t *testing.T) (spin func()) {
	t.Helper()
	command := exec.Command("/proc/self/exe")
	command.Env = append(os.Environ(), childEnvironment+"=spinner", "GODEBUG=asyncpreemptoff=1")
	stdin, err := command.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := command.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := command.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := command.Wait(); err != nil {
			t.Error("spinner:", err)
		}
	})
	if line, err := bufio.NewReader(stdout).ReadString('\n'); line != "ready\n" {
		t.Fatalf("spinner said %q, %v", line, err)
	}
	return func() {
		if _, err := stdin.Write([]byte("x")); err != nil {
			t.Error(err)
		}
	}
}

// spinner is the child's part.
func spinner() error {
	runtime.LockOSThread()
	if err := urgent(0, 20); err != nil {
		return err
	}
	fmt.Println("ready")
	spinAndExit(int64(spinTime))
	return nil
}

// spinAndExit reads a byte from standard input, spins, and ends the process. It makes raw system calls alone, so that Go's scheduler, which would
// take the CPU from it, has no chance to.
//
//go:norace
//go:nosplit
func spinAndExit(nanoseconds int64) {
	var buffer [1]byte
	var start, now unix.Timespec
	unix.RawSyscall(unix.SYS_READ, 0, uintptr(unsafe.Pointer(&buffer)), 1)
	unix.RawSyscall(unix.SYS_CLOCK_GETTIME, unix.CLOCK_MONOTONIC, uintptr(unsafe.Pointer(&start)), 0)
	for {
		unix.RawSyscall(unix.SYS_CLOCK_GETTIME, unix.CLOCK_MONOTONIC, uintptr(unsafe.Pointer(&now)), 0)
		if (now.Sec-start.Sec)*1e9+now.Nsec-start.Nsec > nanoseconds {
			unix.RawSyscall(unix.SYS_EXIT_GROUP, 0, 0, 0)
		}
	}
}

// urgent gives a thread, 0 for the calling one, a real-time priority on the last CPU alone.
func urgent(thread int, priority uint32) error {
	var cpus unix.CPUSet
	cpus.Set(runtime.NumCPU() - 1)
	if err := unix.SchedSetaffinity(thread, &cpus); err != nil {
		return fmt.Errorf("set affinity: %w", err)
	}
	attributes := unix.SchedAttr{Size: unix.SizeofSchedAttr, Policy: unix.SCHED_FIFO, Priority: priority}
	if err := unix.SchedSetAttr(thread, &attributes, 0); err != nil {
		return fmt.Errorf("set priority: %w", err)
	}
	return nil
}

// softirqs returns how often each soft interrupt was handled since boot.
func softirqs(t *testing.T) map[string]uint64 {
	t.Helper()
	handled := map[string]uint64{}
	for _, fields := range procFields(t, "/proc/softirqs")[1:] {
		name := strings.ToLower(strings.TrimSuffix(fields[0], ":"))
		for _, count := range fields[1:] {
			handled[name] += parse(t, count)
		}
	}
	return handled
}

func TestSoftirqsAgreeWithProc(t *testing.T) {
	for _, how := range []string{TpBTF, RawTracepoint, Tracepoint} {
		t.Run(how, func(t *testing.T) {
			k := open(t, how, SourceConfig{Name: "softirq"})
			before := map[string]uint64{}
			vectors := []string{"timer", "net_rx", "sched", "rcu"}
			for _, vector := range vectors {
				before[vector] = events(sample(t, k, "softirq_service_seconds", vector))
			}
			handled := softirqs(t)
			exchangeDatagrams(t, 2000)
			handledAfter := softirqs(t)
			for _, vector := range vectors {
				got, want := events(sample(t, k, "softirq_service_seconds", vector))-before[vector], handledAfter[vector]-handled[vector]
				if !within(got, want, 50, 20) {
					t.Errorf("counted %d handlers of %s, the kernel %d", got, vector, want)
				}
				if vector == "net_rx" && want < 1000 {
					t.Errorf("2000 datagrams raised net_rx %d times", want)
				}
				if waits := events(sample(t, k, "softirq_latency_seconds", vector)); !within(waits, got+before[vector], 20, 40) {
					t.Errorf("counted %d waits and %d handlers of %s", waits, got+before[vector], vector)
				}
			}
		})
	}
}

// exchangeDatagrams sends n datagrams over loopback, one after the other.
func exchangeDatagrams(t *testing.T, n int) {
	t.Helper()
	receiver, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(receiver)
	if err := unix.Bind(receiver, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		t.Fatal(err)
	}
	address, err := unix.Getsockname(receiver)
	if err != nil {
		t.Fatal(err)
	}
	for range n {
		if err := unix.Sendto(receiver, []byte("x"), 0, address); err != nil {
			t.Fatal(err)
		}
		if _, _, err := unix.Recvfrom(receiver, make([]byte, 8), 0); err != nil {
			t.Fatal(err)
		}
	}
}

// loopDevice makes a loop device on a file of the given size and returns its path.
func loopDevice(t *testing.T, size int64) string {
	t.Helper()
	control, err := os.OpenFile("/dev/loop-control", os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer control.Close()
	number, err := unix.IoctlRetInt(int(control.Fd()), unix.LOOP_CTL_GET_FREE)
	if err != nil {
		t.Fatal(err)
	}
	path := fmt.Sprintf("/dev/loop%d", number)
	device, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	backing, err := os.CreateTemp(t.TempDir(), "disk")
	if err != nil {
		t.Fatal(err)
	}
	defer backing.Close()
	if err := backing.Truncate(size); err != nil {
		t.Fatal(err)
	}
	if err := unix.IoctlSetInt(int(device.Fd()), unix.LOOP_SET_FD, int(backing.Fd())); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = unix.IoctlSetInt(int(device.Fd()), unix.LOOP_CLR_FD, 0)
		_ = device.Close()
	})
	return path
}

// directIO does n reads and n writes of 4 KiB that do not go through the page cache.
func directIO(t *testing.T, path string, n int) {
	t.Helper()
	device, err := os.OpenFile(path, os.O_RDWR|unix.O_DIRECT, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer device.Close()
	buffer, err := unix.Mmap(-1, 0, 4096, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = unix.Munmap(buffer) }()
	for i := range n {
		if _, err := device.ReadAt(buffer, int64(i%64)*4096); err != nil {
			t.Fatal(err)
		}
		if _, err := device.WriteAt(buffer, int64(i%64)*4096); err != nil {
			t.Fatal(err)
		}
	}
}

func TestBlockRequestsAreCountedExactly(t *testing.T) {
	for _, how := range []string{TpBTF, RawTracepoint} {
		t.Run(how, func(t *testing.T) {
			path := loopDevice(t, 1<<20)
			k := open(t, how, SourceConfig{Name: "block"})
			name := strings.TrimPrefix(path, "/dev/")
			readsBefore := events(sample(t, k, "block_io_latency_seconds", name, "read"))
			directIO(t, path, 100)
			if n := events(sample(t, k, "block_io_latency_seconds", name, "read")) - readsBefore; n != 100 {
				t.Errorf("counted %d reads of %s, want 100", n, name)
			}
			if n := events(sample(t, k, "block_io_latency_seconds", name, "write")); n != 100 {
				t.Errorf("counted %d writes of %s, want 100", n, name)
			}
		})
	}
}

// Label sets beyond the bound are counted under "other", and nothing is lost.
func TestBlockLabelSetsAreBounded(t *testing.T) {
	path := loopDevice(t, 1<<20)
	k := open(t, "", SourceConfig{Name: "block", MaxLabelSets: 1})
	name := strings.TrimPrefix(path, "/dev/")
	directIO(t, path, 50)
	reads, writes := events(sample(t, k, "block_io_latency_seconds", name, "read")), events(sample(t, k, "block_io_latency_seconds", name, "write"))
	others := events(sample(t, k, "block_io_latency_seconds", other, other))
	if reads != 0 && writes != 0 {
		t.Errorf("two label sets in a map for one: %d reads, %d writes", reads, writes)
	}
	if reads+writes+others < 100 || others < 50 {
		t.Errorf("counted %d reads, %d writes and %d others, want 100 together", reads, writes, others)
	}
}

func TestReconfigureKeepsCounts(t *testing.T) {
	allow := SourceConfig{Name: "syscalls", Allow: []string{"getsid"}}
	k := open(t, "", allow, SourceConfig{Name: "softirq"})
	onThread(func() { _, _ = unix.Getsid(0) })
	if err := k.Reconfigure(t.Context(), []SourceConfig{{Name: "runqueue"}, allow}); err != nil {
		t.Fatal(err)
	}
	if n := events(sample(t, k, "syscall_latency_seconds", "getsid")); n != 1 {
		t.Errorf("counted %d calls after reconfiguring, want 1", n)
	}
	var names []string
	for _, s := range k.Sources() {
		names = append(names, s.Source)
	}
	if !slices.Equal(names, []string{"runqueue", "syscalls"}) {
		t.Errorf("sources are %v", names)
	}
	allow.Allow = []string{"getsid", "getpgid"}
	if err := k.Reconfigure(t.Context(), []SourceConfig{allow}); err != nil {
		t.Fatal(err)
	}
	if n := events(sample(t, k, "syscall_latency_seconds", "getsid")); n != 0 {
		t.Errorf("counted %d calls after another allow list, want 0", n)
	}
}

// Hooks of modules that are not there wait, and do not stop the others.
func TestNFSWaitsForItsModules(t *testing.T) {
	if _, err := os.Stat("/sys/module/nfs"); err == nil {
		t.Skip("the nfs module is loaded; the guests test both")
	}
	k, err := Open(t.Context(), []SourceConfig{{Name: "nfs"}, {Name: "softirq"}}, Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer k.Close()
	sources := k.Sources()
	for _, h := range sources[0].Hooks {
		if h.How != Waiting || h.Err == nil || !strings.HasPrefix(h.Err.Error(), "waiting for module nfs") {
			t.Errorf("hook %s is %s: %v", h.Name, h.How, h.Err)
		}
	}
	if !sources[1].Attached() {
		t.Errorf("softirq is not attached: %+v", sources[1])
	}
}
