package endtoend

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/latpush/latpush/internal/endtoend/rig"
	"github.com/latpush/latpush/internal/latency"
	"github.com/latpush/latpush/internal/receivers"
	"github.com/latpush/latpush/internal/spool"
)

// childEnvironment makes the test binary the process that is killed; its value is a life in JSON.
const childEnvironment = "LATPUSH_ENDTOEND_LIFE"

// life is what such a process is told.
type life struct {
	Directory string // of the spool
	Receiver  string // an entry of remote_write
	Epoch     int64  // Unix milliseconds of number 0
	First     int    // number of the first snapshot
	Drain     bool   // append nothing, deliver what is there
}

func (l life) line(log io.Writer) (*rig.Line, error) {
	return rig.OpenLine(rig.LineOptions{
		Spool: spool.Options{Directory: l.Directory}, Receiver: l.Receiver, Interval: interval, Clock: rig.NewClock(l.numbered(0).Taken), Log: warnings(log),
	})
}

func warnings(w io.Writer) *slog.Logger {
	return slog.New(slog.NewTextHandler(w, &slog.HandlerOptions{Level: slog.LevelWarn}))
}

// live appends snapshots as fast as it can and says the number of each on standard output when the spool has promised to keep it. It returns when
// something is wrong, or when a life that is there to deliver has done so.
func live(text string) error {
	var l life
	if err := json.Unmarshal([]byte(text), &l); err != nil {
		return err
	}
	line, err := l.line(os.Stderr)
	if err != nil {
		return err
	}
	if l.Drain {
		drained, err := line.Drain(5 * time.Minute)
		if err == nil && !drained {
			err = errors.New("the spool is not empty after five minutes")
		}
		return err
	}
	for n := l.First; ; n++ {
		if err := line.Spool.Append(l.numbered(n)); err != nil {
			return err
		}
		fmt.Println(n)
	}
}

const (
	numberStep   = 2 * time.Millisecond // between two snapshots, on their clocks
	numberMetric = "kill_number"
	workMetric   = "kill_latency_seconds"
)

// numbered makes the snapshot of a number: a gauge with the number, and a histogram of which every line follows from it.
func (l life) numbered(n int) *latency.Snapshot {
	at := time.Duration(n) * numberStep
	return &latency.Snapshot{
		Taken: latency.Instant{BootID: [16]byte{9}, Boottime: time.Hour + at, Wall: time.UnixMilli(l.Epoch).Add(at)},
		Families: []latency.Family{
			{
				Name: workMetric, Kind: latency.Histogram, Bounds: []uint64{1000, 2000},
				Series: []latency.Series{{Start: time.Minute, Sum: uint64(n) * 1_000_000_000, Counts: []uint64{uint64(n), 2 * uint64(n), uint64(n)}}},
			},
			{Name: numberMetric, Kind: latency.Gauge, Series: []latency.Series{{Value: float64(n)}}},
		},
	}
}

// factors say by what each line of a snapshot's number is multiplied, by the selector of the line.
func factors() map[string]int {
	return map[string]int{
		numberMetric: 1, workMetric + `_bucket{le="1e-06"}`: 1, workMetric + `_bucket{le="2e-06"}`: 3, workMetric + `_bucket{le="+Inf"}`: 4,
		workMetric + "_sum": 1, workMetric + "_count": 4,
	}
}

// promises are what the processes said.
type promises struct {
	kept  []int // numbers that were promised
	doubt []int // that may have been kept when the process was killed before it could say so
}

// A process that appends and sends without a pause is killed with SIGKILL at random moments, while the receiver refuses requests, or stores them and says
// that it did not, or hangs up. What was promised arrives, nothing else does, and every line has the value that it had in its snapshot.
func TestKill9WhileSending(t *testing.T) {
	cycles, at := 200, func() *server { return real(t, receivers.Prometheus, receivers.Options{}) }
	if testing.Short() {
		cycles, at = 20, func() *server { return embedded(t) }
	}
	t.Parallel()
	s := at()
	seed := seedOf(t)
	random := rand.New(rand.NewPCG(seed, 0))
	l := life{
		Directory: filepath.Join(t.TempDir(), "spool"), Epoch: time.Now().Add(-25 * time.Minute).UnixMilli(), First: 1,
		Receiver: fmt.Sprintf("{url: %s, queue_config: {min_backoff: 5ms, max_backoff: 20ms}}", unreliable(t, s, seed).url),
	}
	var all promises
	for range cycles {
		kept := l.runAndKill(t, time.Duration(random.Int64N(int64(400*time.Millisecond))))
		all.kept = append(all.kept, kept...)
		l.First += len(kept)
		all.doubt = append(all.doubt, l.First)
		l.First++
	}
	line, err := l.line(t.Output())
	if err != nil {
		t.Fatal(err)
	}
	if drained, err := line.Drain(time.Minute); !drained || err != nil {
		t.Fatalf("the spool is not empty after a minute (%v)", err)
	}
	t.Logf("%d snapshots promised in %d lives", len(all.kept), cycles)
	all.check(t, s, l)
}

// seedOf prints the seed of a test, which LATPUSH_TEST_SEED sets.
func seedOf(t *testing.T) uint64 {
	t.Helper()
	seed := rand.Uint64()
	if text := os.Getenv("LATPUSH_TEST_SEED"); text != "" {
		var err error
		if seed, err = strconv.ParseUint(text, 10, 64); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("LATPUSH_TEST_SEED=%d", seed)
	return seed
}

// unreliable stands before a receiver and lets one request in six go wrong.
func unreliable(t *testing.T, s *server, seed uint64) *front {
	t.Helper()
	random := rand.New(rand.NewPCG(seed, 1))
	f := newFront(t, s.writeURL())
	f.answer(func(*arrival) *reply {
		switch random.IntN(18) {
		case 0:
			return &reply{status: 503, text: "try again"}
		case 1:
			return &reply{status: 500, text: "stored, but who knows", stored: true}
		case 2:
			return &reply{status: hangUp, stored: true}
		default:
			return nil
		}
	})
	return f
}

// runAndKill starts a process, kills it after a while, and returns the numbers that it promised.
func (l life) runAndKill(t *testing.T, after time.Duration) (kept []int) {
	t.Helper()
	child := l.command(t)
	var failure strings.Builder
	child.Stderr = &failure
	output, err := child.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	killed := time.AfterFunc(startOfChild()+after, func() { _ = child.Process.Kill() })
	defer killed.Stop()
	for scanner := bufio.NewScanner(output); scanner.Scan(); {
		n, err := strconv.Atoi(scanner.Text())
		if err != nil || n != l.First+len(kept) {
			t.Fatalf("after %d numbers from %d the process said %q", len(kept), l.First, scanner.Text())
		}
		kept = append(kept, n)
	}
	if err := child.Wait(); child.ProcessState.Exited() {
		t.Fatalf("the process ended by itself with %v: %s", err, failure.String())
	}
	return kept
}

// startOfChild is about how long the process takes until the spool opens, which is measured once.
var startOfChild = sync.OnceValue(func() time.Duration {
	begun := time.Now()
	child := exec.Command(os.Args[0])
	child.Env = append(os.Environ(), childEnvironment+"=no life")
	_ = child.Run() // it ends as soon as it has seen that
	return time.Since(begun)
})

// check compares what the receiver has with what was promised.
func (p *promises) check(t *testing.T, s *server, l life) {
	t.Helper()
	wanted := make(map[int]bool, len(p.kept)) // false for those in doubt
	for _, n := range p.doubt {
		wanted[n] = false
	}
	for _, n := range p.kept {
		wanted[n] = true
	}
	for selector, factor := range factors() {
		got := make(map[int]bool)
		for _, sample := range s.raw(selector, time.Hour) {
			n := int(sample.Timestamp.Time().Sub(time.UnixMilli(l.Epoch)) / numberStep)
			if _, known := wanted[n]; !known || float64(sample.Value) != float64(n*factor) || got[n] {
				t.Fatalf("%s: the receiver has %v at %v, the time of number %d, which %s", selector, sample.Value, sample.Timestamp.Time(), n,
					map[bool]string{true: "was appended", false: "was never appended"}[known])
			}
			got[n] = true
		}
		var lost []int
		for _, n := range slices.Sorted(maps.Keys(wanted)) {
			if wanted[n] && !got[n] {
				lost = append(lost, n)
			}
		}
		if len(lost) > 0 {
			t.Errorf("%s: of %d promised numbers %d are lost: %v ...", selector, len(p.kept), len(lost), lost[:min(10, len(lost))])
		}
	}
}
