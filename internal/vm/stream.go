package vm

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os/exec"
	"strings"
	"time"
)

// testStream turns the output of a test binary into tests. The Go toolchain's own converter does the parsing: the binary runs with
// -test.v=test2json, which marks the framework's lines, so that nothing that a test prints can be taken for one.
type testStream struct {
	log   Logger
	tests map[string]*Test
	order []string

	input io.WriteCloser
	done  chan struct{}
	err   error // read after done
}

// testEvent is one line of test2json, as documented there.
type testEvent struct {
	Action  string
	Test    string
	Elapsed float64 // seconds
	Output  string
}

func newTestStream(ctx context.Context, log Logger) (*testStream, error) {
	cmd := exec.CommandContext(ctx, "go", "tool", "test2json", "-t") // without -t it leaves out how long a test took
	input, err := cmd.StdinPipe()
	if err != nil {
		return nil, fmt.Errorf("start test2json: %w", err)
	}
	output, err := cmd.StdoutPipe()
	if err != nil {
		return nil, fmt.Errorf("start test2json: %w", err)
	}
	var complaint strings.Builder
	cmd.Stderr = &complaint
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start test2json: %w", err)
	}
	s := &testStream{log: log, tests: map[string]*Test{}, input: input, done: make(chan struct{})}
	go func() {
		defer close(s.done)
		err := s.events(output)
		_, _ = io.Copy(io.Discard, output) // so that the converter can end
		if waitErr := cmd.Wait(); err == nil && waitErr != nil {
			err = fmt.Errorf("convert test output: %w: %s", waitErr, complaint.String())
		}
		s.err = err
	}()
	return s, nil
}

// events reads the converter's output to its end.
func (s *testStream) events(r io.Reader) error {
	decoder := json.NewDecoder(r)
	for {
		var e testEvent
		if err := decoder.Decode(&e); err == io.EOF {
			return nil
		} else if err != nil {
			return fmt.Errorf("convert test output: %w", err)
		}
		s.event(e)
	}
}

func (s *testStream) event(e testEvent) {
	if e.Action == "output" {
		s.log.Logf("%s", strings.TrimRight(e.Output, "\n"))
	}
	if e.Test == "" {
		return
	}
	test := s.tests[e.Test]
	if test == nil {
		test = &Test{Name: e.Test, Outcome: Unfinished}
		s.tests[e.Test] = test
		s.order = append(s.order, e.Test)
	}
	switch e.Action {
	case "output":
		test.Output += e.Output
	case "pass", "fail", "skip":
		test.Outcome = Outcome(e.Action)
		test.Elapsed = time.Duration(e.Elapsed * float64(time.Second))
	}
}

// finish ends the input and returns the tests in the order in which they started.
func (s *testStream) finish() ([]Test, error) {
	if err := s.input.Close(); err != nil {
		return nil, fmt.Errorf("convert test output: %w", err)
	}
	<-s.done
	tests := make([]Test, 0, len(s.order))
	for _, name := range s.order {
		tests = append(tests, *s.tests[name])
	}
	return tests, s.err
}
