package kernel

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"
)

// defaultReturnProbes is how many calls a kretprobe can follow at once. The kernel's default, 10 or twice the CPUs, is few for calls that hang.
const defaultReturnProbes = 1024

// attachment is a program in its hook.
type attachment struct {
	event   string
	program *ebpf.Program
	link    link.Link
	probe   string // of a probe that was made through tracefs: the name of its group up to the last "_"
	misses  uint64 // how often it was skipped, as far as is known
	before  usage  // what the program had taken of the CPU when the present measurement began
}

// close detaches the program, unless its link is pinned. The probe of a link that was pinned until now may be in use a moment longer:
// pinPath.settle removes it.
func (a *attachment) close() error {
	err := a.link.Close()
	if errors.Is(err, unix.EBUSY) {
		err = nil
	}
	return errors.Join(err, a.program.Close())
}

// errAbsent says that the kernel does not have an event.
var errAbsent = errors.New("not in this kernel")

// attachHook tries the ways of a hook in turn and returns what is attached and how.
func (s *loadedSource) attachHook(h *hook) ([]attachment, string, error) {
	if h.insteadOf != "" && hasSymbol(h.insteadOf) {
		return nil, "", errAbsent
	}
	var errs []error
	for _, w := range h.ways {
		if !s.options.allows(w.how) {
			continue
		}
		attached, err := s.attachWay(h, w)
		if err == nil {
			return attached, w.how, nil
		}
		errs = append(errs, fmt.Errorf("%s: %w", w.how, s.environment.explain(err)))
	}
	if len(errs) == 0 {
		return nil, "", errors.New("none of the ways to attach it is allowed")
	}
	if h.module != "" && !hasSymbol(h.symbol()) {
		return nil, "", errAbsent
	}
	return nil, "", errors.Join(errs...)
}

// attachWay attaches all events of a hook in one way, or none.
func (s *loadedSource) attachWay(h *hook, w way) (attached []attachment, err error) {
	names := h.programs(w.how)
	programs, err := s.load(names)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err == nil {
			return
		}
		for _, a := range attached {
			_ = a.link.Close()
		}
		for _, program := range programs {
			_ = program.Close()
		}
		attached = nil
	}()
	for _, name := range names {
		spec := s.spec.Programs[name]
		a := attachment{event: spec.AttachTo, program: programs[name]}
		if err := a.attach(spec, s.options.returnProbes(), s.probe(name)); err != nil {
			return attached, fmt.Errorf("attach %s: %w", spec.SectionName, err)
		}
		attached = append(attached, a)
	}
	return attached, nil
}

// load loads programs into the kernel, with the source's maps.
func (s *loadedSource) load(names []string) (map[string]*ebpf.Program, error) {
	spec := &ebpf.CollectionSpec{
		Maps: s.spec.Maps, Programs: map[string]*ebpf.ProgramSpec{}, Variables: s.spec.Variables, Types: s.spec.Types, ByteOrder: s.spec.ByteOrder,
	}
	for _, name := range names {
		program, ok := s.spec.Programs[name]
		if !ok {
			return nil, fmt.Errorf("load program %s: the object has no such program", name)
		}
		spec.Programs[name] = program
	}
	collection, err := ebpf.NewCollectionWithOptions(spec, ebpf.CollectionOptions{MapReplacements: s.maps, Cache: s.environment.cache})
	if err != nil {
		return nil, trimVerifierLog(err)
	}
	programs := collection.Programs
	collection.Programs = nil
	collection.Close() // the maps are copies, the source keeps its own
	return programs, nil
}

// trimVerifierLog makes a refusal by the verifier one line: its cause and the last thing that the verifier said.
func trimVerifierLog(err error) error {
	var refused *ebpf.VerifierError
	if !errors.As(err, &refused) || len(refused.Log) == 0 {
		return err
	}
	line := refused.Log[len(refused.Log)-1]
	for i := len(refused.Log) - 1; i >= 0; i-- {
		if text := strings.TrimSpace(refused.Log[i]); text != "" && !strings.HasPrefix(text, "processed ") {
			line = text
			break
		}
	}
	return fmt.Errorf("load program: %s: %s", refused.Cause.Error(), line) // the verifier's refusal is not one of a permission
}

// attach puts the program into its hook. A return probe can follow that many calls at once, and has that name.
func (a *attachment) attach(spec *ebpf.ProgramSpec, returnProbes int, probe string) (err error) {
	switch spec.Type {
	case ebpf.Tracing:
		a.link, err = link.AttachTracing(link.TracingOptions{Program: a.program})
	case ebpf.RawTracepoint:
		a.link, err = link.AttachRawTracepoint(link.RawTracepointOptions{Name: spec.AttachTo, Program: a.program})
	case ebpf.TracePoint:
		group, name, _ := strings.Cut(spec.AttachTo, "/")
		a.link, err = link.Tracepoint(group, name, a.program, nil)
	case ebpf.Kprobe:
		if !isReturnProbe(spec) {
			a.link, err = link.Kprobe(spec.AttachTo, a.program, nil)
			break
		}
		a.probe = probe
		a.link, err = link.Kretprobe(spec.AttachTo, a.program, &link.KprobeOptions{RetprobeMaxActive: returnProbes, TraceFSPrefix: a.probe})
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			a.probe = ""
			a.link, err = link.Kretprobe(spec.AttachTo, a.program, nil) // no tracefs: with the kernel's default number
		}
	default:
		err = fmt.Errorf("program type %s is not one that hooks have", spec.Type)
	}
	return err
}

func isReturnProbe(spec *ebpf.ProgramSpec) bool {
	return strings.HasPrefix(spec.SectionName, "kretprobe/")
}
