package vm

import (
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"
)

// TestReport runs this test binary again, because what it looks at are subtests that fail.
func TestReport(t *testing.T) {
	t.Parallel()
	tests := map[string]*Result{
		"mixed": {ExitCode: 1, Tests: []Test{
			{Name: "TestA", Outcome: Failed},
			{Name: "TestA/x", Outcome: Passed},
			{Name: "TestA/y", Outcome: Failed, Output: "bad news"},
			{Name: "TestA/y/deep", Outcome: Passed},
			{Name: "TestB", Outcome: Skipped, Output: "not today"},
			{Name: "TestC", Outcome: Unfinished, Output: "half"},
			{Name: "TestD", Outcome: Passed},
			{Name: "TestD/x", Outcome: Skipped},
		}},
		"good":        {Tests: []Test{{Name: "TestA", Outcome: Passed}}},
		"unexplained": {ExitCode: 2, Tests: []Test{{Name: "TestA", Outcome: Passed}}},
	}
	const variable = "LATPUSH_VM_TEST_REPORT"
	if name := os.Getenv(variable); name != "" {
		tests[name].Report(t)
		return
	}
	for name, want := range map[string]struct {
		good  bool
		lines []string
	}{
		"mixed": {false, []string{
			"--- FAIL: TestReport/TestA ", "--- FAIL: TestReport/TestA/y ", "bad news", "--- SKIP: TestReport/TestB ", "not today",
			"--- FAIL: TestReport/TestC ", "did not finish in the guest", "half", "--- PASS: TestReport/TestD ", "--- SKIP: TestReport/TestD/x ", "3 of 8 tests passed",
		}},
		"good":        {true, []string{"1 of 1 tests passed"}},
		"unexplained": {false, []string{"1 of 1 tests passed", "ended with code 2"}},
	} {
		cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestReport$", "-test.v")
		cmd.Env = append(os.Environ(), variable+"="+name)
		out, err := cmd.CombinedOutput()
		if (err == nil) != want.good {
			t.Errorf("%s: %v\n%s", name, err, out)
		}
		for _, line := range want.lines {
			if !strings.Contains(string(out), line) {
				t.Errorf("%s: %q is not in\n%s", name, line, out)
			}
		}
		for _, passed := range []string{"TestReport/TestA/x", "TestReport/TestA/y/deep"} {
			if strings.Contains(string(out), passed) {
				t.Errorf("%s: a subtest of what passed is in\n%s", name, out)
			}
		}
	}
}

func TestFailures(t *testing.T) {
	t.Parallel()
	result := &Result{Tests: []Test{
		{Name: "TestA", Outcome: Failed},
		{Name: "TestA/x", Outcome: Passed},
		{Name: "TestA/y", Outcome: Failed},
		{Name: "TestA/y/deep", Outcome: Passed},
		{Name: "TestB", Outcome: Skipped},
		{Name: "TestC", Outcome: Unfinished},
		{Name: "TestC/x", Outcome: Unfinished},
		{Name: "TestD", Outcome: Passed},
	}}
	var names []string
	for _, test := range result.Failures() {
		names = append(names, test.Name)
	}
	if want := []string{"TestA/y", "TestC/x"}; !slices.Equal(names, want) {
		t.Errorf("failures %v, want %v", names, want)
	}
}

func TestTable(t *testing.T) {
	t.Parallel()
	got := Table(
		[]*Kernel{{Spec: Spec{Name: "6.1", Arch: "amd64"}}},
		[]*Result{{Release: "6.1.0-50-cloud-amd64", Boot: 3500 * time.Millisecond, Run: 8 * time.Second, Total: 12 * time.Second, Tests: make([]Test, 3)}},
	)
	want := "kernel               release                         boot   tests   total   count\n" +
		"6.1/amd64            6.1.0-50-cloud-amd64            3.5s    8.0s   12.0s       3\n"
	if got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}
