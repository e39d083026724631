// Package config reads the configuration file.
//
// What enters is a YAML file; what leaves is a Config whose defaults are filled in and which every room has validated. What can go wrong is
// everything that people write into files: each error names the file, the line and the key, and all of them are reported at once. Unknown
// keys are errors. Values are taken as they are written: environment variables are not expanded, secrets belong in files (password_file and
// its like), and relative names of such files start at the folder of the configuration file.
package config

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
	"time"

	"github.com/alecthomas/units"
	"github.com/prometheus/common/model"
	"go.yaml.in/yaml/v3"

	"github.com/latpush/latpush/agent/identity"
	"github.com/latpush/latpush/internal/kernel"
	"github.com/latpush/latpush/internal/promwire"
	"github.com/latpush/latpush/internal/spool"
	"github.com/latpush/latpush/internal/spool/quarantine"
	"github.com/latpush/latpush/internal/upload"
)

// DefaultFile is where the configuration is when no flag says otherwise.
const DefaultFile = "/etc/latpush/latpush.yml"

// The defaults of keys that the file does not have.
const (
	DefaultInterval        = model.Duration(15 * time.Second)
	DefaultShutdownTimeout = model.Duration(10 * time.Second)
	// DefaultSpoolDirectory is the one that systemd makes for StateDirectory=latpush.
	DefaultSpoolDirectory = "/var/lib/latpush"
	// DefaultQuarantineMaxSize holds some hundred full requests.
	DefaultQuarantineMaxSize = 16 * units.MiB
	// DefaultPinPath is below the place where systemd mounts the BPF file system.
	DefaultPinPath = "/sys/fs/bpf/latpush"
	// DefaultJob is the value of the label `job`. The label `instance` is by default the host name.
	DefaultJob = "latpush"
)

// receiversKey is the key of the list of receivers.
const receiversKey = "remote_write"

const (
	minInterval        = model.Duration(time.Second)
	maxInterval        = model.Duration(time.Hour)
	maxShutdownTimeout = model.Duration(10 * time.Minute)
	maxClockTimeout    = model.Duration(24 * time.Hour)
)

// Config is a valid configuration.
type Config struct {
	// Interval is the time from one snapshot to the next, from 1s to 1h. The default is 15s.
	Interval model.Duration `yaml:"interval"`
	// ShutdownTimeout bounds how long the agent goes on delivering when it is told to stop, up to 10m. The default is 10s.
	ShutdownTimeout model.Duration `yaml:"shutdown_timeout"`
	// ClockSyncTimeout bounds how long sending waits at the start until the kernel says that the clock is synchronised, up to 1d. The default
	// is 0: it does not wait.
	ClockSyncTimeout model.Duration `yaml:"clock_sync_timeout"`
	// Histogram is how histograms are sent by sources that do not say so themselves. The default is classic.
	Histogram kernel.Histogram `yaml:"histogram"`
	// MaxCPU bounds what the programs of each source that does not say so itself may take of the CPU. The default is one percent of one CPU, 0 is
	// no bound.
	MaxCPU kernel.Cores `yaml:"max_cpu"`
	// ExternalLabels are added to every series. After Load they hold job and instance too.
	ExternalLabels map[string]string `yaml:"external_labels"`
	// Sources are what is timed in the kernel. The default is the set that costs little. After Load each has its Histogram and its MaxCPU.
	Sources Sources `yaml:"sources"`
	// RemoteWrite are the receivers, at least one. After Load each has a name of its own.
	RemoteWrite []upload.Config `yaml:"remote_write"`
	// PinPath is the directory on a BPF file system where programs and counts outlive a crash of the agent. The default is DefaultPinPath; if it is
	// empty, they end with the agent.
	PinPath string `yaml:"pin_path"`
	// Spool is where snapshots wait for their receivers.
	Spool Spool `yaml:"spool"`
	// Confinement is what the process takes from itself after the start. The default is all of it.
	Confinement Confinement `yaml:"confinement"`
}

// Sources are written as a list, or as the name of a set: default or all.
type Sources []kernel.SourceConfig

// UnmarshalYAML reads the name of a set, or a list.
func (s *Sources) UnmarshalYAML(node *yaml.Node) error {
	if node.Kind != yaml.ScalarNode {
		return node.Decode((*[]kernel.SourceConfig)(s))
	}
	switch node.Value {
	case "default":
		*s = kernel.DefaultConfigs()
	case "all":
		*s = kernel.AllConfigs()
	default:
		return fmt.Errorf("unknown set %q (default, all, or a list of sources)", node.Value)
	}
	return nil
}

// Spool is the `spool:` block.
type Spool struct {
	spool.Options `yaml:",inline"`
	// QuarantineMaxSize bounds the requests that are set apart because a receiver only ever fails at them. The default is 16MiB.
	QuarantineMaxSize units.Base2Bytes `yaml:"quarantine_max_size"`
}

// Quarantine is the folder of the requests that are set apart.
func (s *Spool) Quarantine() string { return filepath.Join(s.Directory, quarantine.Folder) }

// Load reads and validates a configuration file. The host gives the default of the label `instance`. The error is of type Errors.
func Load(file string, host identity.Host) (*Config, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, Errors{{File: file, Err: unreadable(err)}}
	}
	return parseConfig(file, text, host)
}

// unreadable says why a file cannot be read, and what the smallest configuration is if there is none.
func unreadable(err error) error {
	var cause *os.PathError
	if errors.As(err, &cause) {
		err = cause.Err // the file is named in front of the message
	}
	if errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("%w (write the file, or name another one with --config.file; two lines are enough:\n"+
			"remote_write:\n  - url: https://<receiver>/api/v1/push)", err)
	}
	return err
}

func parseConfig(file string, text []byte, host identity.Host) (*Config, error) {
	doc := parse(file, filepath.Dir(file), text)
	if doc.root == nil {
		return nil, doc.errs
	}
	c := &Config{
		Interval:        DefaultInterval,
		ShutdownTimeout: DefaultShutdownTimeout,
		Histogram:       kernel.Classic,
		MaxCPU:          kernel.DefaultMaxCPU,
		PinPath:         DefaultPinPath,
		Spool:           Spool{Options: spool.Options{Directory: DefaultSpoolDirectory}, QuarantineMaxSize: DefaultQuarantineMaxSize},
		Confinement:     Confinement{Capabilities: true, Landlock: true, Seccomp: true},
	}
	doc.check(reflect.TypeFor[Config]())
	c.durations(doc)
	c.histogram(doc)
	c.maxCPU(doc)
	c.labels(doc, host)
	c.sources(doc)
	c.receivers(doc)
	c.pinPath(doc)
	c.spool(doc)
	doc.decode(lookup(doc.root, confinementKey), confinementKey, &c.Confinement)
	if len(doc.errs) > 0 {
		return nil, doc.errs.sorted()
	}
	return c, nil
}

func (c *Config) durations(doc *document) {
	for _, d := range []struct {
		key       string
		value     *model.Duration
		low, high model.Duration
	}{
		{"interval", &c.Interval, minInterval, maxInterval},
		{"shutdown_timeout", &c.ShutdownTimeout, 0, maxShutdownTimeout},
		{"clock_sync_timeout", &c.ClockSyncTimeout, 0, maxClockTimeout},
	} {
		if doc.decode(lookup(doc.root, d.key), d.key, d.value) && (*d.value < d.low || *d.value > d.high) {
			doc.report(doc.line(d.key), d.key, fmt.Errorf("%v is not between %v and %v", *d.value, d.low, d.high))
		}
	}
}

func (c *Config) histogram(doc *document) {
	const key = "histogram"
	if !doc.decode(lookup(doc.root, key), key, &c.Histogram) {
		return
	}
	if err := c.Histogram.Validate(); err != nil {
		doc.report(doc.line(key), key, err)
		c.Histogram = kernel.Classic
	}
}

func (c *Config) maxCPU(doc *document) {
	const key = "max_cpu"
	if !doc.decode(lookup(doc.root, key), key, &c.MaxCPU) {
		return
	}
	if err := c.MaxCPU.Validate(); err != nil {
		doc.report(doc.line(key), key, err)
		c.MaxCPU = kernel.DefaultMaxCPU
	}
}

// inherit gives a source what it does not say itself.
func (c *Config) inherit(source *kernel.SourceConfig) {
	source.Histogram = cmp.Or(source.Histogram, c.Histogram)
	source.MaxCPU = cmp.Or(source.MaxCPU, &c.MaxCPU)
}

// labels fills in job and instance and lets the wire room judge each label.
func (c *Config) labels(doc *document, host identity.Host) {
	const key = "external_labels"
	c.ExternalLabels = make(map[string]string)
	if !doc.decode(lookup(doc.root, key), key, &c.ExternalLabels) {
		return
	}
	for name, value := range c.ExternalLabels {
		full := join(key, name)
		one := promwire.Options{Labels: []promwire.Label{{Name: name, Value: value}}}
		var invalid *promwire.LabelError
		if err := one.Validate(); errors.As(err, &invalid) {
			doc.report(doc.line(full), full, invalid.Err)
		} else if value == "" {
			doc.report(doc.line(full), full, errors.New("the value is empty (a label without a value is the same as no label: remove the key)"))
		}
	}
	if _, given := c.ExternalLabels["job"]; !given {
		c.ExternalLabels["job"] = DefaultJob
	}
	if _, given := c.ExternalLabels["instance"]; !given {
		instance, err := host.Instance()
		if err != nil {
			full := join(key, "instance")
			doc.report(doc.line(full), full, err)
		}
		c.ExternalLabels["instance"] = instance
	}
}

func (c *Config) sources(doc *document) {
	const key = "sources"
	node := lookup(doc.root, key)
	switch {
	case node == nil:
		c.set(kernel.DefaultConfigs())
		return
	case node.Kind == yaml.ScalarNode:
		var set Sources
		if doc.decode(node, key, &set) {
			c.set(set)
		}
		return
	case len(items(node)) == 0 && doc.clean(key):
		doc.report(doc.line(key), key, errors.New("the list is empty (remove the key to run the default set)"))
	}
	first := make(map[string]int)
	for i, item := range items(node) {
		path := fmt.Sprintf("%s[%d]", key, i)
		var source kernel.SourceConfig
		if !doc.decode(item, path, &source) {
			continue
		}
		c.inherit(&source)
		doc.validation(path, source.Validate())
		name := join(path, "name")
		if line, twice := first[source.Name]; twice {
			doc.report(doc.line(name), name, fmt.Errorf("source %s is listed twice (first in line %d)", source.Name, line))
		} else if source.Name != "" {
			first[source.Name] = doc.line(name)
		}
		c.Sources = append(c.Sources, source)
	}
}

// set takes over a set of sources that all have their defaults.
func (c *Config) set(sources Sources) {
	for i := range sources {
		c.inherit(&sources[i])
	}
	c.Sources = sources
}

func (c *Config) receivers(doc *document) {
	const key = receiversKey
	node := lookup(doc.root, key)
	if len(items(node)) == 0 && doc.clean(key) {
		doc.report(doc.line(key), key, errors.New("there is no receiver (add a list with the url of at least one)"))
	}
	first := make(map[string]int)
	for i, item := range items(node) {
		path := fmt.Sprintf("%s[%d]", key, i)
		var receiver upload.Config
		if !doc.decode(item, path, &receiver) {
			continue
		}
		named := receiver.Name != ""
		if !named {
			receiver.Name = nameOf(&receiver)
		}
		receiver.SetDirectory(doc.folder)
		doc.validation(path, receiver.Validate())
		full := join(path, "name")
		if !usableName.MatchString(receiver.Name) {
			doc.report(doc.line(full), full, errors.New("use 1 to 128 letters, digits, - and _ (the name becomes a file name in the spool)"))
		}
		if line, twice := first[receiver.Name]; twice {
			doc.report(doc.line(full), full, twiceNamed(receiver.Name, line, named))
		} else {
			first[receiver.Name] = doc.line(path)
		}
		c.RemoteWrite = append(c.RemoteWrite, receiver)
	}
}

// usableName is what the spool takes as the name of a cursor.
var usableName = regexp.MustCompile(`^[A-Za-z0-9_-]{1,128}$`)

// unusable is what the default name of a receiver must not have.
var unusable = regexp.MustCompile(`[^A-Za-z0-9]+`)

// nameOf makes the name of a receiver that was given none: its host, for people, and a hash that tells URLs apart. It names the receiver's
// cursor in the spool, so it depends on the URL alone, and not on the password in it: a new one must not send the backlog again.
func nameOf(receiver *upload.Config) string {
	if receiver.URL == nil || receiver.URL.URL == nil {
		return "unnamed" // Validate has reported that the URL is missing
	}
	bare := *receiver.URL.URL
	bare.User = nil
	sum := sha256.Sum256([]byte(bare.String()))
	host := strings.Trim(unusable.ReplaceAllString(bare.Hostname(), "-"), "-")
	return host[:min(len(host), 64)] + "-" + hex.EncodeToString(sum[:4])
}

func twiceNamed(name string, line int, named bool) error {
	if named {
		return fmt.Errorf("name %s is given twice (first in line %d)", name, line)
	}
	return fmt.Errorf("two receivers have the same url and no name (the first is in line %d; give each a name of its own)", line)
}

func (c *Config) pinPath(doc *document) {
	const key = "pin_path"
	if !doc.decode(lookup(doc.root, key), key, &c.PinPath) || c.PinPath == "" {
		return
	}
	if !filepath.IsAbs(c.PinPath) {
		doc.report(doc.line(key), key, fmt.Errorf("%q does not begin with / (name a directory on a BPF file system, such as %s, or \"\" to pin nothing)",
			c.PinPath, DefaultPinPath))
	}
	c.PinPath = filepath.Clean(c.PinPath)
}

func (c *Config) spool(doc *document) {
	const key = "spool"
	if !doc.decode(lookup(doc.root, key), key, &c.Spool) {
		return
	}
	doc.validation(key, c.Spool.Validate())
	if c.Spool.QuarantineMaxSize <= 0 {
		full := join(key, "quarantine_max_size")
		doc.report(doc.line(full), full, fmt.Errorf("%s is not above zero", c.Spool.QuarantineMaxSize))
	}
}

// items returns the elements of a list, none if the node is no list.
func items(node *yaml.Node) []*yaml.Node {
	if node != nil && node.Kind == yaml.AliasNode {
		node = node.Alias
	}
	if node == nil || node.Kind != yaml.SequenceNode {
		return nil
	}
	return node.Content
}
