package main

import (
	"bufio"
	"context"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/latpush/latpush/internal/receiver"
)

// command is a run of the command whose standard output can be read line by line.
type command struct {
	lines *bufio.Scanner
	stop  context.CancelFunc
	done  chan error
}

func start(t *testing.T, args ...string) *command {
	t.Helper()
	read, write, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	c := &command{lines: bufio.NewScanner(read), stop: stop, done: make(chan error, 1)}
	go func() {
		err := run(ctx, append([]string{"--web.listen-address=127.0.0.1:0"}, args...), write, io.Discard)
		write.Close()
		c.done <- err
	}()
	t.Cleanup(func() {
		stop()
		read.Close()
	})
	return c
}

// line is the next line of standard output.
func (c *command) line(t *testing.T) string {
	t.Helper()
	if !c.lines.Scan() {
		t.Fatalf("standard output ended: %v", <-c.done)
	}
	return c.lines.Text()
}

func TestRunPrintsItsAddressAndStops(t *testing.T) {
	parent := t.TempDir()
	t.Setenv("TMPDIR", parent)
	c := start(t)
	url := c.line(t)
	response, err := http.Get(url + "/api/v1/query?query=vector(1)")
	if err != nil {
		t.Fatal(err)
	}
	response.Body.Close()
	if response.StatusCode != http.StatusOK {
		t.Errorf("query: %s", response.Status)
	}
	c.stop()
	if err := <-c.done; err != nil {
		t.Errorf("stopped with %v", err)
	}
	if left, err := filepath.Glob(filepath.Join(parent, "*")); err != nil || len(left) != 0 {
		t.Errorf("left behind %v, %v", left, err)
	}
}

// TestMain lets the test binary stand for the command, so that signals and exit codes are those of a real process.
func TestMain(m *testing.M) {
	if os.Getenv("LATPUSH_RECEIVER_TEST_COMMAND") != "" {
		main()
		return
	}
	os.Exit(m.Run())
}

func TestSignalsEndTheProcessWithZero(t *testing.T) {
	t.Parallel()
	for _, signal := range []syscall.Signal{syscall.SIGINT, syscall.SIGTERM} {
		t.Run(signal.String(), func(t *testing.T) {
			t.Parallel()
			parent := t.TempDir()
			read, write, err := os.Pipe()
			if err != nil {
				t.Fatal(err)
			}
			defer read.Close()
			process, err := os.StartProcess(os.Args[0], []string{"latpush-receiver", "--web.listen-address=127.0.0.1:0", "--log.level=error"}, &os.ProcAttr{
				Env:   append(os.Environ(), "LATPUSH_RECEIVER_TEST_COMMAND=1", "TMPDIR="+parent),
				Files: []*os.File{nil, write, os.Stderr},
			})
			if err != nil {
				t.Fatal(err)
			}
			write.Close()
			lines := bufio.NewScanner(read)
			if !lines.Scan() || !strings.HasPrefix(lines.Text(), "http://127.0.0.1:") {
				t.Errorf("printed %q, want the address", lines.Text())
			}
			if err := process.Signal(signal); err != nil {
				t.Fatal(err)
			}
			state, err := process.Wait()
			if err != nil || state.ExitCode() != 0 {
				t.Errorf("ended with %v, %v, want exit code 0", state, err)
			}
			if left, err := filepath.Glob(filepath.Join(parent, "*")); err != nil || len(left) != 0 {
				t.Errorf("left behind %v, %v", left, err)
			}
		})
	}
}

func TestSummaryIsPrintedAgainAndAgain(t *testing.T) {
	t.Parallel()
	c := start(t, "--summary", "--summary.interval=10ms")
	url := c.line(t)
	for range 3 {
		if got, want := c.line(t), url+"   0 samples of 0 metrics received"; got != want {
			t.Errorf("%q, want %q", got, want)
		}
		if got, want := c.line(t), "waiting for the first histogram on "+url+"/api/v1/write"; got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
	c.stop()
	for c.lines.Scan() { // what was printed before the stop
	}
	if err := <-c.done; err != nil {
		t.Errorf("stopped with %v", err)
	}
}

func TestRunRefusesBadFlags(t *testing.T) {
	t.Parallel()
	for arg, want := range map[string]string{
		"--unknown":                            "unknown long flag '--unknown'",
		"--web.listen-address=0.0.0.0:9099":    "address is not loopback",
		"--storage.out-of-order-window=hourly": `not a valid duration string: "hourly"`,
		"--summary.interval=0s":                "--summary.interval is 0s",
		"--log.level=loud":                     "loud",
	} {
		err := run(t.Context(), []string{arg}, os.Stdout, io.Discard)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", arg, err, want)
		}
	}
}

func TestOptions(t *testing.T) {
	t.Parallel()
	f, err := parseFlags(nil)
	if err != nil {
		t.Fatal(err)
	}
	if o := f.options(nil); o.OutOfOrderWindow != time.Hour || o.Retention != 15*24*time.Hour || o.Listen != "127.0.0.1:9099" || o.Directory != "" {
		t.Errorf("defaults are %+v", o)
	}
	f, err = parseFlags([]string{"--storage.out-of-order-window=0s", "--storage.retention=0s", "--storage.path=/data"})
	if err != nil {
		t.Fatal(err)
	}
	if o := f.options(nil); o.OutOfOrderWindow >= 0 || o.Retention >= 0 || o.Directory != "/data" {
		t.Errorf("with 0s: %+v, want negative ones", o)
	}
}

func TestTable(t *testing.T) {
	t.Parallel()
	number := func(v float64) *float64 { return &v }
	got := table(&receiver.Summary{URL: "http://127.0.0.1:9099", Samples: 1234, Metrics: 9, Histograms: []receiver.Histogram{
		{
			Name: "nfs_latency_seconds", Kind: "classic", Series: 5, Events: number(123456), EventRate: number(12.345),
			P50Text: "1.02 ms", P99Text: "16.8 ms", Samples: 1200, AgeSeconds: 3.9,
		},
		{Name: "rpc_latency_seconds", Kind: "custom", Series: 1, P50Text: "–", P99Text: "–", Samples: 34, AgeSeconds: 7300},
	}})
	want, err := os.ReadFile("testdata/table.txt")
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("got\n%swant\n%s", got, want)
	}
}

func TestCrop(t *testing.T) {
	t.Parallel()
	if got, want := crop("12345\n1234\nµµµµµ\n1\n", 3, 4), "1234\n1234\nµµµµ\n"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
	if got, want := crop("a\n", 10, 80), "a\n"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
}
