package kernel

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"
	"golang.org/x/sys/unix"

	"github.com/latpush/latpush/bpf/objects"
	"github.com/latpush/latpush/internal/capability"
)

// Capabilities are what a source takes of a process that does not run as root. Root without capabilities is no exception.
type Capabilities struct {
	Needed capability.Set // without one of them it does not run
	Useful capability.Set // without them it runs: by kprobes, which cost more, or with "other" in the place of the names of functions
}

// CapabilitiesOf returns what a source takes. The error says that there is no such source.
func CapabilitiesOf(name string) (Capabilities, error) {
	s, known := findSource(name)
	if !known {
		return Capabilities{}, fmt.Errorf("find source %q: unknown", name)
	}
	spec, err := objects.Load(name)
	if err != nil {
		return Capabilities{}, err
	}
	return s.takes(spec), nil
}

// takes returns what the source takes.
func (s *source) takes(spec *ebpf.CollectionSpec) Capabilities {
	c := Capabilities{Needed: capability.BPF | capability.PerfMon}
	if slices.ContainsFunc(s.hooks, func(h hook) bool { return h.module != "" && h.isFunction() }) {
		c.Useful |= capability.SysAdmin
	}
	if s.namesFunctions(spec) {
		c.Useful |= capability.SysLog
	}
	return c
}

// namesFunctions returns whether a label of the source is the name of a kernel function.
func (s *source) namesFunctions(spec *ebpf.CollectionSpec) bool {
	return slices.ContainsFunc(s.metrics, func(m metric) bool {
		if spec.Maps[m.mapName()] == nil {
			return false
		}
		key, ok := spec.Maps[m.mapName()].Key.(*btf.Struct)
		return ok && slices.ContainsFunc(key.Members, func(member btf.Member) bool {
			named, is := member.Type.(*btf.Typedef)
			return is && named.Name == symbolType
		})
	})
}

// Reasons to keep capabilities while the sources run.
const (
	NeedToRead   = "read"    // this kernel lets nobody else read maps
	NeedToAttach = "modules" // a hook waits for its module
	NeedToBound  = "max_cpu" // a source may be measured, detached and attached again
	NeedToName   = "symbols" // a label is the name of a function, and names are looked up as they appear
)

// Need is what the sources still take, and for what.
type Need struct {
	Capabilities capability.Set
	Reason       string // NeedToRead, NeedToAttach, NeedToBound or NeedToName
}

// Needs returns what the sources take from now on. It gets less as hooks are attached, and may get more with Reconfigure.
func (k *Kernel) Needs() []Need {
	k.mu.Lock()
	defer k.mu.Unlock()
	var read, attach, bound, name capability.Set
	if k.environment.readingTakesBPF() {
		read = capability.BPF
	}
	for _, s := range k.sources {
		if s.loaded == nil {
			continue
		}
		c := s.loaded.takes
		if s.loaded.waits() {
			attach |= c.Needed | c.Useful&capability.SysAdmin
		}
		bound |= s.config.boundingTakes(c)
		name |= c.Useful & capability.SysLog
	}
	needs := []Need{{read, NeedToRead}, {attach, NeedToAttach}, {bound, NeedToBound}, {name, NeedToName}}
	return slices.DeleteFunc(needs, func(n Need) bool { return n.Capabilities == capability.None })
}

// boundingTakes returns what it takes to keep a source within its bound: to measure it, and to attach it again after it was detached.
func (c *SourceConfig) boundingTakes(of Capabilities) capability.Set {
	if c.maxCPU() == 0 {
		return capability.None
	}
	return of.Needed | capability.SysAdmin
}

// CanReconfigure returns an error for each source that Reconfigure would have to load, or to bound, and cannot because of capabilities that this
// process had when the sources were opened and has given up since. The error names the source, the capabilities and what to do.
func (k *Kernel) CanReconfigure(configs []SourceConfig) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	var errs []error
	for i := range configs {
		errs = append(errs, k.canTakeOver(&configs[i]))
	}
	return errors.Join(errs...)
}

func (k *Kernel) canTakeOver(config *SourceConfig) error {
	c, err := CapabilitiesOf(config.Name)
	if err != nil {
		return err
	}
	what, needed := "attached", c.Needed
	if i := slices.IndexFunc(k.sources, func(s *configuredSource) bool { return s.config.countsAs(config) }); i >= 0 {
		// It runs, or it did not run before either.
		what, needed = "bounded by max_cpu", config.boundingTakes(c)&^k.sources[i].config.boundingTakes(c)
	}
	if gone := k.environment.givenUp(needed); gone != capability.None {
		return fmt.Errorf("source %s cannot be %s: it needs %v, which latpush gave up after its start (restart it)", config.Name, what, gone)
	}
	return nil
}

// givenUp returns those of some capabilities that this process had at the beginning and does not have now. CAP_SYS_ADMIN stands for the others.
func (e *environment) givenUp(needed capability.Set) capability.Set {
	now, err := capability.Effective()
	if err != nil || now.Has(capability.SysAdmin) {
		return capability.None
	}
	return needed & e.held() &^ now
}

// held returns the capabilities that the process had at the beginning.
func (e *environment) held() capability.Set {
	if e.atStart.Has(capability.SysAdmin) {
		return e.atStart | capability.BPF | capability.PerfMon
	}
	return e.atStart
}

// readingTakesBPF returns whether reading a map takes CAP_BPF. Until 5.19 it does unless kernel.unprivileged_bpf_disabled is 0, which can change.
func (e *environment) readingTakesBPF() bool {
	if !e.readProbed {
		e.readProbed = true
		e.readTakesBPF = unprivilegedBPF() || tryReading() != nil
	}
	return e.readTakesBPF
}

// unprivilegedBPF returns whether the system lets everybody use bpf(2).
func unprivilegedBPF() bool {
	return setting("unprivileged_bpf_disabled") == "0"
}

// setting returns one of the kernel's settings, which are small numbers, or nothing if there is none of that name.
func setting(name string) string {
	text, err := os.ReadFile("/proc/sys/kernel/" + name)
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(text))
}

// tryReading reads a map without capabilities.
func tryReading() error {
	m, err := ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.Array, KeySize: 4, ValueSize: 8, MaxEntries: 1})
	if err != nil {
		return fmt.Errorf("create map: %w", err)
	}
	defer func() { _ = m.Close() }()
	return capability.Without(^capability.None, func() error {
		var value uint64
		return m.Lookup(uint32(0), &value)
	})
}

// explain adds to an error of loading or attaching what the operator can do about it.
func (e *environment) explain(err error) error {
	if err == nil {
		return nil
	}
	var hints []string
	if errors.Is(err, unix.EPERM) {
		if mode := lockdown(); mode == "confidentiality" {
			hints = append(hints, "the kernel is locked down in confidentiality mode, which refuses programs that read kernel memory: boot with lockdown=integrity")
		}
		if missing := e.missing(); missing != "" {
			hints = append(hints, missing)
		}
	}
	if now, unknown := capability.Effective(); errors.Is(err, unix.EACCES) && setting("perf_event_paranoid") > "2" &&
		unknown == nil && !now.Has(capability.SysAdmin) {
		hints = append(hints, "kernel.perf_event_paranoid is above 2, so kprobes take CAP_SYS_ADMIN: grant it, or set it to 2")
	}
	if _, statErr := os.Stat("/sys/kernel/btf/vmlinux"); os.IsNotExist(statErr) && errors.Is(err, ebpf.ErrNotSupported) {
		hints = append(hints, "the kernel has no type information in /sys/kernel/btf/vmlinux: it needs CONFIG_DEBUG_INFO_BTF")
	}
	if len(hints) == 0 {
		return err
	}
	return fmt.Errorf("%w (%s)", err, strings.Join(hints, "; "))
}

// missing names the capabilities that loading and attaching need and that this process does not have, and says what to do.
func (e *environment) missing() string {
	const needed = capability.BPF | capability.PerfMon
	now, err := capability.Effective()
	if err != nil || now.Has(capability.SysAdmin) || now.Has(needed) {
		return ""
	}
	if gone := e.givenUp(needed); gone != capability.None {
		return fmt.Sprintf("latpush gave up %v after its start: restart it", gone)
	}
	return fmt.Sprintf("missing capability: %v; run as root or grant them", needed&^now)
}

// lockdown returns the kernel's lockdown mode: none, integrity or confidentiality.
func lockdown() string {
	raw, err := os.ReadFile("/sys/kernel/security/lockdown")
	if err != nil {
		return "none"
	}
	_, rest, _ := strings.Cut(string(raw), "[")
	mode, _, _ := strings.Cut(rest, "]")
	return mode
}

// SystemFiles are what the sources read and write while they run.
type SystemFiles struct {
	Read  []string // folders with all that is below them
	Write []string // files
}

// Files returns what attaching and reading use. A rule for something below /proc would not last: its inodes come and go with the kernel's memory.
func Files() SystemFiles {
	return SystemFiles{
		Read: []string{
			"/proc", "/sys/kernel/btf", "/sys/module", "/sys/kernel/tracing", "/sys/kernel/debug/tracing", "/sys/kernel/security/lockdown",
			"/sys/bus/event_source", "/sys/devices", "/sys/fs/cgroup",
		},
		Write: []string{"/sys/kernel/tracing/kprobe_events", "/sys/kernel/debug/tracing/kprobe_events"}, // kretprobes that follow many calls
	}
}
