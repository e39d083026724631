package vm

import (
	"io"
	"reflect"
	"testing"
	"time"
)

func TestStream(t *testing.T) {
	t.Parallel()
	log := &lines{}
	s, err := newTestStream(t.Context(), log)
	if err != nil {
		t.Fatal(err)
	}
	const mark = "\x16" // the framework marks its own lines
	for _, piece := range []string{
		mark + "=== RUN   TestA\n", mark + "=== RUN   TestA/x\n", "--- FAIL: TestInvented (0.00s)\nhal", "f\n",
		mark + "--- PASS: TestA (1.50s)\n", mark + "--- SKIP: TestA/x (0.25s)\n", mark + "=== RUN   TestB\n", "going\n",
	} {
		if _, err := io.WriteString(s.input, piece); err != nil {
			t.Fatal(err)
		}
	}
	tests, err := s.finish()
	if err != nil {
		t.Fatal(err)
	}
	want := []Test{
		{Name: "TestA", Outcome: Passed, Elapsed: 1500 * time.Millisecond, Output: "=== RUN   TestA\n--- PASS: TestA (1.50s)\n"},
		{
			Name: "TestA/x", Outcome: Skipped, Elapsed: 250 * time.Millisecond,
			Output: "=== RUN   TestA/x\n--- FAIL: TestInvented (0.00s)\nhalf\n--- SKIP: TestA/x (0.25s)\n",
		},
		{Name: "TestB", Outcome: Unfinished, Output: "=== RUN   TestB\ngoing\n"},
	}
	if !reflect.DeepEqual(tests, want) {
		t.Errorf("got %+v\nwant %+v", tests, want)
	}
	if len(log.text) != 8 {
		t.Errorf("log has %q", log.text)
	}
}
