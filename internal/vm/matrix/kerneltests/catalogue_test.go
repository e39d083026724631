//go:build guest

package kerneltests

import (
	"encoding/json"
	"testing"

	"github.com/latpush/latpush/internal/kernel"
	"github.com/latpush/latpush/internal/vm/guest"
	"github.com/latpush/latpush/internal/vm/matrix/catalogue"
)

// How every source attaches on this kernel, with every module that it can have. The host makes the reference page's table of it.
func TestCatalogue(t *testing.T) {
	all, err := kernel.Describe()
	if err != nil {
		t.Fatal(err)
	}
	for _, source := range all {
		for _, hook := range source.Hooks {
			if hook.Module == "" || guest.ModuleLoaded(hook.Module) {
				continue
			}
			if err := guest.LoadModule(hook.Module); err != nil {
				t.Logf("module %s cannot be loaded, so it is built in or this kernel has none: %v", hook.Module, err)
			}
		}
	}
	k, err := kernel.Open(t.Context(), kernel.AllConfigs(), kernel.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := k.Close(); err != nil {
			t.Error(err)
		}
	}()
	var rows []catalogue.Hook
	for _, source := range k.Sources() {
		if source.Err != nil {
			rows = append(rows, catalogue.Hook{Source: source.Source, How: kernel.Missing, Reason: source.Err.Error()})
		}
		for _, hook := range source.Hooks {
			row := catalogue.Hook{Source: source.Source, Hook: hook.Name, How: hook.How}
			if hook.Err != nil {
				row.Reason = hook.Err.Error()
			}
			rows = append(rows, row)
		}
	}
	text, err := json.MarshalIndent(rows, "", "\t")
	if err != nil {
		t.Fatal(err)
	}
	if err := guest.Keep(catalogue.File, text); err != nil {
		t.Fatal(err)
	}
}
