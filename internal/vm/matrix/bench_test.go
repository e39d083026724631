package matrix

import (
	"fmt"
	"path/filepath"
	"testing"

	"github.com/latpush/latpush/internal/vm"
)

// BenchmarkProbes prints what function probes cost in a guest, relative to those of an exporter's style.
func BenchmarkProbes(b *testing.B) {
	harness, err := vm.Open(vm.Options{}, b)
	if err != nil {
		b.Fatal(err)
	}
	for _, spec := range vm.Kernels() {
		if spec.Name != "6.12" {
			continue
		}
		kernel, err := harness.Kernel(b.Context(), spec)
		if err != nil {
			b.Fatal(err)
		}
		binary := filepath.Join(b.TempDir(), "costtests")
		if err := vm.BuildTest(b.Context(), binary, spec.Arch, "github.com/latpush/latpush/internal/vm/matrix/costtests", "guest"); err != nil {
			b.Fatal(err)
		}
		result, err := harness.Run(b.Context(), b, kernel, vm.GuestOptions{TestBinary: binary, Provide: []string{"nfs", "nfsd", "nfsv3", "nfsv4", "null_blk"}})
		if err != nil {
			b.Fatal(err)
		}
		for _, test := range result.Tests {
			fmt.Printf("\n%s, emulated:\n%s", result.Release, test.Output)
			if test.Outcome != vm.Passed {
				b.Errorf("%s: %s", test.Name, test.Outcome)
			}
		}
	}
}
