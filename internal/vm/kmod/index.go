package kmod

import (
	"fmt"
	"path"
	"strings"
)

// Module is one module that a guest can load.
type Module struct {
	Name    string   `json:"name"` // with underscores, as in /proc/modules
	File    string   `json:"file"` // where the guest finds it, unpacked
	Depends []string `json:"depends,omitempty"`
	Aliases []string `json:"aliases,omitempty"` // patterns that the kernel asks for, such as "fs-nfs4"
}

// Index holds modules in dependency order: each one comes after all that it depends on.
type Index []Module

// Find returns the module called name, which may be an alias.
func (x Index) Find(name string) (Module, error) {
	wanted := Canonical(name)
	for _, m := range x {
		if m.Name == wanted {
			return m, nil
		}
	}
	for _, m := range x {
		for _, alias := range m.Aliases {
			if ok, err := path.Match(alias, name); ok && err == nil {
				return m, nil
			}
		}
	}
	return Module{}, fmt.Errorf("find module %s: %w", name, ErrNotFound)
}

// Order returns the module and all that it depends on, in the order in which they have to be loaded.
func (x Index) Order(name string) ([]Module, error) {
	m, err := x.Find(name)
	if err != nil {
		return nil, err
	}
	wanted := map[string]bool{m.Name: true}
	for i := len(x) - 1; i >= 0; i-- { // the index is in dependency order, so that one pass from its end meets every dependency after its dependents
		if wanted[x[i].Name] {
			for _, d := range x[i].Depends {
				wanted[d] = true
			}
		}
	}
	var order []Module
	for _, m := range x {
		if wanted[m.Name] {
			order = append(order, m)
		}
	}
	return order, nil
}

// Canonical returns the module's name as the kernel writes it: file names have dashes where the kernel has underscores.
func Canonical(name string) string {
	return strings.ReplaceAll(name, "-", "_")
}
