package kernel

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/latpush/latpush/internal/capability"
)

// ambient are the attributes of a process of a user without privileges that is given some capabilities, as systemd gives them to a service.
func ambient(set capability.Set) *syscall.SysProcAttr {
	attributes := &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	for n := range uintptr(64) {
		if set.Has(capability.Set(1) << n) {
			attributes.AmbientCaps = append(attributes.AmbientCaps, n)
		}
	}
	return attributes
}

// attachedIn returns, by source, what a child printed: whether it is attached, and why it or its hooks are not.
func attachedIn(output string) map[string]string {
	found := make(map[string]string)
	for line := range strings.Lines(output) {
		line = strings.TrimSpace(line)
		if name, rest, ok := strings.Cut(line, " attached="); ok {
			found[name] = rest
		} else if name, rest, ok := strings.Cut(line, "/"); ok {
			found[name] += "; " + rest
		}
	}
	return found
}

// Every source that attaches for root attaches for a user with the capabilities of the table, and with none of them missing.
func TestSourcesTakeTheCapabilitiesOfTheTable(t *testing.T) {
	asRoot := attachedIn(child(t, "sources", nil))
	outputs := make(map[capability.Set]string) // of a child with that set
	with := func(set capability.Set) string {
		if _, done := outputs[set]; !done {
			outputs[set] = child(t, "sources", ambient(set))
		}
		return outputs[set]
	}
	tried := 0
	for _, name := range Names() {
		table, err := CapabilitiesOf(name)
		if err != nil {
			t.Fatal(err)
		}
		if !strings.HasPrefix(asRoot[name], "true") {
			t.Logf("%s attaches on no condition here: %s", name, asRoot[name])
			continue
		}
		tried++
		if got := attachedIn(with(table.Needed))[name]; !strings.HasPrefix(got, "true") {
			t.Errorf("%s does not attach with %v: %s", name, table.Needed, got)
		}
		for _, one := range table.Needed.Each() {
			got := attachedIn(with(table.Needed &^ one))[name]
			if !strings.HasPrefix(got, "false") || !strings.Contains(got, "missing capability: "+one.String()+"; run as root or grant them") {
				t.Errorf("%s without %v says: %s", name, one, got)
			}
		}
	}
	if tried < 5 {
		t.Errorf("only %d sources attach here at all", tried)
	}
}

func TestCapabilitiesOfSources(t *testing.T) {
	t.Parallel()
	basic := capability.BPF | capability.PerfMon
	for name, want := range map[string]Capabilities{
		"softirq": {Needed: basic},
		"nfs":     {Needed: basic, Useful: capability.SysAdmin},
		"nfs_rpc": {Needed: basic},
	} {
		if got, err := CapabilitiesOf(name); err != nil || got != want {
			t.Errorf("%s takes %+v, %v, want %+v", name, got, err, want)
		}
	}
	if _, err := CapabilitiesOf("x"); err == nil {
		t.Error("there are capabilities of a source that there is not")
	}
}

func TestNeedsEndWithTheLastHookThatWaits(t *testing.T) {
	if _, err := os.Stat("/sys/module/nfs"); err == nil {
		t.Skip("the nfs module is loaded; the guests test both")
	}
	free, bound := new(Cores), DefaultMaxCPU
	k, err := newKernel([]SourceConfig{{Name: "nfs", MaxCPU: free}, {Name: "softirq", MaxCPU: free}}, Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer k.Close()
	if got := needsOf(k)[NeedToAttach]; got != capability.BPF|capability.PerfMon|capability.SysAdmin {
		t.Errorf("while nfs waits, %v is needed to attach", got)
	}
	if err := k.Reconfigure(t.Context(), []SourceConfig{{Name: "softirq", MaxCPU: free}}); err != nil {
		t.Fatal(err)
	}
	if got := needsOf(k); got[NeedToAttach]|got[NeedToBound] != capability.None {
		t.Errorf("without nfs and without a bound the needs are %v", got)
	}
	if err := k.Reconfigure(t.Context(), []SourceConfig{{Name: "softirq", MaxCPU: &bound}}); err != nil {
		t.Fatal(err)
	}
	if got := needsOf(k); got[NeedToAttach] != capability.None || got[NeedToBound] != capability.BPF|capability.PerfMon|capability.SysAdmin {
		t.Errorf("with a bound the needs are %v", got)
	}
}

func TestReadingTakesNoMoreThanItNeeds(t *testing.T) {
	k, err := newKernel(AllConfigs(), Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer k.Close()
	checkReading(t, k)
}

func needsOf(k *Kernel) map[string]capability.Set {
	needs := make(map[string]capability.Set)
	for _, need := range k.Needs() {
		needs[need.Reason] = need.Capabilities
	}
	return needs
}

// checkReading demands that everything can be read with what is needed to read, and with nothing else; and nothing without it.
func checkReading(t *testing.T, k *Kernel) {
	t.Helper()
	needed := needsOf(k)[NeedToRead]
	t.Logf("reading takes %v", needed)
	read := func() error {
		_, _, err := k.Read()
		return err
	}
	if err := capability.Without(^needed, read); err != nil {
		t.Errorf("with %v alone: %v", needed, err)
	}
	err := capability.Without(^capability.None, read)
	if needed != capability.None && !unprivilegedBPF() && !errors.Is(err, unix.EPERM) {
		t.Errorf("without %v: %v, want a refusal", needed, err)
	}
}

// What was given up is named, and a source that runs already is not in the way.
func TestCanReconfigureNamesWhatWasGivenUp(t *testing.T) {
	k, err := newKernel([]SourceConfig{{Name: "softirq", MaxCPU: new(Cores)}}, Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer k.Close()
	wanted := []SourceConfig{{Name: "softirq", MaxCPU: new(Cores)}, {Name: "runqueue", MaxCPU: new(Cores)}}
	if err := k.CanReconfigure(wanted); err != nil {
		t.Errorf("with all capabilities: %v", err)
	}
	err = capability.Without(^capability.BPF, func() error {
		if err := k.CanReconfigure(wanted[:1]); err != nil {
			t.Errorf("a source that runs: %v", err)
		}
		return k.CanReconfigure(wanted)
	})
	want := "source runqueue cannot be attached: it needs CAP_PERFMON, which latpush gave up after its start (restart it)"
	if err == nil || err.Error() != want {
		t.Errorf("without CAP_PERFMON: %v, want %s", err, want)
	}
	err = capability.Without(^capability.None, func() error { return k.CanReconfigure([]SourceConfig{{Name: "softirq"}}) })
	want = "source softirq cannot be bounded by max_cpu: it needs CAP_SYS_ADMIN, CAP_PERFMON, CAP_BPF, which latpush gave up after its start (restart it)"
	if err == nil || err.Error() != want {
		t.Errorf("a bound without capabilities: %v, want %s", err, want)
	}
	err = capability.Without(capability.PerfMon|capability.BPF, func() error { return k.CanReconfigure(wanted) })
	if err != nil {
		t.Errorf("CAP_SYS_ADMIN stands for both, but: %v", err)
	}
	// Whoever tries all the same is told the same.
	_ = capability.Without(^capability.None, func() error { return k.Reconfigure(t.Context(), wanted) })
	if got := fmt.Sprint(k.Sources()[1].Err, k.Sources()[1].Hooks); !strings.Contains(got, "latpush gave up CAP_PERFMON, CAP_BPF after its start: restart it") {
		t.Errorf("runqueue says: %s", got)
	}
}
