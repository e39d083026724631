package kernel

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/cilium/ebpf"
)

// How long the kernel may take to detach what was removed, how often it is asked, and how long it is given where it does not answer, for want of
// CAP_SYS_ADMIN.
const (
	leavingLimit  = 5 * time.Second
	leavingStep   = 2 * time.Millisecond
	leavingUnseen = 200 * time.Millisecond
)

// leave notes that the program that is pinned at path goes.
func (p *pinPath) leave(path string) {
	program, err := ebpf.LoadPinnedProgram(path, nil)
	if err != nil {
		return
	}
	defer func() { _ = program.Close() }()
	if info, err := program.Info(); err == nil {
		if id, ok := info.ID(); ok {
			p.leaving = append(p.leaving, id)
		}
	}
}

// keepPrograms calls f, which removes the pins of programs that go on.
func (p *pinPath) keepPrograms(f func() error) error {
	before := len(p.leaving)
	err := f()
	p.leaving = p.leaving[:before]
	return err
}

// settle waits until what was removed is no longer attached, and removes the probes that it was attached to, of which it returns the names.
// Some kernels do both only after a grace period: programs that were attached again before its end would count beside the old ones.
func (p *pinPath) settle() (probes []string) {
	deadline := time.Now().Add(leavingLimit)
	for len(p.leaving) > 0 && time.Now().Before(deadline) {
		program, err := ebpf.NewProgramFromID(p.leaving[0])
		switch {
		case err == nil:
			_ = program.Close()
			time.Sleep(leavingStep)
		case errors.Is(err, os.ErrPermission):
			time.Sleep(leavingUnseen)
			p.leaving = nil
		default:
			p.leaving = p.leaving[1:] // it is gone
		}
	}
	p.leaving = nil
	return removeProbes(probePrefix(p.path))
}

// anyProbe begins the names of all probes that agents define.
const anyProbe = "latpush"

// probePrefix begins the names of the probes that an agent with this pin path defines. They outlive it when it is killed, and so does its mark.
func probePrefix(path string) string { return anyProbe + "_" + short(path) }

// probe returns the name of a program's probe, to which the kernel adds. It is the same after a crash.
func (s *loadedSource) probe(program string) string {
	if s.pins == nil {
		return fmt.Sprintf("%s_%08x", anyProbe, rand.Uint32())
	}
	return probePrefix(s.pins.root.path) + "_" + short(s.source.name+" "+program)
}

func short(text string) string {
	sum := sha256.Sum256([]byte(text))
	return fmt.Sprintf("%x", sum[:4])
}

// removeProbes removes the probes of tracefs whose names begin with a prefix and that nothing uses, and returns their names.
func removeProbes(prefix string) []string {
	var removed []string
	for _, tracefs := range []string{"/sys/kernel/tracing", "/sys/kernel/debug/tracing"} {
		file := filepath.Join(tracefs, "kprobe_events")
		text, err := os.ReadFile(file)
		if err != nil {
			continue
		}
		for line := range strings.Lines(string(text)) {
			first, _, _ := strings.Cut(line, " ") // of r1024:GROUP/EVENT FUNCTION
			_, name, _ := strings.Cut(first, ":")
			if strings.HasPrefix(name, prefix+"_") && writeTo(file, "-:"+name) == nil {
				removed = append(removed, name)
			}
		}
		break
	}
	return removed
}

// writeTo writes to a file of tracefs without emptying it first.
func writeTo(file, text string) error {
	f, err := os.OpenFile(file, os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(text)
	return errors.Join(err, f.Close())
}
