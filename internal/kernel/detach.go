package kernel

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/cilium/ebpf"
)

// Cost is what the programs of a source take of the CPU, measured in short windows now and then.
type Cost struct {
	Seconds  float64       // CPU time since the source was loaded; the windows stand for the time between them
	Share    Cores         // in the last window
	PerEvent time.Duration // of one run of a program, in the last window in which one ran; 0: none has
	Max      Cores         // the bound, 0 if there is none
	Err      error         // why it is not known
}

// ReasonBudget is why programs are detached that took more of the CPU than max_cpu.
const ReasonBudget = "budget"

func (s *loadedSource) name() string { return s.source.name }

func (s *loadedSource) costs() *account { return &s.account }

// begin notes what the programs have taken of the CPU until now, and returns whether there are any.
func (s *loadedSource) begin() bool {
	for i := range s.hooks {
		for j := range s.hooks[i].attached {
			a := &s.hooks[i].attached[j]
			a.before = a.usage()
		}
	}
	return s.attached()
}

// used returns what the programs took since begin. Those that were attached since then count from their beginning.
func (s *loadedSource) used() (sum usage, attached bool) {
	for i := range s.hooks {
		for j := range s.hooks[i].attached {
			a := &s.hooks[i].attached[j]
			now := a.usage()
			sum.time += now.time - a.before.time
			sum.runs += now.runs - a.before.runs
		}
	}
	return sum, s.attached()
}

// usage returns what a program has taken since it was loaded, as far as it was measured.
func (a *attachment) usage() usage {
	stats, err := a.program.Stats()
	if err != nil {
		return a.before
	}
	return usage{time: stats.Runtime, runs: stats.RunCount}
}

// detach takes the programs out of the kernel, those of waiting hooks with them. The maps, and with them what has been counted, stay.
func (s *loadedSource) detach(why error) error {
	s.gone = s.skipped()
	s.unpinHooks()
	errs := []error{s.closeInFlight()}
	for i := range s.hooks {
		h := &s.hooks[i]
		if h.how == "" && !h.waiting {
			continue
		}
		errs = append(errs, h.remove())
		h.waiting, h.detached, h.err = false, true, why
	}
	return errors.Join(errs...)
}

// remove detaches a hook's programs, starts before ends.
func (h *loadedHook) remove() error {
	var errs []error
	for _, a := range slices.Backward(h.attached) {
		errs = append(errs, a.close())
	}
	h.attached, h.how = nil, ""
	return errors.Join(errs...)
}

// removeHooks detaches all programs.
func (s *loadedSource) removeHooks() error {
	var errs []error
	for i := range s.hooks {
		errs = append(errs, s.hooks[i].remove())
	}
	return errors.Join(errs...)
}

// attachAgain loads and attaches the programs that detach has taken out. After an error they are still detached: no hook could be attached.
func (s *loadedSource) attachAgain() (string, error) {
	defer s.environment.forget()
	defer func() { s.spec = nil }()
	if s.pins != nil {
		s.pins.root.settle()
	}
	if err := s.renew(); err != nil {
		return "", err
	}
	s.pinMaps(true)
	var hooks []*loadedHook
	for i := range s.hooks {
		if h := &s.hooks[i]; h.detached {
			h.detached, h.err = false, nil
			hooks = append(hooks, h)
		}
	}
	s.attachMissing()
	if !s.attached() && !s.waits() {
		errs := []error{s.closeInFlight()}
		for _, h := range hooks {
			h.detached = true
			errs = append(errs, fmt.Errorf("hook %s: %w", h.name, h.err))
		}
		return "", errors.Join(errs...)
	}
	return s.summary(), nil
}

// renew replaces all maps but those that count. The times at which events began before the programs were detached would make the next ends last
// for hours, and the programs' constants have the time from which on events are followed.
func (s *loadedSource) renew() error {
	if err := s.prepare(); err != nil {
		return s.environment.explain(err)
	}
	kept := map[string]*ebpf.Map{}
	for name, m := range s.maps {
		if s.counts(name) {
			kept[name] = m
		}
	}
	spec := &ebpf.CollectionSpec{Maps: s.spec.Maps, Variables: s.spec.Variables, Types: s.spec.Types, ByteOrder: s.spec.ByteOrder}
	collection, err := ebpf.NewCollectionWithOptions(spec, ebpf.CollectionOptions{MapReplacements: kept, Cache: s.environment.cache})
	if err != nil {
		return fmt.Errorf("renew maps: %w", s.environment.explain(err))
	}
	defer collection.Close() // copies of the maps that are kept
	errs := []error{s.closeInFlight()}
	for name, old := range s.maps {
		if kept[name] == nil {
			errs = append(errs, old.Close())
			s.maps[name] = collection.DetachMap(name)
		}
	}
	s.openInFlight()
	return errors.Join(errs...)
}

// counts returns whether a map holds what is reported, or says how.
func (s *loadedSource) counts(name string) bool {
	metricMap := strings.TrimSuffix(strings.TrimSuffix(name, keptSuffix), byCgroup)
	return name == lossesMap || name == cgroupPathsMap || slices.ContainsFunc(s.source.metrics, func(m metric) bool { return m.mapName() == metricMap }) ||
		s.source.inFlight != nil && slices.ContainsFunc(s.source.inFlight.gauges, func(g gauge) bool { return g.name == name })
}

// cost returns what the source takes of the CPU.
func (s *loadedSource) cost() Cost {
	return Cost{Seconds: s.account.cpu, Share: s.account.share, PerEvent: s.account.perEvent, Max: s.account.bound}
}

// metered returns the sources that are loaded. The caller holds k.mu.
func (k *Kernel) metered() []metered {
	var loaded []metered
	for _, s := range k.sources {
		if s.loaded != nil {
			loaded = append(loaded, s.loaded)
		}
	}
	return loaded
}
