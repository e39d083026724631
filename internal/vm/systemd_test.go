package vm

import (
	"slices"
	"strings"
	"testing"

	"github.com/latpush/latpush/internal/vm/handover"
)

// Whatever a guest with systemd links to is there.
func TestSystemdIsWhole(t *testing.T) {
	t.Parallel()
	for _, suite := range []string{"bullseye", "bookworm", "trixie"} {
		m := newImage()
		m.startSystemd("guestinit")
		for _, name := range systemd(suite, "x86_64-linux-gnu").files() {
			m.take(name, name)
		}
		for link, target := range m.links {
			target = strings.TrimPrefix(target, "/")
			if _, there := m.files[target]; !there && !m.dirs[target] {
				t.Errorf("%s: %s leads to %s, which is not there", suite, link, target)
			}
		}
		if m.links["init"] != "/"+systemdProgram || m.links[handover.Modprobe[1:]] != handover.Guest {
			t.Errorf("%s: links %v", suite, m.links)
		}
	}
	executor, loader := "usr/lib/systemd/systemd-executor", "aarch64-linux-gnu"
	if slices.Contains(systemd("bookworm", loader).files(), executor) || !slices.Contains(systemd("trixie", loader).files(), executor) {
		t.Errorf("only newer versions have %s", executor)
	}
}
