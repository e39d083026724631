package kernel

import (
	"errors"
	"io/fs"
	"os"
	"slices"
	"time"

	"github.com/cilium/ebpf"
)

// ReasonRestart is why programs of a source were not attached although it was loaded: an agent ended without a clean stop, and its programs with it.
const ReasonRestart = "restart"

// open makes the source's maps, or takes over those of an agent that ended without a clean stop, and attaches the hooks that are there.
func (s *loadedSource) open(root *pinPath) error {
	now, err := boottime()
	if err != nil {
		return err
	}
	s.state = pinnedState{Loaded: uint64(now), Alive: uint64(now)}
	earlier, again := s.adopt(root)
	if err := s.makeMaps(earlier); err != nil {
		return err
	}
	s.pinMaps(earlier != nil)
	s.since = time.Duration(s.state.Loaded)
	s.attachMissing()
	if again && s.attached() {
		if err := s.countGap(); err != nil {
			s.unpin(err)
		}
	}
	return nil
}

// adopt opens the maps and the hooks of an earlier agent. It returns no maps when there are none to take over, and whether hooks that were attached
// have to be attached again.
func (s *loadedSource) adopt(root *pinPath) (earlier map[string]*ebpf.Map, again bool) {
	if root == nil {
		return nil, false
	}
	fingerprint, err := s.fingerprint()
	if err != nil {
		s.pinErr = err
		return nil, false
	}
	s.pins = newPins(root, s.source.name, fingerprint)
	if err := root.remove(s.source.name, fingerprint); err != nil {
		s.unpin(err)
		return nil, false
	}
	if _, err := os.Lstat(s.pins.folder); errors.Is(err, fs.ErrNotExist) {
		return nil, false
	}
	earlier, again, err = s.loadPinned()
	if err != nil {
		s.options.Log.Warn("counts of an earlier agent cannot be taken over, so counting begins anew", "name", s.source.name, "err", err)
		if err := errors.Join(s.pins.remove(), s.removeHooks()); err != nil {
			s.unpin(err)
		}
		return nil, false
	}
	s.options.Log.Info("counts of an earlier agent are taken over", "name", s.source.name)
	return earlier, again
}

// loadPinned opens what is pinned of the source.
func (s *loadedSource) loadPinned() (earlier map[string]*ebpf.Map, again bool, err error) {
	state, err := s.pins.loadState()
	if err != nil {
		return nil, false, err
	}
	earlier, again, err = s.pins.loadMaps(s.spec.Maps, s.counts)
	if err != nil {
		return nil, false, err
	}
	hooks, interrupted, err := s.pins.attachedHooks()
	if err == nil {
		again = again || interrupted || !s.loadHooks(hooks)
		if again {
			err = s.dropHooks(earlier, state)
		}
	}
	if err != nil {
		closeMaps(earlier)
		return nil, false, err
	}
	s.state = *state
	s.gone = skipped{recursion: state.GoneRecursion, missed: state.GoneMissed}
	s.account.cpu, s.account.away = time.Duration(state.CPU).Seconds(), time.Duration(state.Away)
	return earlier, again, nil
}

// loadHooks opens the pinned hooks. It returns false if one of those that were attached cannot be opened.
func (s *loadedSource) loadHooks(names []string) bool {
	for _, name := range names {
		i := slices.IndexFunc(s.hooks, func(h loadedHook) bool { return h.name == name })
		if i < 0 {
			return false
		}
		h := &s.hooks[i]
		attached, how, err := s.pins.loadHook(&h.hook)
		if err != nil || how == "" {
			return false
		}
		for i, program := range h.programs(how) {
			spec := s.spec.Programs[program]
			attached[i].event = spec.AttachTo
			if isReturnProbe(spec) {
				attached[i].probe = s.probe(program)
			}
		}
		h.attached, h.how = attached, how
	}
	return true
}

// dropHooks removes all hooks, since one of them is lost: what is under way is told from starts whose end nobody saw by beginning with none. What the
// kernel said was lost in the programs is kept as it was said last.
func (s *loadedSource) dropHooks(earlier map[string]*ebpf.Map, state *pinnedState) error {
	now, err := boottime()
	if err != nil {
		return err
	}
	state.gap(now)
	state.GoneRecursion, state.GoneMissed = state.Recursion, state.Missed
	dropped := underWay(s, s.spec.Maps)
	err = s.pins.dropHooks(dropped, state)
	for _, name := range dropped {
		if m := earlier[name]; m != nil {
			err = errors.Join(err, m.Close())
			delete(earlier, name)
		}
	}
	if err := errors.Join(err, s.removeHooks()); err != nil {
		return err
	}
	s.pins.root.settle()
	return nil
}

// underWay returns the names of the maps, of those that there are, that hold what is under way.
func underWay[Map any](s *loadedSource, maps map[string]Map) []string {
	var names []string
	for name := range maps {
		if !s.counts(name) && !isConstants(name) {
			names = append(names, name)
		}
	}
	return names
}

// unpinHooks removes the pins of hooks that are to be detached for a while, and those of the maps that are renewed after that.
func (s *loadedSource) unpinHooks() {
	if s.pins == nil {
		return
	}
	if err := s.pins.dropHooks(underWay(s, s.maps), &s.state); err != nil {
		s.unpin(err)
	}
}

// gap counts the time since the last sign of life as one without programs.
func (p *pinnedState) gap(now time.Duration) {
	if since := uint64(now) - p.Alive; uint64(now) > p.Alive {
		p.Detached += since
	}
	p.Alive = uint64(now)
}

// countGap ends the time without programs.
func (s *loadedSource) countGap() error {
	now, err := boottime()
	if err != nil {
		return err
	}
	s.state.gap(now)
	return s.saveState()
}

// pinMaps pins the maps that are not pinned yet. Without pins the source runs all the same.
func (s *loadedSource) pinMaps(adopted bool) {
	if s.pins == nil {
		return
	}
	var err error
	if adopted {
		err = s.pins.pinMaps(s.maps)
	} else {
		err = s.pins.create(s.maps, &s.state)
	}
	if err != nil {
		s.unpin(err)
	}
}

// pinHook pins a hook that was attached.
func (s *loadedSource) pinHook(h *loadedHook) {
	if s.pins == nil {
		return
	}
	if err := s.pins.pinHook(h.name, h.how, h.programs(h.how), h.attached); err != nil {
		s.unpin(err)
	}
}

// unpin lets the source run without pins, because of an error.
func (s *loadedSource) unpin(err error) {
	s.options.Log.Warn("counts of the source do not survive a crash", "name", s.source.name, "err", err)
	s.pinErr = errors.Join(err, s.pins.root.keepPrograms(s.pins.remove))
	s.pins = nil
}

// seen writes down what an agent that takes the source over has to know.
func (s *loadedSource) seen(now time.Duration) error {
	s.state.Alive = uint64(now)
	s.state.GoneRecursion, s.state.GoneMissed = s.gone.recursion, s.gone.missed
	s.state.CPU, s.state.Away = uint64(s.account.cpu*1e9), uint64(s.account.detachedFor(time.Now()))
	return s.saveState()
}

func (s *loadedSource) saveState() error {
	if s.pins == nil {
		return nil
	}
	return s.pins.save(&s.state)
}
