package kmod

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// Load loads the module called name, or the one with that alias, after those it depends on. Modules that are loaded already stay as they are.
// Parameters, such as "nr_devices=0", go to the module itself and not to its dependencies; for a module that is loaded already they are an error.
func (x Index) Load(name string, parameters ...string) error {
	order, err := x.Order(name)
	if err != nil {
		if Loaded(Canonical(name)) && len(parameters) == 0 { // built in
			return nil
		}
		return err
	}
	for i, m := range order {
		var arguments []string
		if i == len(order)-1 {
			arguments = parameters
		}
		if err := insert(m, arguments); err != nil {
			return err
		}
	}
	return nil
}

func insert(m Module, parameters []string) error {
	if Loaded(m.Name) && len(parameters) == 0 {
		return nil
	}
	f, err := os.Open(m.File)
	if err != nil {
		return fmt.Errorf("load module %s: %w", m.Name, err)
	}
	defer func() { _ = f.Close() }()
	err = unix.FinitModule(int(f.Fd()), strings.Join(parameters, " "), 0)
	if errors.Is(err, unix.EEXIST) && len(parameters) == 0 { // another thread was faster
		return nil
	}
	if err != nil {
		return fmt.Errorf("load module %s: %w", m.Name, err)
	}
	return nil
}

// Loaded says whether the module is ready for use: one that is only just being loaded is not.
func Loaded(name string) bool {
	dir := filepath.Join("/sys/module", name)
	if _, err := os.Stat(dir); err != nil {
		return false
	}
	state, err := os.ReadFile(filepath.Join(dir, "initstate"))
	return errors.Is(err, os.ErrNotExist) || strings.TrimSpace(string(state)) == "live" // built-in modules have no state
}
