package endtoend

import (
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// pinPath mounts a BPF file system of the test's own and returns a place for pins on it, the same for each call with the same folder.
func pinPath(t *testing.T, folder string) string {
	t.Helper()
	mounted := filepath.Join(folder, "bpf")
	if err := os.Mkdir(mounted, 0o700); !errors.Is(err, fs.ErrExist) {
		if err == nil {
			err = unix.Mount("bpf", mounted, "bpf", 0, "")
		}
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = unix.Unmount(mounted, unix.MNT_DETACH) }) // an agent that was killed may not have ended yet
	}
	return filepath.Join(mounted, "latpush")
}

// load makes system calls that nobody else makes until it is told to stop, and counts them.
type load struct {
	done  atomic.Uint64
	ended atomic.Bool
	all   sync.WaitGroup
}

const loadCall = "mq_unlink"

func startLoad() *load {
	l := new(load)
	for range 2 {
		l.all.Go(func() {
			for !l.ended.Load() {
				for range 50 {
					_, _, _ = unix.Syscall(unix.SYS_MQ_UNLINK, 0, 0, 0) // of no queue
					l.done.Add(1)
				}
				time.Sleep(5 * time.Millisecond)
			}
		})
	}
	return l
}

func (l *load) end() uint64 {
	l.ended.Store(true)
	l.all.Wait()
	return l.done.Load()
}

// The agent is killed with SIGKILL 50 times, at random moments of its life, while there is load all along. Not one event is missing at the receiver, and
// no counter ever began again. A clean stop leaves nothing in the kernel.
func TestKill9LosesNoCounts(t *testing.T) {
	kills := 50
	if testing.Short() {
		kills = 10
	}
	random := rand.New(rand.NewPCG(seedOf(t), 2))
	s := embedded(t)
	folder := t.TempDir()
	path := pinPath(t, folder)
	config := configFile(t, folder, s.writeURL(), "  - name: syscalls\n    allow: ["+loadCall+"]\n    labels: [cgroup]\n  - name: softirq\n  - name: runqueue\n  - name: reclaim\n")
	a := startAgent(t, config)
	a.waitLog("agent started")
	programs := pinnedPrograms(t, path)
	l := startLoad()
	defer l.end()
	for kill := range kills {
		if kill%5 == 0 { // some live for more than a tick
			time.Sleep(1200 * time.Millisecond)
		}
		time.Sleep(time.Duration(random.Int64N(int64(400 * time.Millisecond))))
		a.kill()
		a = startAgent(t, config)
	}
	a.waitLog("agent started")
	if strings.Contains(a.log.String(), "begins anew") || !strings.Contains(a.log.String(), "counts of an earlier agent are taken over") {
		t.Errorf("the last agent says:\n%s", a.log)
	}
	if now := pinnedPrograms(t, path); !slices.Equal(now, programs) {
		t.Errorf("the programs are %v, were %v", now, programs)
	}
	done := l.end()
	const calls = `syscall_latency_seconds_count{syscall="` + loadCall + `"}` // all in the control group of this process
	eventually(t, limit, func() error {
		counted, err := s.value(calls)
		if err != nil {
			return err
		}
		// A program that is preempted keeps the kernel from running it for another task, on some kernels, which the kernel says.
		lost, err := s.value(`latpush_events_lost_total{source="syscalls",reason="recursion"}`)
		if err != nil {
			return err
		}
		if counted > float64(done) || counted+lost < float64(done) {
			return fmt.Errorf("counted %v and lost %v, did %d", counted, lost, done)
		}
		return nil
	})
	t.Logf("%d calls, %d kills", done, kills)
	for query, want := range map[string]float64{
		`resets(` + calls + `[10m])`:                                                     0,
		`sum(resets(softirq_service_seconds_count[10m]))`:                                0,
		`resets(run_queue_latency_seconds_count[10m])`:                                   0,
		`sum(resets(latpush_events_lost_total[10m]))`:                                    0,
		`sum(latpush_source_detached_seconds_total{reason="restart"})`:                   0,
		`sum(latpush_events_lost_total{source=~"syscalls|softirq",reason!="recursion"})`: 0,
	} {
		s.expect(query, want)
	}
	a.stop()
	wantNothingLeft(t, path, programs)
}

// pinnedPrograms returns the ids of the pinned programs in ascending order.
func pinnedPrograms(t *testing.T, path string) []ebpf.ProgramID {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(path, "*", "*", "hooks", "*", "*", "program-*"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no programs are pinned in %s (%v)", path, err)
	}
	var ids []ebpf.ProgramID
	for _, file := range files {
		program, err := ebpf.LoadPinnedProgram(file, nil)
		if err != nil {
			t.Fatal(err)
		}
		info, err := program.Info()
		if err != nil {
			t.Fatal(err)
		}
		id, _ := info.ID()
		ids = append(ids, id)
		_ = program.Close()
	}
	slices.Sort(ids)
	return ids
}

// wantNothingLeft demands that the pins are gone, and the programs too.
func wantNothingLeft(t *testing.T, path string, programs []ebpf.ProgramID) {
	t.Helper()
	left, err := os.ReadDir(path)
	if err != nil || len(left) > 0 {
		t.Errorf("pins are left: %v (%v)", left, err)
	}
	deadline := time.Now().Add(10 * time.Second) // the kernel removes programs a while after they were given up
	for _, id := range programs {
		for {
			program, err := ebpf.NewProgramFromID(id)
			if err != nil {
				break
			}
			_ = program.Close()
			if time.Now().After(deadline) {
				t.Errorf("program %v is left", program)
				break
			}
			time.Sleep(10 * time.Millisecond)
		}
	}
}

// A second agent with the same pins, and a spool of its own, is refused before it attaches anything.
func TestSecondAgentWithTheSamePinsIsRefused(t *testing.T) {
	s := embedded(t)
	folder := t.TempDir()
	path := pinPath(t, folder)
	config := configFile(t, folder, s.writeURL(), rareCalls)
	a := startAgent(t, config)
	a.waitLog("agent started")
	programs := pinnedPrograms(t, path)
	other := t.TempDir()
	second := startAgent(t, editConfig(t, configFile(t, other, s.writeURL(), rareCalls), map[string]string{pinPath(t, other): path}))
	if err := <-second.exited; err == nil || !strings.Contains(second.log.String(), "another latpush agent is running with it") {
		t.Errorf("the second agent ended with %v:\n%s", err, second.log)
	}
	makeCalls(12)
	s.expect(counted, 12)
	if now := pinnedPrograms(t, path); !slices.Equal(now, programs) {
		t.Errorf("the programs are %v, were %v", now, programs)
	}
	a.stop()
	wantNothingLeft(t, path, programs)
}
