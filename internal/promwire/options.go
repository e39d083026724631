package promwire

import (
	"cmp"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/relabel"
)

// Label is one name and value.
type Label struct {
	Name  string
	Value string
}

// Options of an Encoder.
type Options struct {
	// Labels are added to every series that has no label of that name: the external labels, job and instance. They never replace a label that a series has.
	// One with an empty value is left out, as Prometheus does not tell an empty label from an absent one.
	Labels []Label

	// MaxSamples bounds the samples of one request; a native histogram is one. 0 means 2000, Prometheus's own batch: about 30 KB on the wire, far below every
	// receiver's limit. A histogram at one timestamp is never split, so one that has more lines than this goes in a request of its own.
	MaxSamples int

	// MaxBytes bounds the message of one request, before compression. 0 means 4 MiB, which MaxSamples does not reach with label sets of usual size. Neither does
	// this bound split a histogram at one timestamp.
	MaxBytes int

	// Relabel are rules that every series goes through before it is sent, with the labels above, a bucket's le and all: write_relabel_configs. A series that
	// they drop is left out, and so is one that they leave without a name. Of several that they make equal, only the first one is sent.
	Relabel []*relabel.Config

	// Histograms says how the histograms of a family are sent; nil, and any other answer than Custom and Exponential, means Classic.
	Histograms func(family string) Histogram

	// NativeInV1 sends Exponential histograms as native ones with remote write 1.0 too, which not every receiver of it takes. Without it they are Classic there.
	NativeInV1 bool

	// NoNative sends all histograms as Classic: send_native_histograms: false.
	NoNative bool

	// Metadata sends type, help and unit: beside each series with 2.0, in requests of their own with 1.0 (see MetadataRequests).
	Metadata bool

	// IdleInterval is how long a label set is left out, all its lines together, after it was sent, if it has not changed since. A receiver sees such a series
	// end when this is longer than its lookback (Prometheus: 5 min). 0 sends every label set of every snapshot.
	IdleInterval time.Duration

	// StaleMarkers ends a series whose label set is missing in a snapshot with the value that the protocol has for that.
	StaleMarkers bool
}

const (
	defaultMaxSamples = 2000
	defaultMaxBytes   = 4 << 20
)

// The label names that have a meaning of their own in the messages of this package.
const (
	nameLabel   = "__name__"
	bucketLabel = "le"
)

// LabelError says what is wrong with one of Options.Labels.
type LabelError struct {
	Name string // the label's name as it was given
	Err  error
}

func (e *LabelError) Error() string { return fmt.Sprintf("check external label %q: %v", e.Name, e.Err) }

// Unwrap gives the reason.
func (e *LabelError) Unwrap() error { return e.Err }

// Validate reports the first thing that is wrong: a *LabelError, or an error that names the field.
func (o *Options) Validate() error {
	_, err := o.validate()
	return err
}

// validate gives the relabelling rules with all that they leave open filled in.
func (o *Options) validate() ([]*relabel.Config, error) {
	switch {
	case o.MaxSamples < 0:
		return nil, fmt.Errorf("check MaxSamples: %d is negative", o.MaxSamples)
	case o.MaxBytes < 0:
		return nil, fmt.Errorf("check MaxBytes: %d is negative", o.MaxBytes)
	case o.IdleInterval < 0:
		return nil, fmt.Errorf("check IdleInterval: %v is negative", o.IdleInterval)
	}
	var rules []*relabel.Config
	for i, given := range o.Relabel {
		if given == nil {
			return nil, fmt.Errorf("check Relabel[%d]: the rule is empty", i)
		}
		rule := *given
		if rule.Regex.Regexp == nil {
			return nil, fmt.Errorf("check Relabel[%d]: the regex is missing", i)
		}
		if err := rule.Validate(model.UTF8Validation); err != nil {
			return nil, fmt.Errorf("check Relabel[%d]: %w", i, err)
		}
		rules = append(rules, &rule)
	}
	return rules, o.validateLabels()
}

func (o *Options) validateLabels() error {
	valid := regexp.MustCompile(`^[a-zA-Z_][a-zA-Z0-9_]*$`)
	seen := make(map[string]bool, len(o.Labels))
	for _, l := range o.Labels {
		switch {
		case !valid.MatchString(l.Name):
			// Prometheus 3 takes any UTF-8 here; the receivers before it do not, and a label on every series must suit all of them.
			return &LabelError{l.Name, errors.New("the name is not valid (a letter or _ first, then letters, digits and _)")}
		case strings.HasPrefix(l.Name, "__"):
			return &LabelError{l.Name, errors.New("names that begin with __ are reserved")}
		case l.Name == bucketLabel:
			return &LabelError{l.Name, errors.New("this name is reserved for the bounds of histogram buckets")}
		case seen[l.Name]:
			return &LabelError{l.Name, errors.New("the name is given twice")}
		}
		seen[l.Name] = true
	}
	return nil
}

// baseLabels gives the labels that Options adds, valid, not empty and sorted by name.
func (o *Options) baseLabels() []Label {
	var base []Label
	for _, l := range o.Labels {
		if l.Value != "" {
			base = append(base, Label{l.Name, validUTF8(l.Value)})
		}
	}
	slices.SortFunc(base, func(a, b Label) int { return cmp.Compare(a.Name, b.Name) })
	return base
}

// validUTF8 replaces what is no UTF-8, since one such byte makes a receiver refuse the whole request.
func validUTF8(s string) string { return strings.ToValidUTF8(s, "\uFFFD") }
