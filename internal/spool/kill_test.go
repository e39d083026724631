package spool

import (
	"bufio"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"

	"github.com/latpush/latpush/internal/spool/spooltest"
)

const childEnvironment = "LATPUSH_SPOOL_TEST_CHILD"

// TestMain makes the test binary its own child process: with a directory in the environment it appends until it is killed.
func TestMain(m *testing.M) {
	if directory := os.Getenv(childEnvironment); directory != "" {
		fmt.Fprintln(os.Stderr, appendForever(directory))
		os.Exit(1)
	}
	os.Exit(m.Run())
}

func killOptions(directory string) Options {
	return Options{Directory: directory, MaxBytes: 64 << 20, SegmentBytes: 16 << 10}
}

// appendForever goes on behind the last snapshot in the spool, and says on standard output what was promised to it: "a 7" for an Append
// that returned, "c 5" for a Commit. It returns only when something is wrong.
func appendForever(directory string) error {
	s, err := Open(killOptions(directory), nil, nil)
	if err != nil {
		return err
	}
	all, err := s.Reader("all")
	if err != nil {
		return err
	}
	next := 1
	for {
		snapshot, _, ok, err := all.TryNext()
		if err != nil {
			return err
		}
		if !ok {
			break
		}
		next = spooltest.Number(snapshot.Taken) + 1
	}
	prompt, err := s.Reader("prompt")
	if err != nil {
		return err
	}
	for ; ; next++ {
		if err := s.Append(spooltest.Snapshot(next)); err != nil {
			return err
		}
		fmt.Println("a", next)
		snapshot, p, ok, err := prompt.TryNext()
		if err != nil || !ok {
			return fmt.Errorf("read behind %d: %v, %w", next, ok, err)
		}
		if next%3 == 0 {
			if err := prompt.Commit(p, nil); err != nil {
				return err
			}
			fmt.Println("c", spooltest.Number(snapshot.Taken))
		}
	}
}

// A process that appends in a loop is killed with SIGKILL at some moment, again and again on the same spool.
func TestKill9(t *testing.T) {
	t.Parallel()
	directory := t.TempDir()
	appended, committed := 0, 0
	for cycle := range 12 {
		a, c := runAndKill(t, directory, 1+rand.IntN(120))
		if a == 0 {
			t.Fatalf("cycle %d: the child has appended nothing", cycle)
		}
		appended, committed = a, max(committed, c)
		s, err := Open(killOptions(directory), nil, nil)
		if err != nil {
			t.Fatal(err)
		}
		numbers, _ := drain(t, readerOf(t, s, "all"))
		// One more may be whole that the child was not told of.
		if n := len(numbers); n != appended && n != appended+1 {
			t.Fatalf("cycle %d: %d snapshots, %d were appended", cycle, n, appended)
		}
		wantNumbers(t, "everything", numbers, upTo(1, len(numbers)))
		rest, _ := drain(t, readerOf(t, s, "prompt"))
		if len(rest) > 0 && rest[0] <= committed || len(numbers)-len(rest) < committed {
			t.Fatalf("cycle %d: reader goes on with %v, %d was committed", cycle, rest, committed)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("%d snapshots in 12 lives, %d committed", appended, committed)
}

// runAndKill starts a child, kills it after some lines, and returns the last snapshots that it was promised.
func runAndKill(t *testing.T, directory string, lines int) (appended, committed int) {
	t.Helper()
	binary, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	child := exec.CommandContext(t.Context(), binary)
	child.Env = append(os.Environ(), childEnvironment+"="+directory)
	var failure strings.Builder
	child.Stderr = &failure
	output, err := child.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	for scanner := bufio.NewScanner(output); scanner.Scan(); lines-- {
		if lines == 0 {
			if err := child.Process.Kill(); err != nil {
				t.Fatal(err)
			}
		}
		what, number, _ := strings.Cut(scanner.Text(), " ")
		n, err := strconv.Atoi(number)
		if err != nil {
			t.Fatalf("child says %q", scanner.Text())
		}
		if what == "c" {
			committed = n
		} else {
			appended = n
		}
	}
	_ = child.Wait() // it was killed
	if failure.Len() > 0 {
		t.Fatalf("child: %s", failure.String())
	}
	return appended, committed
}
