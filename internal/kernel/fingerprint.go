package kernel

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"maps"
	"slices"

	"github.com/latpush/latpush/bpf/objects"
)

// pinLayout is the version of what is pinned where, and of pinnedState. It changes with them.
const pinLayout = 1

// loadedTime is the constant that is another one at each start and decides neither the layout nor the meaning of what is counted. Programs that are
// taken over keep theirs, and those that are loaded later have the time from which on they can follow events.
const loadedTime = "loaded_ns"

// fingerprint names everything that decides what is in the source's maps and what its programs do: the object file, all that the loader has set in it,
// and what the catalogue says about it. Maps and programs with the same fingerprint can take each other's place.
func (s *loadedSource) fingerprint() (string, error) {
	object, err := objects.Read(s.source.name)
	if err != nil {
		return "", err
	}
	h := sha256.New()
	fmt.Fprintf(h, "%d %x %q\n", pinLayout, sha256.Sum256(object), s.options.Ways)
	for _, name := range slices.Sorted(maps.Keys(s.spec.Variables)) {
		if name != loadedTime {
			fmt.Fprintf(h, "variable %s %x\n", name, s.spec.Variables[name].Value)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(s.spec.Maps)) {
		m := s.spec.Maps[name]
		fmt.Fprintf(h, "map %s %v %d %d %d %d\n", name, m.Type, m.Flags, m.KeySize, m.ValueSize, m.MaxEntries)
	}
	for _, m := range s.source.metrics {
		var values []string
		if m.values != nil {
			values = m.values(&s.config)
		}
		fmt.Fprintf(h, "metric %s %d %q %q\n", m.name, m.kind, m.labels, values)
	}
	for _, hook := range s.source.hooks {
		if s.config.wants(&hook) {
			fmt.Fprintf(h, "hook %s %q %q\n", hook.name, hook.events, hook.ways)
		}
	}
	return hex.EncodeToString(h.Sum(nil)[:fingerprintBytes]), nil
}

const fingerprintBytes = 16

// isFingerprint returns whether the name of a folder is a fingerprint.
func isFingerprint(name string) bool {
	raw, err := hex.DecodeString(name)
	return err == nil && len(raw) == fingerprintBytes
}
