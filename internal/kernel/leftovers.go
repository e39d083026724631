package kernel

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
)

// Detach removes what agents have left in the kernel: all that is pinned below a pin path, and with it the programs, and probes that nothing uses.
// It returns what it removed, sources by their names, and is done when nothing is left that could be removed. The error is an ErrPinPathInUse
// while an agent runs.
func Detach(pinPath string) (sources, probes []string, err error) {
	if _, err := os.Stat(pinPath); errors.Is(err, fs.ErrNotExist) {
		return nil, removeProbes(anyProbe), nil
	}
	root, err := lockPinPath(pinPath)
	if err != nil {
		return nil, nil, err
	}
	defer func() { err = errors.Join(err, root.close()) }()
	found, err := root.sources()
	if err != nil {
		return nil, nil, err
	}
	for _, source := range found {
		if err := root.remove(source, ""); err != nil {
			return sources, nil, fmt.Errorf("remove pins of source %s: %w", source, err)
		}
		sources = append(sources, source)
	}
	return sources, append(root.settle(), removeProbes(anyProbe)...), nil
}
