package kernel

import (
	"fmt"
	"maps"
	"os"
	"strings"
	"sync"
	"testing"
	"time"
	"unsafe"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// Requests of userfaultfd, whose numbers package unix does not have.
const (
	uffdAPI      = 0xc018aa3f
	uffdRegister = 0xc020aa00
	uffdZeroPage = 0xc020aa04
	uffdVersion  = 0xaa
	uffdMissing  = 1
)

// slowPage is a page of memory that whoever touches it waits for.
type slowPage struct {
	fd     int
	memory []byte
}

func newSlowPage(t *testing.T) *slowPage {
	t.Helper()
	memory, err := unix.Mmap(-1, 0, os.Getpagesize(), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE)
	if err != nil {
		t.Fatal(err)
	}
	fd, _, errno := unix.Syscall(unix.SYS_USERFAULTFD, unix.O_CLOEXEC, 0, 0)
	if errno != 0 {
		t.Fatal("open userfaultfd:", errno)
	}
	p := &slowPage{fd: int(fd), memory: memory}
	t.Cleanup(func() { _ = unix.Close(p.fd); _ = unix.Munmap(memory) })
	p.ask(t, uffdAPI, [4]uint64{uffdVersion})
	p.ask(t, uffdRegister, [4]uint64{p.address(), uint64(len(memory)), uffdMissing})
	return p
}

func (p *slowPage) address() uint64 { return uint64(uintptr(unsafe.Pointer(&p.memory[0]))) }

func (p *slowPage) ask(t *testing.T, request uintptr, argument [4]uint64) {
	t.Helper()
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(p.fd), request, uintptr(unsafe.Pointer(&argument))); errno != 0 {
		t.Fatalf("userfaultfd request %#x: %v", request, errno)
	}
}

// touched returns when somebody waits for the page.
func (p *slowPage) touched(t *testing.T) {
	t.Helper()
	if _, err := unix.Read(p.fd, make([]byte, 32)); err != nil {
		t.Fatal("wait for a page fault:", err)
	}
}

// arrive ends the wait for the page.
func (p *slowPage) arrive(t *testing.T) {
	t.Helper()
	p.ask(t, uffdZeroPage, [4]uint64{p.address(), uint64(len(p.memory))})
}

// waiters are threads that wait for a lock.
type waiters struct{ done sync.WaitGroup }

// start runs f on a thread of its own, and returns when that thread sleeps in a way that a signal does not end.
func (w *waiters) start(t *testing.T, f func() error) {
	t.Helper()
	id := make(chan int)
	w.done.Go(func() {
		onThread(func() {
			id <- unix.Gettid()
			if err := f(); err != nil {
				t.Error(err)
			}
		})
	})
	thread := <-id
	deadline := time.Now().Add(10 * time.Second)
	for state := ""; state != "D"; {
		status, err := os.ReadFile(fmt.Sprintf("/proc/self/task/%d/stat", thread))
		if err != nil {
			t.Fatal(err)
		}
		state = strings.Fields(string(status[strings.LastIndexByte(string(status), ')')+1:]))[0]
		if time.Now().After(deadline) {
			t.Fatalf("thread %d does not wait: its state is %s", thread, state)
		}
		time.Sleep(time.Millisecond)
	}
}

// write writes to a file without the runtime's poller.
func write(fd int, content []byte) error {
	_, err := unix.Write(fd, content)
	return err
}

// A pipe's mutex is held while what is written is copied, which takes as long as the memory is not there.
func TestLockWaitOfMutex(t *testing.T) {
	needLockEvents(t)
	for _, how := range []string{TpBTF, RawTracepoint, Tracepoint} {
		t.Run(how, func(t *testing.T) {
			page := newSlowPage(t)
			var pipe [2]int
			if err := unix.Pipe2(pipe[:], unix.O_CLOEXEC); err != nil {
				t.Fatal(err)
			}
			defer func() { _ = unix.Close(pipe[0]); _ = unix.Close(pipe[1]) }()
			k := open(t, how, SourceConfig{Name: "lock_wait"})
			holder := make(chan error, 1)
			go func() { holder <- write(pipe[1], page.memory) }()
			page.touched(t)
			const n = 6
			checkLockWaits(t, k, map[string]uint64{"mutex": n}, func(w *waiters) {
				for range n {
					w.start(t, func() error { return write(pipe[1], []byte("x")) })
				}
			}, func() { page.arrive(t) })
			if err := <-holder; err != nil {
				t.Error(err)
			}
		})
	}
}

// A folder's lock is held by who lists it while the list is copied, for who makes something in it, and behind that one for others who list it.
func TestLockWaitOfSemaphore(t *testing.T) {
	needLockEvents(t)
	for _, how := range []string{TpBTF, RawTracepoint, Tracepoint} {
		t.Run(how, func(t *testing.T) {
			page, folder := newSlowPage(t), t.TempDir()
			list := func(buffer []byte) error {
				fd, err := unix.Open(folder, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
				if err != nil {
					return err
				}
				defer func() { _ = unix.Close(fd) }()
				_, err = unix.Getdents(fd, buffer)
				return err
			}
			k := open(t, how, SourceConfig{Name: "lock_wait"})
			holder := make(chan error, 1)
			go func() { holder <- list(page.memory) }()
			page.touched(t)
			const readers = 4
			checkLockWaits(t, k, map[string]uint64{"rwsem_write": 1, "rwsem_read": readers}, func(w *waiters) {
				w.start(t, func() error { return unix.Mkdir(folder+"/new", 0o755) })
				for range readers {
					w.start(t, func() error { return list(make([]byte, 4096)) })
				}
			}, func() { page.arrive(t) })
			if err := <-holder; err != nil {
				t.Error(err)
			}
		})
	}
}

// checkLockWaits lets threads wait for a time that is in the two buckets above 262 ms, and demands that many waits of each type there. Others wait
// meanwhile, but seldom so long.
func checkLockWaits(t *testing.T, k *Kernel, want map[string]uint64, begin func(*waiters), release func()) {
	t.Helper()
	const hold, low, high = 350 * time.Millisecond, 262144 * time.Microsecond, 1048576 * time.Microsecond
	var w waiters
	before := map[string]Sample{}
	for lock := range want {
		before[lock] = sample(t, k, "lock_wait_seconds", lock)
	}
	_, lostBefore := sampleAndSkipped(t, k, "lock_wait_seconds", "mutex")
	begin(&w)
	time.Sleep(hold)
	release()
	w.done.Wait()
	_, lost := sampleAndSkipped(t, k, "lock_wait_seconds", "mutex")
	for lock, n := range want {
		after := sample(t, k, "lock_wait_seconds", lock)
		got := uint64(0)
		for i, bound := range after.Metric.Bounds {
			if bound > uint64(low) && bound <= uint64(high) {
				got += after.Counts[i]
				if before[lock].Counts != nil {
					got -= before[lock].Counts[i]
				}
			}
		}
		t.Logf("%d waits for a %s of %v, lost %d", got, lock, hold, lost-lostBefore)
		if got+lost-lostBefore < n || got > n+2 {
			t.Errorf("counted %d waits for a %s of %v and lost %d, want %d: %v", got, lock, hold, lost-lostBefore, n, after.Counts)
		}
	}
}

// needLockEvents skips the test on kernels that do not report waits for locks, where the source has to say so.
func needLockEvents(t *testing.T) {
	t.Helper()
	k, err := Open(t.Context(), []SourceConfig{{Name: "lock_wait"}}, Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer k.Close()
	if !reportsLocks(t, k.Sources()[0].Err) {
		t.Skip("this kernel does not report waits for locks: 5.19 and later do")
	}
}

// reportsLocks returns whether the kernel reports waits for locks, given why the source is not loaded, which is to be the kernel's age.
func reportsLocks(t *testing.T, err error) bool {
	t.Helper()
	if err == nil {
		return true
	}
	if !strings.Contains(err.Error(), "only Linux 5.19 and later report waits for locks") || isLinux(t, 5, 19) {
		t.Fatal(err)
	}
	return false
}

// The kernel's flags of waits.
const (
	flagSpin = 1 << iota
	flagRead
	flagWrite
	flagRealTime
	flagPerCPU
	flagMutex
)

// lockEvent is what the kernel reports of a wait for a lock.
type lockEvent struct {
	end   bool
	lock  uint64
	flags uint64 // of a begin
}

func begins(lock, flags uint64) lockEvent { return lockEvent{lock: lock, flags: flags} }

func ends(lock uint64) lockEvent { return lockEvent{end: true, lock: lock} }

// Waits that no test can bring about at will are reported to the programs by the test itself.
func TestLockWaitOfEvents(t *testing.T) {
	needLockEvents(t)
	k := open(t, RawTracepoint, SourceConfig{Name: "lock_wait"})
	programs := detached(t, k)
	lock := uint64(0)
	for name, test := range map[string]struct {
		events []lockEvent
		want   map[string]uint64
	}{
		"each type": {
			[]lockEvent{
				begins(1, flagSpin), ends(1), begins(1, flagSpin|flagRead), ends(1), begins(1, flagSpin|flagWrite), ends(1),
				begins(1, flagRead), ends(1), begins(1, flagWrite), ends(1), begins(1, flagRealTime|flagRead), ends(1),
				begins(1, flagRealTime), ends(1), begins(1, 0), ends(1), begins(1, flagMutex), ends(1),
				begins(1, flagPerCPU|flagRead), ends(1), begins(1, flagPerCPU|flagWrite), ends(1),
			},
			map[string]uint64{
				"spin": 1, "rwlock_read": 1, "rwlock_write": 1, "rwsem_read": 2, "rwsem_write": 1, "rtmutex": 1, "semaphore": 1, "mutex": 1,
				"percpu_read": 1, "percpu_write": 1,
			},
		},
		"a mutex is spun for and slept for by turns": {
			[]lockEvent{begins(1, flagMutex|flagSpin), begins(1, flagMutex), begins(1, flagMutex|flagSpin), begins(1, flagMutex), ends(1)},
			map[string]uint64{"mutex": 1},
		},
		"a task waits for a lock while it waits for another": {
			[]lockEvent{begins(1, flagPerCPU|flagWrite), begins(2, flagMutex), begins(3, flagSpin), ends(3), ends(2), ends(1)},
			map[string]uint64{"percpu_write": 1, "mutex": 1, "spin": 1},
		},
		"interrupts spin": {
			[]lockEvent{begins(1, flagSpin), begins(2, flagSpin|flagRead), begins(3, flagSpin), begins(4, flagSpin|flagWrite), ends(4), ends(3), ends(2), ends(1)},
			map[string]uint64{"spin": 2, "rwlock_read": 1, "rwlock_write": 1},
		},
		"the end of an inner wait is lost": {
			[]lockEvent{begins(1, flagSpin), begins(2, flagSpin|flagRead), ends(1), ends(2)},
			map[string]uint64{"spin": 1},
		},
		"the end of the same wait comes twice": {
			[]lockEvent{begins(1, flagSpin), ends(1), ends(1), begins(2, flagMutex), ends(2), ends(2)},
			map[string]uint64{"spin": 1, "mutex": 1},
		},
		"ends are lost until there is no room": {
			[]lockEvent{
				begins(1, flagSpin), begins(2, flagSpin), begins(3, flagSpin), begins(4, flagSpin), begins(5, flagSpin|flagWrite), ends(5), ends(4),
			},
			map[string]uint64{"rwlock_write": 1},
		},
	} {
		t.Run(name, func(t *testing.T) {
			before := lockWaits(t, k)
			lock += 16 // each case has locks of its own
			onThread(func() {
				var cpus unix.CPUSet
				cpus.Set(0)
				if err := unix.SchedSetaffinity(0, &cpus); err != nil {
					t.Error(err)
				}
				for _, event := range test.events {
					name, arguments := "contention_begin", []uint64{lock + event.lock, event.flags}
					if event.end {
						name, arguments = "contention_end", []uint64{lock + event.lock, 0}
					}
					if _, err := programs[name].Run(&ebpf.RunOptions{Context: arguments}); err != nil {
						t.Error(err)
					}
				}
			})
			got := lockWaits(t, k)
			for lock, n := range before {
				if got[lock] -= n; got[lock] == 0 {
					delete(got, lock)
				}
			}
			if !maps.Equal(got, test.want) {
				t.Errorf("counted %v, want %v", got, test.want)
			}
		})
	}
}

// lockWaits returns how many waits for each type of lock have been counted.
func lockWaits(t *testing.T, k *Kernel) map[string]uint64 {
	t.Helper()
	samples, _, err := k.Read()
	if err != nil {
		t.Fatal(err)
	}
	waits := map[string]uint64{}
	for _, s := range samples {
		waits[s.Values[0]] = events(s)
	}
	return waits
}

// detached takes the programs of the first source out of their hooks, so that only a test runs them.
func detached(t *testing.T, k *Kernel) map[string]*ebpf.Program {
	t.Helper()
	loaded := k.sources[0].loaded
	programs := map[string]*ebpf.Program{}
	for _, h := range loaded.hooks {
		for _, a := range h.attached {
			if err := a.link.Close(); err != nil {
				t.Fatal(err)
			}
			programs[a.event] = a.program
		}
	}
	return programs
}
