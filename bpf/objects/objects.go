// Package objects holds the compiled programs of bpf/ for the architecture of this binary, one object file for each source. They are built
// from the C files by `make generate` and compared with a fresh build by `make generate-check`.
//
// A name enters, the specification of its maps and programs leaves, not loaded yet. An unknown name is the only error.
package objects

import (
	"bytes"
	"fmt"

	"github.com/cilium/ebpf"
)

// Read returns the object file of a source.
func Read(source string) ([]byte, error) {
	object, err := files.ReadFile(source + suffix)
	if err != nil {
		return nil, fmt.Errorf("read object: %w", err)
	}
	return object, nil
}

// Load returns the specification of the maps and programs of a source, a copy of its own for each call.
func Load(source string) (*ebpf.CollectionSpec, error) {
	object, err := Read(source)
	if err != nil {
		return nil, err
	}
	spec, err := ebpf.LoadCollectionSpecFromReader(bytes.NewReader(object))
	if err != nil {
		return nil, fmt.Errorf("parse object %s%s: %w", source, suffix, err)
	}
	return spec, nil
}
