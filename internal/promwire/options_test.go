package promwire_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/prometheus/prometheus/model/relabel"

	"github.com/latpush/latpush/internal/promwire"
)

func TestOptionsValidate(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name   string
		o      promwire.Options
		label  string // of the LabelError
		reason string
	}{
		{name: "nothing is given"},
		{name: "usual labels", o: promwire.Options{Labels: []promwire.Label{{"job", "latpush"}, {"_x9", "1"}, {"Zone", ""}}, MaxSamples: 1}},
		{name: "negative bound", o: promwire.Options{MaxSamples: -1}, reason: "MaxSamples: -1 is negative"},
		{name: "negative bytes", o: promwire.Options{MaxBytes: -1}, reason: "MaxBytes: -1 is negative"},
		{name: "negative interval", o: promwire.Options{IdleInterval: -1}, reason: "IdleInterval: -1ns is negative"},
		{name: "rule that is missing", o: promwire.Options{Relabel: []*relabel.Config{nil}}, reason: "Relabel[0]: the rule is empty"},
		{name: "rule without a regex", o: promwire.Options{Relabel: []*relabel.Config{{Action: relabel.Drop}}}, reason: "Relabel[0]: the regex is missing"},
		{
			name:   "rule without a target",
			o:      promwire.Options{Relabel: []*relabel.Config{{Action: relabel.Replace, Regex: relabel.MustNewRegexp("x")}}},
			reason: "Relabel[0]: relabel configuration for replace action requires 'target_label'",
		},
		{name: "no name", o: promwire.Options{Labels: []promwire.Label{{"", "x"}}}, label: "", reason: `external label "": the name is not valid`},
		{name: "digit first", o: promwire.Options{Labels: []promwire.Label{{"job", "x"}, {"9x", "x"}}}, label: "9x", reason: "the name is not valid"},
		{name: "dash", o: promwire.Options{Labels: []promwire.Label{{"a-b", "x"}}}, label: "a-b", reason: "the name is not valid"},
		{name: "trailing newline", o: promwire.Options{Labels: []promwire.Label{{"ab\n", "x"}}}, label: "ab\n", reason: "the name is not valid"},
		{name: "metric name", o: promwire.Options{Labels: []promwire.Label{{"__name__", "x"}}}, label: "__name__", reason: "reserved"},
		{name: "bucket", o: promwire.Options{Labels: []promwire.Label{{"le", "1"}}}, label: "le", reason: "reserved"},
		{name: "twice", o: promwire.Options{Labels: []promwire.Label{{"a", "x"}, {"b", "y"}, {"a", "x"}}}, label: "a", reason: "given twice"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			err := c.o.Validate()
			if _, newErr := promwire.NewEncoder(c.o); (newErr == nil) != (err == nil) {
				t.Errorf("NewEncoder says %v, Validate %v", newErr, err)
			}
			if c.reason == "" {
				if err != nil {
					t.Error(err)
				}
				return
			}
			if err == nil || !strings.Contains(err.Error(), c.reason) {
				t.Fatalf("got %v, want %q in it", err, c.reason)
			}
			var label *promwire.LabelError
			if isLabel := errors.As(err, &label); isLabel != (len(c.o.Labels) > 0) || isLabel && (label.Name != c.label || !errors.Is(err, label.Err)) {
				t.Errorf("got %#v, want an error of label %q", err, c.label)
			}
		})
	}
}
