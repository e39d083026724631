package capability

import (
	"errors"
	"os"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func TestNames(t *testing.T) {
	t.Parallel()
	for set, want := range map[Set]string{
		None:                   "none",
		BPF | PerfMon:          "CAP_PERFMON, CAP_BPF",
		SysAdmin | 1:           "CAP_CHOWN, CAP_SYS_ADMIN",
		SysLog | 1<<41 | 1<<63: "CAP_SYSLOG, CAP_41, CAP_63",
	} {
		if got := set.String(); got != want {
			t.Errorf("%x is %s, want %s", uint64(set), got, want)
		}
	}
	if n := len(names()); n != unix.CAP_LAST_CAP+1 {
		t.Errorf("%d names for %d capabilities", n, unix.CAP_LAST_CAP+1)
	}
	if each := (SysAdmin | BPF).Each(); !slices.Equal(each, []Set{SysAdmin, BPF}) {
		t.Errorf("one by one: %v", each)
	}
}

func TestParse(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]Set{"0000000000000000": None, " 000000c000000000\n": BPF | PerfMon, "000001ffffffffff": 1<<41 - 1} {
		if got, err := Parse(text); err != nil || got != want {
			t.Errorf("%q is %v, %v, want %v", text, got, err, want)
		}
	}
	for _, text := range []string{"", "x", "1000001ffffffffff0", "-1"} {
		if got, err := Parse(text); err == nil {
			t.Errorf("%q is %v", text, got)
		}
	}
}

// What a thread sets aside is gone for it, for what it runs, and for nothing else.
// threadsWithout returns how many threads of this process do not hold capabilities.
func threadsWithout(t *testing.T, set Set) (n int) {
	t.Helper()
	threads, err := os.ReadDir("/proc/self/task")
	if err != nil {
		t.Fatal(err)
	}
	for _, thread := range threads {
		status, err := os.ReadFile("/proc/self/task/" + thread.Name() + "/status")
		if err != nil {
			continue // it has ended
		}
		_, rest, _ := strings.Cut(string(status), "CapEff:")
		line, _, _ := strings.Cut(rest, "\n")
		held, err := Parse(line)
		if err != nil {
			t.Fatal(err)
		}
		if !held.Has(set) {
			n++
		}
	}
	return n
}

func TestWithout(t *testing.T) {
	before, err := Effective()
	if err != nil {
		t.Fatal(err)
	}
	const aside = Set(1) << unix.CAP_DAC_OVERRIDE
	if !before.Has(aside) {
		t.Skip("takes a process with CAP_DAC_OVERRIDE")
	}
	failure := errors.New("from within")
	err = Without(aside, func() error {
		if during, err := Effective(); err != nil || during != before&^aside {
			t.Errorf("on the thread it is %v, %v, want %v", during, err, before&^aside)
		}
		status, err := os.ReadFile("/proc/thread-self/status")
		if want := "CapEff:\t"; err != nil || !strings.Contains(string(status), want) {
			t.Errorf("the thread's status: %v", err)
		}
		return failure
	})
	if !errors.Is(err, failure) {
		t.Errorf("returned %v, want %v", err, failure)
	}
	// No thread is left with less: the runtime dies of a call on all threads that one of them may not make.
	for range 1000 {
		if err := Without(aside, func() error { return nil }); err != nil {
			t.Fatal(err)
		}
		if short := threadsWithout(t, aside); short != 0 {
			t.Fatalf("afterwards %d threads do without %v", short, aside)
		}
	}
}
