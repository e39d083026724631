package kernel

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/cilium/ebpf"

	"github.com/latpush/latpush/bpf/objects"
)

// loadedSource is a source whose maps are in the kernel. Its hooks come and go with their modules. Guarded by Kernel.mu.
type loadedSource struct {
	source      source
	config      SourceConfig
	options     *Options
	environment *environment
	spec        *ebpf.CollectionSpec // nil unless something is being loaded: it is many times as large as all the rest
	maps        map[string]*ebpf.Map
	tables      []*table
	numberings  map[string]numbering // by the type of the members that they name
	losses      *lossReader
	takes       Capabilities
	inFlight    *inFlightReader // nil: the source has none, or inFlightErr says why not
	inFlightErr error
	hooks       []loadedHook
	since       time.Duration // CLOCK_BOOTTIME when counting could begin
	memory      uint64        // bytes that the maps had in the kernel when they were made
	account     account
	gone        skipped     // by programs that were detached since
	state       pinnedState // what a later agent has to know
	pins        *pins       // nil: not pinned
	pinErr      error       // why not, if it was tried
}

// loadedHook is a hook and what became of it.
type loadedHook struct {
	hook
	attached []attachment
	how      string // empty: not attached
	waiting  bool   // for its module
	detached bool   // with the whole source, until it is attached again
	err      error  // why not attached
}

// loadSource puts the maps of a source into the kernel, and pins them below root unless it is nil, and attaches the hooks that are there.
func loadSource(config *SourceConfig, o *Options, e *environment, root *pinPath) (*loadedSource, error) {
	description, known := findSource(config.Name)
	if !known {
		return nil, fmt.Errorf("load source %q: unknown", config.Name)
	}
	s := &loadedSource{source: description, config: *config, options: o, environment: e}
	if err := s.prepare(); err != nil {
		return nil, e.explain(err)
	}
	defer func() { s.spec = nil }()
	s.takes = s.source.takes(s.spec)
	s.account = newAccount(o.timing(), config.maxCPU(), time.Now())
	for _, h := range description.hooks {
		if config.wants(&h) {
			s.hooks = append(s.hooks, loadedHook{hook: h})
		}
	}
	if err := s.open(root); err != nil {
		return nil, errors.Join(err, s.close())
	}
	s.openInFlight()
	return s, nil
}

// prepare reads the source's object and sets its constants.
func (s *loadedSource) prepare() error {
	spec, err := objects.Load(s.source.name)
	if err != nil {
		return err
	}
	s.spec = spec
	if len(s.config.Metrics()) > 0 {
		if err := setBounds(spec, s.config.bounds()); err != nil {
			return err
		}
	}
	now, err := monotonic()
	if err != nil {
		return err
	}
	if err := setVariable(spec, loadedTime, now); err != nil {
		return err
	}
	if s.source.configure != nil {
		if err := s.source.configure(spec, &s.config, s.environment); err != nil {
			return err
		}
	}
	if s.numberings == nil { // what they know of the maps stays when programs are loaded again
		s.numberings = s.newNumberings()
	}
	if err := s.chooseLabels(); err != nil {
		return err
	}
	if s.options.tamper != nil {
		s.options.tamper(spec)
	}
	return nil
}

// makeMaps creates the maps, but not those that are there already, and what the programs expect to find in them.
func (s *loadedSource) makeMaps(earlier map[string]*ebpf.Map) error {
	spec := &ebpf.CollectionSpec{Maps: s.spec.Maps, Variables: s.spec.Variables, Types: s.spec.Types, ByteOrder: s.spec.ByteOrder}
	collection, err := ebpf.NewCollectionWithOptions(spec, ebpf.CollectionOptions{MapReplacements: earlier, Cache: s.environment.cache})
	closeMaps(earlier) // the collection has copies
	if err != nil {
		return s.environment.explain(err)
	}
	s.maps, collection.Maps = collection.Maps, nil
	collection.Close()
	s.memory = memoryOf(s.maps)
	if groups, ok := s.numberings[cgroupType].(*cgroups); ok {
		groups.use(s.maps[cgroupPathsMap])
	}
	for i := range s.source.metrics {
		t, err := s.newTable(&s.source.metrics[i])
		if err != nil {
			return err
		}
		s.tables = append(s.tables, t)
	}
	s.losses, err = newLossReader(s.maps[lossesMap], s.spec.Maps[lossesMap])
	return err
}

// memoryOf returns the bytes that maps have in the kernel, as far as it tells.
func memoryOf(maps map[string]*ebpf.Map) uint64 {
	var bytes uint64
	for _, m := range maps {
		if info, err := m.Info(); err == nil {
			size, _ := info.Memlock()
			bytes += size
		}
	}
	return bytes
}

// newTable prepares reading the map of a metric, and puts the label sets into it that exist from the beginning.
func (s *loadedSource) newTable(m *metric) (*table, error) {
	name, _ := s.mapOf(m)
	layout, err := s.layoutOf(m)
	if err != nil {
		return nil, err
	}
	description := &Metric{Name: m.name, Help: m.help, Kind: m.kind, Labels: m.labels}
	if m.kind == KindHistogram {
		description.Bounds = s.config.bounds()
	}
	if layout == nil {
		values := m.values(&s.config)
		return newTable(description, s.maps[name], &s.environment.buffer, func(key []byte) []string {
			if len(description.Labels) == 0 {
				return []string{}
			}
			return []string{values[nativeUint(key)]}
		}, m.fromZero)
	}
	first := layout.all()
	if s.bounded() {
		first = layout.others()
	}
	if err := putZeros(s.maps[name], first); err != nil {
		return nil, fmt.Errorf("fill map %s: %w", name, err)
	}
	if layout.hasFunctions() && symbolsHidden() {
		s.options.Log.Warn("functions are counted as other: the kernel hides their addresses (grant CAP_SYSLOG, and set kernel.kptr_restrict to less than 2)",
			"metric", m.name)
	}
	description.Labels = layout.labels()
	t, err := newTable(description, s.maps[name], &s.environment.buffer, s.labelsOf(layout), m.fromZero)
	if err != nil {
		return nil, err
	}
	t.layout = layout
	if s.bounded() {
		t.expiry, err = s.expiryOf(name, first)
	}
	return t, err
}

// labelsOf returns what makes label values of keys.
func (s *loadedSource) labelsOf(layout *keyLayout) func(key []byte) []string {
	return func(key []byte) []string {
		values := layout.values(key)
		for i := range values {
			if s.source.label != nil {
				values[i] = s.source.label(values[i])
			}
		}
		return values
	}
}

// putZeros adds label sets to a map for which nothing has been counted.
func putZeros(m *ebpf.Map, keys [][]byte) error {
	cpus, err := ebpf.PossibleCPU()
	if err != nil {
		return err
	}
	empty := make([][]byte, cpus)
	for i := range empty {
		empty[i] = make([]byte, m.ValueSize())
	}
	for _, key := range keys {
		if err := m.Update(key, empty, ebpf.UpdateNoExist); err != nil && !errors.Is(err, ebpf.ErrKeyExist) {
			return err
		}
	}
	return nil
}

// attachMissing attaches the hooks that are not attached and whose module is there now. It returns whether any was attached.
func (s *loadedSource) attachMissing() bool {
	changed := false
	if s.spec == nil {
		defer func() { s.spec = nil }()
	}
	for i := range s.hooks {
		h := &s.hooks[i]
		if h.how != "" || (h.err != nil && !h.waiting) {
			continue
		}
		h.waiting = !s.present(&h.hook)
		if h.waiting {
			h.err = fmt.Errorf("waiting for module %s", h.module)
			continue
		}
		if s.spec == nil {
			if err := s.prepare(); err != nil {
				h.err = s.environment.explain(err)
				continue
			}
		}
		h.attached, h.how, h.err = s.attachHook(&h.hook)
		if h.how != "" {
			changed = true
			s.pinHook(h)
		}
	}
	return changed
}

// present returns whether the code that a hook is in is part of the running kernel now.
func (s *loadedSource) present(h *hook) bool {
	if h.module == "" {
		return true
	}
	state, err := os.ReadFile("/sys/module/" + h.module + "/initstate")
	if err == nil {
		return strings.TrimSpace(string(state)) == "live"
	}
	return s.environment.hasBuiltin(h)
}

// reports returns whether there is anything to report: a hook that is attached, or was.
func (s *loadedSource) reports() bool {
	return s.attached() || slices.ContainsFunc(s.hooks, func(h loadedHook) bool { return h.detached })
}

// waits returns whether a hook of the source waits for its module.
func (s *loadedSource) waits() bool {
	return slices.ContainsFunc(s.hooks, func(h loadedHook) bool { return h.waiting })
}

func (s *loadedSource) attached() bool {
	return slices.ContainsFunc(s.hooks, func(h loadedHook) bool { return h.how != "" })
}

func (s *loadedSource) status() Status {
	status := Status{
		Source: s.source.name, Loaded: s.since, Memory: s.memory, Cost: s.cost(), Pinned: s.pins != nil, PinErr: s.pinErr,
		LabelSets: s.labelSets(),
		Detached: map[string]time.Duration{
			ReasonBudget: s.account.detachedFor(time.Now()), ReasonRestart: time.Duration(s.state.Detached),
		},
	}
	for _, m := range s.source.metrics {
		status.Metrics = append(status.Metrics, m.name)
	}
	for _, h := range s.hooks {
		status.Hooks = append(status.Hooks, h.status())
	}
	if s.inFlightErr != nil {
		status.Hooks = append(status.Hooks, HookStatus{Name: iterator, How: Missing, Err: s.inFlightErr})
	}
	return status
}

func (h *loadedHook) status() HookStatus {
	status := HookStatus{Name: h.name, How: h.how, Err: h.err}
	switch {
	case h.how != "":
	case h.waiting:
		status.How = Waiting
	case h.detached:
		status.How = Detached
	case errors.Is(h.err, errAbsent) && h.absent != "":
		status.How, status.Err = NotNeeded, errors.New(h.absent)
	default:
		status.How = Missing
	}
	return status
}

// close removes the source's programs, its maps and what is pinned of them.
func (s *loadedSource) close() error {
	var errs []error
	if s.pins != nil {
		errs = append(errs, s.pins.remove())
		s.pins = nil
	}
	errs = append(errs, s.closeInFlight(), s.removeHooks())
	for _, m := range s.maps {
		errs = append(errs, m.Close())
	}
	s.maps = nil
	return errors.Join(errs...)
}
