package agent

import (
	"context"
	"errors"
	"fmt"
	"reflect"

	"github.com/latpush/latpush/agent/config"
)

// errSpoolChanged is why a configuration with another spool is not taken over by a running agent: its cursors belong to the old one.
var errSpoolChanged = errors.New("the spool cannot change while latpush runs (restart it)")

// errPinPathChanged is why the pins stay where they are: the programs that are pinned there go on.
var errPinPathChanged = errors.New("the directory of the pins cannot change while latpush runs (restart it)")

// reload loads the configuration again and takes it over. If anything is wrong with it, the old one stays in force as a whole.
func (a *Agent) reload(ctx context.Context) {
	loaded, err := a.load()
	if err == nil {
		err = a.change(ctx, loaded)
	}
	if err != nil {
		err = a.outside(err)
		a.metrics.ReloadSuccessful.Set(0)
		a.log.Error("configuration is not reloaded, the old one stays in force", "err", err)
		return
	}
	a.adopt(loaded)
	a.log.Info("configuration reloaded", "interval", a.schedule.Interval(), "sources", len(loaded.Sources), "receivers", len(a.receivers))
}

// change brings sources and receivers in line with a configuration. Everything that can fail is done before anything is taken away.
func (a *Agent) change(ctx context.Context, loaded *config.Config) error {
	if !reflect.DeepEqual(a.config.Spool, loaded.Spool) {
		return fmt.Errorf("compare spool.directory and its bounds: %w", errSpoolChanged)
	}
	if a.config.PinPath != loaded.PinPath {
		return fmt.Errorf("compare pin_path: %w", errPinPathChanged)
	}
	if err := a.allowed(loaded); err != nil {
		return err
	}
	prepared, err := a.prepare(loaded)
	if err != nil {
		a.forget(a.config) // the cursors that were opened in vain
		return err
	}
	if !reflect.DeepEqual(a.config.Sources, loaded.Sources) {
		a.tick() // the counters of a source that is changed or removed start again or end: keep what they counted until now
	}
	// Unchanged sources are not touched by this, but those that did not run are tried again.
	if err := a.kernel.Reconfigure(ctx, loaded.Sources); err != nil {
		a.log.Error("programs of a changed source are not removed completely", "err", err)
	}
	for _, r := range prepared {
		a.install(r)
	}
	a.forget(loaded)
	a.start()
	return nil
}
