package vm

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
)

// Errors of [Harness.Run] that callers may want to tell apart.
var (
	ErrCrash   = errors.New("guest kernel crashed")
	ErrHang    = errors.New("guest did not end in time")
	ErrInit    = errors.New("guest init could not do its work")
	ErrNoTests = errors.New("guest ran no test")
)

// Result is what came out of a guest.
type Result struct {
	Release  string            // uname -r of the guest
	Tests    []Test            // in the order in which they started
	ExitCode int               // of the test binary
	Files    map[string][]byte // what the tests left in the guest's out folder, by path below it
	Warnings []string          // the first line of each kind of complaint of the guest's kernel

	Boot  time.Duration // from the start of qemu to the guest's init
	Run   time.Duration // from there to the end of the test binary
	Total time.Duration // from the start of qemu to power-off
}

// Outcome of a test.
type Outcome string

// The outcomes of a test.
const (
	Passed     Outcome = "pass"
	Failed     Outcome = "fail"
	Skipped    Outcome = "skip"
	Unfinished Outcome = "unfinished" // the binary ended in the middle of it
)

// Test is one test or subtest that ran in the guest.
type Test struct {
	Name    string // with its parents: TestNFS/v3/read
	Outcome Outcome
	Elapsed time.Duration // by the guest's clock
	Output  string        // what it printed
}

// Report makes a subtest of t, under the same name, for each test of the guest that failed, was skipped or has such a subtest, so that those are what a
// reader finds; the guest's output names the others. It fails t where the guest's binary failed without any test failing.
func (r *Result) Report(t *testing.T) {
	t.Helper()
	failed := false
	for _, top := range children(r.Tests, "") {
		failed = r.report(t, top) || failed
	}
	passed := 0
	for _, test := range r.Tests {
		if test.Outcome == Passed {
			passed++
		}
	}
	t.Logf("%d of %d tests passed in the guest", passed, len(r.Tests))
	if r.ExitCode != 0 && !failed {
		t.Errorf("test binary ended with code %d in the guest, and none of its tests failed (see its output above)", r.ExitCode)
	}
}

func (r *Result) report(t *testing.T, test Test) (failed bool) {
	t.Helper()
	if r.passed(test) {
		return false
	}
	name := test.Name[strings.LastIndex(test.Name, "/")+1:]
	return !t.Run(name, func(t *testing.T) {
		for _, child := range children(r.Tests, test.Name) {
			r.report(t, child)
		}
		switch test.Outcome {
		case Passed:
		case Skipped:
			t.Skip("skipped in the guest:\n" + test.Output)
		case Failed:
			t.Error("failed in the guest:\n" + test.Output)
		default:
			t.Error("did not finish in the guest:\n" + test.Output)
		}
	})
}

// passed says whether a test and all its subtests did.
func (r *Result) passed(test Test) bool {
	return test.Outcome == Passed &&
		!slices.ContainsFunc(children(r.Tests, test.Name), func(child Test) bool { return !r.passed(child) })
}

// Failures returns the tests that did not end well, of each the innermost subtests only.
func (r *Result) Failures() []Test {
	bad := func(test Test) bool { return test.Outcome != Passed && test.Outcome != Skipped }
	return slices.DeleteFunc(slices.Clone(r.Tests), func(test Test) bool {
		return !bad(test) || slices.ContainsFunc(children(r.Tests, test.Name), bad)
	})
}

// children returns the direct subtests of a test, of the top when parent is empty.
func children(tests []Test, parent string) []Test {
	var found []Test
	for _, test := range tests {
		up := ""
		if i := strings.LastIndex(test.Name, "/"); i >= 0 {
			up = test.Name[:i]
		}
		if up == parent {
			found = append(found, test)
		}
	}
	return found
}

// Table formats results as a table with one line per guest.
func Table(kernels []*Kernel, results []*Result) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%-20s %-28s %7s %7s %7s %7s\n", "kernel", "release", "boot", "tests", "total", "count")
	for i, r := range results {
		fmt.Fprintf(&b, "%-20s %-28s %6.1fs %6.1fs %6.1fs %7d\n",
			kernels[i].Spec, r.Release, r.Boot.Seconds(), r.Run.Seconds(), r.Total.Seconds(), len(r.Tests))
	}
	return b.String()
}
