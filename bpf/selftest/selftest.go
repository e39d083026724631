// Package selftest holds compiled programs that only tests and benchmarks load: one that feeds the histogram header any value, one that begins and ends
// calls at will, and the programs that latpush's cost is compared with. Name in, specification out, as in package objects.
package selftest

import (
	"bytes"
	"fmt"

	"github.com/cilium/ebpf"
)

// Load returns the specification of "histogram", "in_flight" or "cost".
func Load(name string) (*ebpf.CollectionSpec, error) {
	object, err := files.ReadFile(name + suffix)
	if err != nil {
		return nil, fmt.Errorf("read object: %w", err)
	}
	return ebpf.LoadCollectionSpecFromReader(bytes.NewReader(object))
}
