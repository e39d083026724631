package endtoend

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/latpush/latpush/internal/spool"
)

// Whatever the network does between an edge host and its receiver, nothing is lost, the agent stays small, and when the fault is over what was counted
// meanwhile arrives and live data is live again.
func TestNetworkFaults(t *testing.T) {
	if testing.Short() {
		t.Skip("many seconds")
	}
	s := embedded(t)
	l := newLink(t)
	address := l.forward(strings.TrimPrefix(s.url, "http://"), 100*time.Millisecond)
	folder := t.TempDir()
	config := pushConfig(t, folder, "http://"+address+"/api/v1/write", "    remote_timeout: 3s\n")
	d := &scripted{t: t, s: s, a: startAgentWith(t, config, l.start)}
	d.a.waitLog("source is running")
	d.work()
	s.expect(counted, d.calls)
	for _, fault := range []struct {
		name       string
		begin, end func()
	}{
		{"cut", func() { l.cut(true) }, func() { l.cut(false) }},
		{"half open", func() { l.swallow(true) }, func() { l.swallow(false) }},
		{"1 kbit/s", func() { l.slow(1000) }, func() { l.slow(0) }},
	} {
		t.Run(fault.name, func(t *testing.T) {
			d.part(t)
			fault.begin()
			d.work()
			waitPending(t, filepath.Join(folder, "spool"), 8)
			d.a.checkSize(t)
			fault.end()
			d.s.expect(counted, d.calls)
			// A tick is at most one interval old when it is pushed, and takes a moment to get there.
			d.s.expect(`time() - timestamp(latpush_ticks_total) < bool 2`, 1)
			d.a.checkSize(t)
		})
	}
	d.end()
}

// waitPending waits until so many snapshots wait for the receiver.
func waitPending(t *testing.T, directory string, n int) {
	t.Helper()
	eventually(t, 2*limit, func() error {
		contents, err := spool.Inspect(directory)
		if err != nil {
			return err
		}
		if pending := contents.Cursors[0].Pending; pending < n {
			return fmt.Errorf("%d snapshots wait, want %d", pending, n)
		}
		return nil
	})
}

const (
	maxResident = 64 << 20 // bytes, of an agent that has just loaded programs
	maxFiles    = 100      // a few maps and programs, and one or two connections
)

// checkSize demands that an agent has not grown.
func (a *runningAgent) checkSize(t *testing.T) {
	t.Helper()
	pid := a.command.Process.Pid
	files, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
	if err != nil {
		t.Fatal(err)
	}
	sockets := 0
	for _, file := range files {
		if target, err := os.Readlink(fmt.Sprintf("/proc/%d/fd/%s", pid, file.Name())); err == nil && strings.HasPrefix(target, "socket:") {
			sockets++
		}
	}
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", pid))
	if err != nil {
		t.Fatal(err)
	}
	var total, resident int
	if _, err := fmt.Sscan(string(status), &total, &resident); err != nil {
		t.Fatal(err)
	}
	if bytes := resident * os.Getpagesize(); bytes > maxResident || len(files) > maxFiles || sockets > 4 {
		t.Errorf("the agent has %d bytes of memory, %d open files, %d sockets", bytes, len(files), sockets)
	}
}

// Over a link of 1 kbit/s with a round trip of half a second a backlog arrives, slowly.
func TestSlowLink(t *testing.T) {
	if testing.Short() {
		t.Skip("many seconds")
	}
	t.Parallel()
	s := embedded(t)
	link := newLink(t)
	address := link.forward(strings.TrimPrefix(s.url, "http://"), 250*time.Millisecond)
	l := life{
		Directory: filepath.Join(t.TempDir(), "spool"), Epoch: time.Now().Add(-time.Minute).UnixMilli(), First: 1, Drain: true,
		Receiver: fmt.Sprintf("{url: http://%s/api/v1/write, remote_timeout: 2m, stale_markers: false}", address),
	}
	p := promises{kept: l.prepare(t, 40)}
	link.slow(1000)
	child := l.command(t)
	link.start(child)
	begun := time.Now()
	if err := child.Wait(); err != nil {
		t.Fatalf("delivering ended with %v", err)
	}
	took := time.Since(begun)
	t.Logf("%d snapshots took %v", len(p.kept), took)
	if took < 2*time.Second {
		t.Errorf("the link was not slow: %v", took)
	}
	p.check(t, s, l)
}

// prepare puts snapshots in the spool that nobody delivers yet.
func (l life) prepare(t *testing.T, n int) (numbers []int) {
	t.Helper()
	s, err := spool.Open(spool.Options{Directory: l.Directory}, warnings(t.Output()), nil)
	if err != nil {
		t.Fatal(err)
	}
	for i := range n {
		if err := s.Append(l.numbered(l.First + i)); err != nil {
			t.Fatal(err)
		}
		numbers = append(numbers, l.First+i)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	return numbers
}

// command is the process that has this life.
func (l life) command(t *testing.T) *exec.Cmd {
	t.Helper()
	text, err := json.Marshal(l)
	if err != nil {
		t.Fatal(err)
	}
	command := exec.Command(os.Args[0])
	command.Env = append(os.Environ(), childEnvironment+"="+string(text))
	command.Stderr = t.Output()
	return command
}

// A receiver that stands still, so that connections are accepted and nothing is answered, holds up one attempt after the other and nothing else.
func TestReceiverStandsStill(t *testing.T) {
	if testing.Short() {
		t.Skip("several seconds")
	}
	s := embedded(t)
	address := freeAddress(t)
	release := hang(t, address)
	config := pushConfig(t, t.TempDir(), "http://"+address+"/api/v1/write", "    remote_timeout: 1s\n")
	d := &scripted{t: t, s: s, a: startAgent(t, config)}
	d.a.waitLog("source is running")
	d.work()
	waitPending(t, filepath.Join(filepath.Dir(config), "spool"), 5)
	d.a.checkSize(t)
	release()
	forward(t, address, strings.TrimPrefix(s.url, "http://"))
	s.expect(counted, d.calls)
	d.end()
}
