package kernel

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/rlimit"
	"golang.org/x/sys/unix"
)

// States of a hook that is not attached, beside the ways in which one is.
const (
	Waiting   = "waiting"    // for its module to be loaded
	Missing   = "missing"    // HookStatus.Err says why
	NotNeeded = "not needed" // on this kernel other hooks see the events
	Detached  = "detached"   // for a while: the source takes too much of the CPU
)

// Options are what all sources share.
type Options struct {
	Log *slog.Logger // nil: nothing is logged
	// Ways limits how hooks may be attached, to some of Fentry, Kprobe, TpBTF, RawTracepoint and Tracepoint. Empty: in every way.
	Ways []string
	// PinPath is the directory on a BPF file system where maps, programs and links are pinned, so that a crash loses no counts: the next Open with
	// the same path takes them over. Empty: nothing is pinned.
	PinPath string

	returns int                             // how many calls a kretprobe can follow at once; 0: defaultReturnProbes
	times   *timing                         // nil: defaultTiming
	tamper  func(spec *ebpf.CollectionSpec) // in tests: changes what is loaded

	pinFault func() error // in tests: see pinPath.fault
}

func (o *Options) returnProbes() int { return cmp.Or(o.returns, defaultReturnProbes) }

func (o *Options) timing() timing {
	if o.times == nil {
		return defaultTiming()
	}
	return *o.times
}

func (o *Options) allows(how string) bool { return len(o.Ways) == 0 || slices.Contains(o.Ways, how) }

// Status says what became of a source.
type Status struct {
	Source  string
	Metrics []string
	Loaded  time.Duration // CLOCK_BOOTTIME when counting could begin, 0 if the source is not loaded
	Memory  uint64        // bytes of kernel memory that its maps had when they were made
	Hooks   []HookStatus
	// LabelSets are how many label sets each metric had at the last reading, by name, of the metrics whose label sets are no fixed list.
	LabelSets map[string]int
	Err       error // why the source is not loaded at all

	Cost     Cost
	Detached map[string]time.Duration // how long the programs were detached, by reason
	// Pinned says whether what the source has counted survives a crash. If that was wanted and is not so, PinErr says why.
	Pinned bool
	PinErr error
}

// Attached returns whether any hook of the source is attached.
func (s *Status) Attached() bool {
	return slices.ContainsFunc(s.Hooks, func(h HookStatus) bool { return h.Attached() })
}

// HookStatus says what became of a hook.
type HookStatus struct {
	Name string
	How  string // a way, or Waiting, Missing, NotNeeded or Detached
	Err  error  // why it is not attached
}

// Attached returns whether the hook is attached.
func (h *HookStatus) Attached() bool { return h.Err == nil }

// Kernel is the sources that run. Its methods may be called from several goroutines.
type Kernel struct {
	log     *slog.Logger
	options Options
	cancel  context.CancelFunc
	watcher sync.WaitGroup
	budget  *overseer // of which the sources are guarded by mu

	mu          sync.Mutex // guards all below
	environment *environment
	pins        *pinPath // nil: nothing is pinned
	pinErr      error    // why not, if it was wanted
	sources     []*configuredSource
	samples     []Sample
}

// configuredSource is a source of the configuration and what became of it.
type configuredSource struct {
	config SourceConfig
	loaded *loadedSource // nil: not loaded
	err    error         // why not
}

// Open loads and attaches the sources of a valid configuration, and takes over what an agent that did not stop cleanly has left of them. A source
// that cannot run is no error: its Status says why. Hooks in modules that are loaded later are attached then, until ctx ends or Close is
// called, which the caller must do. The error is an ErrPinPathInUse when another agent runs.
func Open(ctx context.Context, configs []SourceConfig, o Options) (*Kernel, error) {
	k, err := newKernel(configs, o)
	if err != nil {
		return nil, err
	}
	watch, cancel := context.WithCancel(ctx)
	k.cancel = cancel
	k.watcher.Go(func() { k.attachLate(watch) })
	k.watcher.Go(func() { k.budget.run(watch) })
	return k, nil
}

// newKernel is Open without the watch for modules and costs.
func newKernel(configs []SourceConfig, o Options) (*Kernel, error) {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	for i := range configs {
		if err := configs[i].Validate(); err != nil {
			return nil, fmt.Errorf("source %s: %w", configs[i].Name, err)
		}
	}
	if err := rlimit.RemoveMemlock(); err != nil { // needed and tried before 5.11 alone
		o.Log.Warn("locked memory stays limited, so maps may not fit (grant CAP_SYS_RESOURCE)", "err", err)
	}
	k := &Kernel{log: o.Log, options: o, environment: newEnvironment(&o), cancel: func() {}}
	if err := k.openPins(configs); err != nil {
		return nil, err
	}
	k.budget = &overseer{log: o.Log, timing: o.timing(), statistics: enableStatistics, lock: &k.mu, sources: k.metered}
	k.mu.Lock()
	defer k.mu.Unlock()
	return k, k.reconfigure(configs)
}

// openPins takes the pin path and removes what is pinned there of sources that are not configured. Nothing is pinned where it cannot be.
func (k *Kernel) openPins(configs []SourceConfig) error {
	if k.options.PinPath == "" {
		return nil
	}
	var err error
	if k.pins, err = openPinPath(k.options.PinPath); err != nil {
		if errors.Is(err, ErrPinPathInUse) {
			return err
		}
		k.pinErr = err
		k.log.Warn("counts do not survive a crash, since nothing can be pinned (see pin_path)", "err", err)
		return nil
	}
	k.pins.fault = k.options.pinFault
	var names []string
	for _, config := range configs {
		names = append(names, config.Name)
	}
	if err := k.pins.keepOnly(names); err != nil {
		k.log.Warn("what is pinned of sources that are not configured is not removed", "err", err)
	}
	return nil
}

// unpin removes what is pinned of a source that does not run.
func (k *Kernel) unpin(source string) {
	if k.pins == nil {
		return
	}
	if err := k.pins.remove(source, ""); err != nil {
		k.log.Warn("what is pinned of a source that is not running is not removed", "name", source, "err", err)
	}
}

// Reconfigure makes the running sources those of a valid configuration. A source whose configuration is the same keeps running, and keeps
// what it has counted.
func (k *Kernel) Reconfigure(_ context.Context, configs []SourceConfig) error {
	for i := range configs {
		if err := configs[i].Validate(); err != nil {
			return fmt.Errorf("source %s: %w", configs[i].Name, err)
		}
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.reconfigure(configs)
}

func (k *Kernel) reconfigure(configs []SourceConfig) error {
	var errs []error
	old := k.sources
	k.sources = nil
	for _, config := range configs {
		i := slices.IndexFunc(old, func(s *configuredSource) bool { return s.loaded != nil && s.config.countsAs(&config) })
		if i >= 0 {
			old[i].config = config
			k.budget.rebound(old[i].loaded, config.maxCPU())
			old[i].loaded.expireAfter(config.labelSetsExpire())
			k.sources = append(k.sources, old[i])
			old = slices.Delete(old, i, i+1)
			continue
		}
		k.sources = append(k.sources, &configuredSource{config: config})
	}
	for _, s := range old {
		if s.loaded != nil {
			errs = append(errs, s.loaded.close())
		}
	}
	if k.pins != nil {
		k.pins.settle()
	}
	for _, s := range k.sources {
		if s.loaded == nil {
			s.loaded, s.err = loadSource(&s.config, &k.options, k.environment, k.pins)
			if s.err != nil {
				k.unpin(s.config.Name)
			}
			k.report(s)
		}
	}
	k.environment.forget()
	return errors.Join(errs...)
}

func (k *Kernel) report(s *configuredSource) {
	switch {
	case s.err != nil:
		k.log.Error("source is not running", "name", s.config.Name, "err", s.err)
	case s.loaded.attached():
		k.log.Info("source is running", "name", s.config.Name, "hooks", s.loaded.summary())
	case s.loaded.waits():
		k.log.Info("source waits for a module to be loaded", "name", s.config.Name)
	default:
		k.log.Error("source is not running", "name", s.config.Name, "hooks", s.loaded.summary())
	}
}

// summary says in one line what became of the hooks.
func (s *loadedSource) summary() string {
	var parts []string
	for _, h := range s.status().Hooks {
		text := h.Name + ": " + h.How
		if h.How == Missing {
			text += " (" + strings.ReplaceAll(h.Err.Error(), "\n", "; ") + ")"
		}
		parts = append(parts, text)
	}
	return strings.Join(parts, ", ")
}

// Read reads all histograms, counters and gauges. The samples are valid until the next call. The error joins those of the sources that could not be read; the
// samples of the others are returned with it.
func (k *Kernel) Read() ([]Sample, []Loss, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	var losses []Loss
	now, err := boottime()
	errs := []error{err}
	k.samples = k.samples[:0]
	for _, s := range k.sources {
		if s.loaded == nil || !s.loaded.reports() {
			continue
		}
		if err := s.loaded.refreshNames(); err != nil {
			errs = append(errs, err)
		}
		for _, t := range s.loaded.tables {
			var err error
			if k.samples, err = t.appendTo(k.samples); err != nil {
				errs = append(errs, err)
			}
		}
		if err := s.loaded.sweepNames(); err != nil {
			errs = append(errs, err)
		}
		if s.loaded.inFlight != nil {
			var err error
			if k.samples, err = s.loaded.inFlight.appendTo(k.samples); err != nil {
				errs = append(errs, fmt.Errorf("count operations under way of source %s: %w", s.config.Name, err))
			}
		}
		lost, err := s.loaded.lost()
		if err != nil {
			errs = append(errs, err)
		}
		losses = append(losses, lost...)
		errs = append(errs, s.loaded.seen(now))
	}
	return k.samples, losses, errors.Join(errs...)
}

// Sources returns what became of each source, in the order of the configuration.
func (k *Kernel) Sources() []Status {
	k.mu.Lock()
	defer k.mu.Unlock()
	var all []Status
	for _, s := range k.sources {
		if s.loaded == nil {
			all = append(all, Status{Source: s.config.Name, Metrics: s.config.Metrics(), Err: s.err, PinErr: k.pinErr})
			continue
		}
		status := s.loaded.status()
		status.Cost.Err = k.budget.unknown
		status.PinErr = cmp.Or(status.PinErr, k.pinErr)
		all = append(all, status)
	}
	return all
}

// Measure measures for a time, such as 1s, what each source costs; it is in their Status then. The error says why it cannot be measured.
func (k *Kernel) Measure(ctx context.Context, length time.Duration) error {
	k.budget.measure(ctx, length)
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.budget.unknown
}

// Close detaches all programs and removes all maps, and what is pinned of them.
func (k *Kernel) Close() error {
	k.cancel()
	k.watcher.Wait()
	k.mu.Lock()
	defer k.mu.Unlock()
	var errs []error
	for _, s := range k.sources {
		if s.loaded != nil {
			errs = append(errs, s.loaded.close())
		}
	}
	k.sources = nil
	if k.pins != nil {
		k.pins.settle()
		errs = append(errs, k.pins.close())
	}
	return errors.Join(errs...)
}

func boottime() (time.Duration, error) {
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &now); err != nil {
		return 0, fmt.Errorf("read CLOCK_BOOTTIME: %w", err)
	}
	return time.Duration(now.Nano()), nil
}
