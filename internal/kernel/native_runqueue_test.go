package kernel

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The waits of all tasks are at least those of the test's own threads, as the scheduler counts them, and at most as many as there were
// switches. The guests, whose kernels have /proc/schedstat, compare with that, to within 2 %.
func TestRunqueueAgreesWithScheduler(t *testing.T) {
	for _, how := range []string{TpBTF, RawTracepoint, Tracepoint} {
		t.Run(how, func(t *testing.T) {
			k := open(t, how, SourceConfig{Name: "runqueue"})
			switchesBefore := switches(t)
			before := sample(t, k, "run_queue_latency_seconds")
			own := loadScheduler(t)
			after := sample(t, k, "run_queue_latency_seconds")
			most := switches(t) - switchesBefore
			got, sum := events(after)-events(before), time.Duration(after.SumNanoseconds-before.SumNanoseconds)
			t.Logf("counted %d waits of %v; the threads had %d of %v, and there were %d switches", got, sum, own.turns, own.waited, most)
			if own.turns < 200 || got < own.turns || got > most {
				t.Errorf("counted %d waits, want between %d and %d", got, own.turns, most)
			}
			if sum < own.waited*9/10 {
				t.Errorf("counted %v of waiting, the threads alone waited %v", sum, own.waited)
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
