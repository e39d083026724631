package confine

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
	"strings"

	"github.com/latpush/latpush/internal/capability"
)

// Seen is what the kernel says of a process or a thread.
type Seen struct {
	Effective, Permitted, Inheritable, Bounding, Ambient capability.Set
	NoNewPrivileges                                      bool
	Seccomp                                              bool // with a filter
}

// Inspect reads /proc/PID/status, or that of a thread. Anybody may. The kernel does not say there whether Landlock is in force.
func Inspect(file string) (Seen, error) {
	var s Seen
	text, err := os.ReadFile(file)
	if err != nil {
		return s, fmt.Errorf("read state of process: %w", err)
	}
	found := 0
	for line := range bytes.Lines(text) {
		key, value, _ := strings.Cut(strings.TrimSpace(string(line)), ":\t")
		known, err := s.read(key, value)
		if err != nil {
			return s, fmt.Errorf("read %s of %s: %w", key, file, err)
		}
		if known {
			found++
		}
	}
	if found < keysOfSeen {
		return s, fmt.Errorf("read state of process: %s does not have all %d lines", file, keysOfSeen)
	}
	return s, nil
}

// keysOfSeen is how many lines Seen is made of.
const keysOfSeen = 7

func (s *Seen) read(key, value string) (known bool, err error) {
	switch key {
	case "CapInh":
		s.Inheritable, err = capability.Parse(value)
	case "CapPrm":
		s.Permitted, err = capability.Parse(value)
	case "CapEff":
		s.Effective, err = capability.Parse(value)
	case "CapBnd":
		s.Bounding, err = capability.Parse(value)
	case "CapAmb":
		s.Ambient, err = capability.Parse(value)
	case "NoNewPrivs":
		s.NoNewPrivileges, err = strconv.ParseBool(value)
	case "Seccomp":
		s.Seccomp = value == "2"
	default:
		return false, nil
	}
	return true, err
}
