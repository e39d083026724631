package kernel

import (
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"time"
)

// MaxBounds is the largest number of finite bucket bounds that the programs in bpf/ have room for.
const MaxBounds = 512

// MaxLabelSets is the largest value of max_label_sets: the memory for every label set is reserved in the kernel when a source is loaded.
const MaxLabelSets = 65536

// defaultMaxLabelSets is enough for every operation of about sixty block devices.
const defaultMaxLabelSets = 256

// SourceConfig is one entry of the `sources` list of the configuration file.
type SourceConfig struct {
	// Name is one of Names.
	Name string `yaml:"name"`
	// Buckets are the bucket bounds of the source's histograms. The default is 27 powers of two from 1 us to 67.108864 s; with exponential
	// histograms it is schema 3 from 100 ns to 64 s: what is below the first bound is in the zero bucket, of which quantiles tell little.
	Buckets *BucketsConfig `yaml:"buckets,omitempty"`
	// Histogram is how the source's histograms are sent. The default is the configuration's own `histogram`.
	Histogram Histogram `yaml:"histogram,omitempty"`
	// Labels are those that the source has beside its own, such as cgroup: Describe says which there are. The default is none.
	Labels []string `yaml:"labels,omitempty"`
	// MaxLabelSets bounds the label sets of each metric of a source whose labels are not a fixed list, such as block, or any source with
	// Labels. Events of further label sets are counted under the label value "other". The default is 256.
	MaxLabelSets int `yaml:"max_label_sets,omitempty"`
	// LabelSetsExpire is after how long a label set of such a source leaves the map when it has counted nothing. Its series ends; when it comes
	// back its counts go on. The default is 1h, 0 is never.
	LabelSetsExpire *Duration `yaml:"label_sets_expire,omitempty"`
	// MaxCPU bounds what the source's programs may take of the CPU on average of a minute: those of a source that takes more are detached for a
	// while. 0 is no bound. The default is the configuration's own `max_cpu`, and of that DefaultMaxCPU.
	MaxCPU *Cores `yaml:"max_cpu,omitempty"`
	// Allow lists the system calls to time (syscalls). The default is DefaultSyscalls.
	Allow []string `yaml:"allow,omitempty"`
	// FileSystems lists the file systems to time (filesystem), some of FileSystems. The default is all that the kernel has.
	FileSystems []string `yaml:"filesystems,omitempty"`
}

// Histogram is a form of Prometheus's histograms. All three are made of the same counts; only the exponential one wants bounds of its own.
type Histogram string

// The forms of histograms.
const (
	Classic     Histogram = "classic"     // a series for each bound, with the label le
	Custom      Histogram = "custom"      // one native histogram with the configured bounds
	Exponential Histogram = "exponential" // one native histogram of a standard schema
)

// Validate returns an error without a key.
func (h Histogram) Validate() error {
	switch h {
	case "", Classic, Custom, Exponential:
		return nil
	}
	return fmt.Errorf("unknown form %q (one of %s, %s and %s)", string(h), Classic, Custom, Exponential)
}

// KeyError says which key of a configuration entry is wrong. The key is relative to the entry, such as "buckets.bounds[3]".
type KeyError struct {
	Key string
	Err error
}

func (e *KeyError) Error() string { return e.Key + ": " + e.Err.Error() }

func (e *KeyError) Unwrap() error { return e.Err }

func keyErrorf(key, format string, args ...any) error {
	return &KeyError{Key: key, Err: fmt.Errorf(format, args...)}
}

// DefaultConfigs is the set of sources that runs when the configuration file does not choose: those that cost little and that most operators ask for.
func DefaultConfigs() []SourceConfig {
	return configsOf(func(s *source) bool { return s.standard })
}

// AllConfigs is the set of all sources.
func AllConfigs() []SourceConfig {
	return configsOf(func(*source) bool { return true })
}

func configsOf(chosen func(*source) bool) []SourceConfig {
	var configs []SourceConfig
	for _, s := range catalogue() {
		if chosen(&s) {
			configs = append(configs, SourceConfig{Name: s.name})
		}
	}
	return configs
}

// Metrics returns the names of the histograms that the source has.
func (c *SourceConfig) Metrics() []string {
	description, _ := findSource(c.Name)
	var names []string
	for _, m := range description.metrics {
		if m.kind == KindHistogram {
			names = append(names, m.name)
		}
	}
	return names
}

// Validate joins one *KeyError for each key that is wrong.
func (c *SourceConfig) Validate() error {
	s, known := findSource(c.Name)
	if !known {
		if c.Name == "" {
			return keyErrorf("name", "a source needs a name (one of %s)", strings.Join(Names(), ", "))
		}
		return keyErrorf("name", "unknown source %q (known are %s)", c.Name, strings.Join(Names(), ", "))
	}
	var errs []error
	if c.Buckets != nil {
		errs = append(errs, c.Buckets.validate())
		if len(c.Metrics()) == 0 {
			errs = append(errs, keyErrorf("buckets", "source %s has no histograms (remove the key)", c.Name))
		}
	}
	if err := c.Histogram.Validate(); err != nil {
		errs = append(errs, &KeyError{Key: "histogram", Err: err})
	}
	errs = append(errs, c.validateMaxCPU())
	if c.Histogram == Exponential && c.Buckets != nil && c.Buckets.Exponential == nil {
		errs = append(errs, keyErrorf("buckets", "exponential histograms need exponential buckets (write buckets: {exponential: {schema: 3, min: 100ns, max: 64s}}, "+
			"or leave the key out)"))
	}
	errs = append(errs, c.validateLabelSets(&s), validateLabels(&s, c.Labels))
	if c.Allow != nil {
		if !s.allowList {
			errs = append(errs, keyErrorf("allow", "source %s has no allow list (remove the key)", c.Name))
		} else {
			errs = append(errs, validateSyscalls(c.Allow))
		}
	}
	if c.FileSystems != nil {
		if !s.mounts {
			errs = append(errs, keyErrorf("filesystems", "source %s does not tell file systems apart (remove the key)", c.Name))
		} else {
			errs = append(errs, validateFileSystems(c.FileSystems))
		}
	}
	return errors.Join(errs...)
}

// validateLabelSets returns what is wrong with the keys that are for label sets which are not a fixed list.
func (c *SourceConfig) validateLabelSets(s *source) error {
	var errs []error
	fixed := !s.openLabels && len(c.Labels) == 0
	switch {
	case c.MaxLabelSets != 0 && fixed:
		errs = append(errs, keyErrorf("max_label_sets", "source %s has a fixed list of label sets and takes no bound (remove the key)", c.Name))
	case c.MaxLabelSets < 0 || c.MaxLabelSets > MaxLabelSets:
		errs = append(errs, keyErrorf("max_label_sets", "%d is not between 1 and %d", c.MaxLabelSets, MaxLabelSets))
	}
	switch expire := c.LabelSetsExpire; {
	case expire == nil:
	case fixed:
		errs = append(errs, keyErrorf("label_sets_expire", "source %s has a fixed list of label sets, which stay (remove the key)", c.Name))
	case *expire < 0:
		errs = append(errs, keyErrorf("label_sets_expire", "%v is negative (0s: label sets stay)", time.Duration(*expire)))
	}
	return errors.Join(errs...)
}

// bounds returns the configured bucket bounds in nanoseconds.
func (c *SourceConfig) bounds() []uint64 {
	switch {
	case c.Buckets != nil:
		return c.Buckets.Nanoseconds()
	case c.Histogram == Exponential:
		return exponentialBounds(MaxSchema, uint64(100*time.Nanosecond), uint64(64*time.Second))
	}
	return (&BucketsConfig{Exp2: &Exp2Config{Min: Duration(time.Microsecond), Count: 27}}).Nanoseconds()
}

// countsAs tells whether the kernel counts the same for both: how histograms are sent, when label sets expire, and what the programs may cost, is
// nothing to them.
func (c *SourceConfig) countsAs(other *SourceConfig) bool {
	a, b := *c, *other
	a.Histogram, b.Histogram = "", ""
	a.Buckets, b.Buckets = nil, nil
	a.MaxCPU, b.MaxCPU = nil, nil
	a.LabelSetsExpire, b.LabelSetsExpire = nil, nil
	return reflect.DeepEqual(a, b) && slices.Equal(c.bounds(), other.bounds())
}

// wants tells whether a hook of the source is to be attached.
func (c *SourceConfig) wants(h *hook) bool {
	return c.FileSystems == nil || slices.Contains(c.FileSystems, h.module)
}

func validateSyscalls(allow []string) error {
	if len(allow) == 0 {
		return keyErrorf("allow", "the list is empty (remove the key for the default list, or the source to time no system call)")
	}
	var errs []error
	for i, name := range allow {
		key := fmt.Sprintf("allow[%d]", i)
		switch _, err := syscallNumber(name); {
		case err != nil:
			errs = append(errs, &KeyError{Key: key, Err: err})
		case neverReturns(name):
			errs = append(errs, keyErrorf(key, "system call %s never returns, so it has no latency (remove it)", name))
		case slices.Contains(allow[:i], name):
			errs = append(errs, keyErrorf(key, "system call %s is listed twice", name))
		}
	}
	return errors.Join(errs...)
}
