package promwire

import (
	"cmp"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
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

	// MaxSamples bounds the samples of one request. 0 means 2000, Prometheus's own batch: about 30 KB on the wire, far below every receiver's limit. A histogram
	// at one timestamp is never split, so one that has more lines than this goes in a request of its own.
	MaxSamples int
}

const defaultMaxSamples = 2000

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

// Validate reports the first thing that is wrong: a *LabelError, or an error that names MaxSamples.
func (o *Options) Validate() error {
	if o.MaxSamples < 0 {
		return fmt.Errorf("check MaxSamples: %d is negative", o.MaxSamples)
	}
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
