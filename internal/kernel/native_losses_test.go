package kernel

import (
	"encoding/binary"
	"errors"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
	"unsafe"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/btf"
	"golang.org/x/sys/unix"

	"github.com/latpush/latpush/bpf/objects"
)

// Tests that force each reason for which an event is lost.

func addressOf[T any](value *T) uintptr { return uintptr(unsafe.Pointer(value)) }

// reasons are all for which events are lost, in alphabetical order.
func reasons() []string {
	return []string{"absurd", "backwards", "histograms_full", "in_flight_full", reasonMissed, "no_start", reasonRecursion}
}

// Every source reports every reason from the beginning, whether it is attached or not, and none has lost anything.
func TestEveryReasonIsReported(t *testing.T) {
	k, err := newKernel(AllConfigs(), Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer k.Close()
	for _, s := range k.sources {
		if s.loaded == nil && s.config.Name == "lock_wait" && !reportsLocks(t, s.err) {
			continue
		}
		if s.loaded == nil {
			t.Errorf("source %s: %v", s.config.Name, s.err)
			continue
		}
		losses, err := s.loaded.lost()
		if err != nil {
			t.Errorf("source %s: %v", s.config.Name, err)
		}
		var got []string
		for _, l := range losses {
			got = append(got, l.Reason)
			if l.Source != s.config.Name || l.Events != 0 && !canSkip(t, l.Reason) {
				t.Errorf("source %s: %+v", s.config.Name, l)
			}
		}
		if slices.Sort(got); !slices.Equal(got, reasons()) {
			t.Errorf("source %s reports %v, want %v", s.config.Name, got, reasons())
		}
	}
}

// storage returns what makes programs keep start times in task storage or in the hash map, where they have the choice.
func storage(t *testing.T, inStorage bool) func(*ebpf.CollectionSpec) {
	return func(spec *ebpf.CollectionSpec) {
		if inStorage {
			return // if the kernel has it
		}
		if err := spec.Variables["in_task_storage"].Set(false); err != nil {
			t.Error(err)
		}
		spec.Maps["hash_calls"].MaxEntries = 16384
	}
}

// lost returns what a source lost, by reason.
func lost(t *testing.T, s *loadedSource) map[string]uint64 {
	t.Helper()
	losses, err := s.lost()
	if err != nil {
		t.Fatal(err)
	}
	byReason := map[string]uint64{}
	for _, l := range losses {
		byReason[l.Reason] = l.Events
	}
	return byReason
}

// eventuallyLost waits until a source has lost something for a reason.
func eventuallyLost(t *testing.T, s *loadedSource, reason string) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); lost(t, s)[reason] == 0; time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("nothing is lost for %s: %v", reason, lost(t, s))
		}
	}
}

// In a hash map for one start, one call at a time is followed, and the others are counted as lost.
func TestInFlightFull(t *testing.T) {
	const threads, rounds = 4, 3
	k := openWith(t, Options{tamper: func(spec *ebpf.CollectionSpec) {
		storage(t, false)(spec)
		spec.Maps["hash_calls"].MaxEntries = 1
	}}, SourceConfig{Name: "syscalls", Allow: []string{"rt_sigtimedwait"}, MaxCPU: new(Cores)})
	for range rounds {
		var all sync.WaitGroup
		for range threads {
			all.Go(func() { onThread(func() { wait(200 * time.Millisecond) }) })
		}
		all.Wait()
	}
	s := k.sources[0].loaded
	got := lost(t, s)["in_flight_full"]
	samples, err := s.tables[0].appendTo(nil)
	if err != nil || len(samples) != 1 {
		t.Fatal(samples, err)
	}
	if n := events(samples[0]); n < rounds || got < rounds || n+got != threads*rounds {
		t.Errorf("counted %d calls and lost %d, of %d", n, got, threads*rounds)
	}
}

// The same in every source that has such a map, with whatever the machine does.
func TestInFlightFullOfEachSource(t *testing.T) {
	for _, test := range []struct {
		source, m string
		work      func(t *testing.T)
	}{
		{"block", "pending_requests", func(t *testing.T) { concurrentReads(t, loopDevice(t, 1<<20)) }},
		{"dns", "queries", unansweredQueries},
		{"dns", "sent_queries", unansweredQueries},
		{"offcpu", "hash_absences", func(t *testing.T) { loadScheduler(t) }},
		{"runqueue", "hash_waits", func(t *testing.T) { loadScheduler(t) }},
		{"tcp_connect", "connecting", func(t *testing.T) { hangingConnects(t, 4) }},
		{"workqueue", "queued_works", func(t *testing.T) { concurrentReads(t, loopDevice(t, 1<<20)) }},
	} {
		t.Run(test.source+" "+test.m, func(t *testing.T) {
			k := openWith(t, Options{tamper: func(spec *ebpf.CollectionSpec) {
				if v := spec.Variables["in_task_storage"]; v != nil {
					if err := v.Set(false); err != nil {
						t.Error(err)
					}
				}
				spec.Maps[test.m].MaxEntries = 1
			}}, SourceConfig{Name: test.source, MaxCPU: new(Cores)})
			test.work(t)
			eventuallyLost(t, k.sources[0].loaded, "in_flight_full")
		})
	}
}

// concurrentReads keeps several requests under way.
func concurrentReads(t *testing.T, path string) {
	t.Helper()
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() { directIO(t, path, 50) })
	}
	all.Wait()
}

// hangingConnects makes connects that stay under way until the test ends: the listener takes no more.
func hangingConnects(t *testing.T, n int) {
	t.Helper()
	listener, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Close(listener) })
	err = errors.Join(unix.Bind(listener, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}), unix.Listen(listener, 0))
	if err != nil {
		t.Fatal(err)
	}
	address, err := unix.Getsockname(listener)
	if err != nil {
		t.Fatal(err)
	}
	for range n + 2 { // the first ones are taken
		socket, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = unix.Close(socket) })
		if err := unix.Connect(socket, address); err != nil && !errors.Is(err, unix.EINPROGRESS) {
			t.Fatal(err)
		}
	}
}

// A label set that has no place, where none is kept for "other", is counted as lost.
func TestHistogramsFull(t *testing.T) {
	k := openWith(t, Options{tamper: func(spec *ebpf.CollectionSpec) {
		spec.Maps["tcp_connect_latency"].MaxEntries = 1
	}}, SourceConfig{Name: "tcp_connect", MaxCPU: new(Cores)})
	connect(t, serve(t, "127.0.0.1:0", func(net.Conn) {}), 3)
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	closed.Close()
	if _, failed := connect(t, closed.Addr().String(), 4); failed != 4 {
		t.Fatalf("%d connects to a closed port failed, want 4", failed)
	}
	if got := lost(t, k.sources[0].loaded)["histograms_full"]; got < 4 {
		t.Errorf("%d events are lost, want the 4 connects that failed", got)
	}
}

// A start that cannot be is not counted as a duration: one after the end, none at all, and one from before the programs were there.
func TestImpossibleStarts(t *testing.T) {
	for _, test := range []struct {
		reason string
		start  func(k *Kernel) uint64
	}{
		{"backwards", func(*Kernel) uint64 { return 1 << 62 }},
		{"absurd", func(*Kernel) uint64 { return 0 }},
		{"absurd", func(*Kernel) uint64 { return 1 }},
		{"absurd", func(k *Kernel) uint64 { return loadedAt(t, k) - 1 }},
		{"", loadedAtOf(t)},
	} {
		k := openWith(t, Options{tamper: storage(t, false)}, SourceConfig{Name: "syscalls", Allow: []string{"rt_sigtimedwait"}, MaxCPU: new(Cores)})
		s := k.sources[0].loaded
		var thread sync.WaitGroup
		thread.Go(func() { onThread(func() { wait(200 * time.Millisecond) }) })
		setStart(t, s.maps["hash_calls"], test.start(k))
		thread.Wait()
		losses := lost(t, s)
		delete(losses, reasonRecursion) // other calls, during which a program was preempted
		for reason, events := range losses {
			if want := reason == test.reason; events != 0 != want || events > 1 {
				t.Errorf("start %d: lost %d for %s", test.start(k), events, reason)
			}
		}
		samples, err := s.tables[0].appendTo(nil)
		if err != nil {
			t.Fatal(err)
		}
		counted := uint64(0)
		for _, sample := range samples {
			counted += events(sample)
		}
		if want := test.reason == ""; counted != 0 != want {
			t.Errorf("start %d: counted %d", test.start(k), counted)
		}
	}
}

func loadedAtOf(t *testing.T) func(*Kernel) uint64 {
	return func(k *Kernel) uint64 { return loadedAt(t, k) }
}

// loadedAt returns the constant that the programs have.
func loadedAt(t *testing.T, k *Kernel) uint64 {
	t.Helper()
	spec, err := objects.Load(k.sources[0].config.Name)
	if err != nil {
		t.Fatal(err)
	}
	at := spec.Variables[loadedTime]
	constants := make([]byte, spec.Maps[at.SectionName].ValueSize)
	if err := k.sources[0].loaded.maps[at.SectionName].Lookup(uint32(0), constants); err != nil {
		t.Fatal(err)
	}
	return binary.NativeEndian.Uint64(constants[at.Offset:])
}

// setStart waits for the only call under way and gives it another start.
func setStart(t *testing.T, m *ebpf.Map, start uint64) {
	t.Helper()
	var key [2]uint64
	call := make([]byte, m.ValueSize())
	for deadline := time.Now().Add(5 * time.Second); ; time.Sleep(time.Millisecond) {
		if err := m.NextKey(nil, &key); err == nil {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("no call is under way")
		}
	}
	if err := m.Lookup(&key, &call); err != nil {
		t.Fatal(err)
	}
	binary.NativeEndian.PutUint64(call, start)
	if err := m.Update(&key, call, ebpf.UpdateExist); err != nil {
		t.Fatal(err)
	}
}

// An end whose start no program has seen is counted as lost, where it can be told from one that began before the programs were there.
func TestNoStart(t *testing.T) {
	const requests = 20
	path := loopDevice(t, 1<<20)
	k := openWith(t, Options{Ways: []string{RawTracepoint}}, SourceConfig{Name: "block", MaxCPU: new(Cores)})
	directIO(t, path, 1) // from here on every issue is known to be seen
	hook := &k.sources[0].loaded.hooks[0]
	hook.attached = slices.DeleteFunc(hook.attached, func(a attachment) bool { // and then none is any more
		if a.event == "block_rq_complete" {
			return false
		}
		if err := a.close(); err != nil {
			t.Error(err)
		}
		return true
	})
	counted := map[string]uint64{}
	for _, operation := range []string{"read", "write"} {
		counted[operation] = events(sampleOf(t, k, path, operation))
	}
	directIO(t, path, requests/2)
	if got := lost(t, k.sources[0].loaded)["no_start"]; got < requests {
		t.Errorf("%d events are lost, want at least %d", got, requests)
	}
	for name, s := range map[string]Sample{"read": sampleOf(t, k, path, "read"), "write": sampleOf(t, k, path, "write")} {
		if n := events(s) - counted[name]; n != 0 {
			t.Errorf("counted %d of operation %s", n, name)
		}
	}
}

func sampleOf(t *testing.T, k *Kernel, path, operation string) Sample {
	t.Helper()
	samples, _, err := k.Read()
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range samples {
		if s.Metric.Name == "block_io_latency_seconds" && slices.Equal(s.Values, []string{strings.TrimPrefix(path, "/dev/"), operation}) {
			return s
		}
	}
	return Sample{}
}

// A program that is already running on the CPU is not run within itself, and that is counted: here it is moved to an event that it causes itself.
func TestRecursion(t *testing.T) {
	if printsUnderLock(t) {
		t.Skip("this kernel holds a lock while a program prints (before 6.3), so that one must not print within another's printing")
	}
	const times = 25
	k := openWith(t, Options{tamper: func(spec *ebpf.CollectionSpec) {
		program := spec.Programs["mm_compaction_begin_tp_btf"]
		program.AttachTo = "bpf_trace_printk"
		program.Instructions = append(printing(asm.Mov.Reg(asm.R9, asm.R1), asm.Mov.Reg(asm.R1, asm.R9)), program.Instructions...)
		first, old := &program.Instructions[0], &program.Instructions[len(printing(asm.Instruction{}, asm.Instruction{}))]
		first.Metadata, old.Metadata = old.Metadata, asm.Metadata{} // which says that the program begins here
	}, Ways: []string{TpBTF}}, SourceConfig{Name: "reclaim", MaxCPU: new(Cores)})
	trigger, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Type: ebpf.RawTracepoint, License: "GPL",
		Instructions: append(printing(asm.Mov.Imm(asm.R9, 0), asm.Mov.Imm(asm.R0, 0)), asm.Return()),
	})
	if err != nil {
		t.Fatal(err)
	}
	defer trigger.Close()
	for range times {
		if _, err := trigger.Run(&ebpf.RunOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	if got := lost(t, k.sources[0].loaded)[reasonRecursion]; got != times {
		t.Errorf("%d events are lost, want %d", got, times)
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	s := k.sources[0].loaded
	if err := s.detach(errors.New("test")); err != nil {
		t.Fatal(err)
	}
	if got := lost(t, s)[reasonRecursion]; got != times {
		t.Errorf("%d events are lost when it is detached, want %d", got, times)
	}
}

// printsUnderLock returns whether the buffer that programs print in is one for all, behind a lock.
func printsUnderLock(t *testing.T) bool {
	t.Helper()
	kernel, err := btf.LoadKernelSpec()
	if err != nil {
		t.Fatal(err)
	}
	var data *btf.Struct
	if err := kernel.TypeByName("bpf_bprintf_data", &data); err != nil {
		return true
	}
	return !slices.ContainsFunc(data.Members, func(m btf.Member) bool { return m.Name == "buf" })
}

// printing returns instructions that print "x" to the kernel's trace between two others.
func printing(before, after asm.Instruction) asm.Instructions {
	return asm.Instructions{
		before,
		asm.Mov.Imm(asm.R1, 'x'),
		asm.StoreMem(asm.RFP, -8, asm.R1, asm.DWord),
		asm.Mov.Reg(asm.R1, asm.RFP),
		asm.Add.Imm(asm.R1, -8),
		asm.Mov.Imm(asm.R2, 2),
		asm.FnTracePrintk.Call(),
		after,
	}
}
