package endtoend

import (
	"fmt"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/latpush/latpush/internal/spool/quarantine"
)

// A request at which the receiver only ever fails does not stop the queue: it is set apart, listed, and when the receiver has been mended it is sent again by
// hand. Then nothing is missing.
func TestQuarantineAndReplay(t *testing.T) {
	if testing.Short() {
		t.Skip("several seconds")
	}
	s := embedded(t)
	f := newFront(t, s.writeURL())
	folder := t.TempDir()
	config := pushConfig(t, folder, f.url, "    quarantine_after: 3s\n")
	d := &scripted{t: t, s: s, f: f, a: startAgent(t, config)}
	d.a.waitLog("source is running")
	d.work()
	s.expect(counted, d.calls)

	var poison []int64 // timestamps that the receiver stumbles over
	f.answer(func(a *arrival) *reply {
		if poison == nil && len(a.series[countedMetric]) > 0 {
			poison = a.timestamps()
		}
		if slices.ContainsFunc(a.timestamps(), func(at int64) bool { return slices.Contains(poison, at) }) {
			return &reply{status: 500, text: "index out of range"}
		}
		return nil
	})
	d.work()
	s.expect(counted, d.calls)
	s.expect(`latpush_remote_unauthorized`, 0)
	d.a.waitLog("set apart")
	entries, err := quarantine.List(filepath.Join(folder, "spool", quarantine.Folder))
	if err != nil || len(entries) == 0 {
		t.Fatalf("in quarantine: %v, %v", entries, err)
	}
	listed := latpush(t, config, "spool", "quarantine")
	for _, want := range []string{"main", "500", "index out of range"} {
		if !strings.Contains(listed, want) {
			t.Errorf("%q is not in\n%s", want, listed)
		}
	}
	f.answer(nil)
	replayed := latpush(t, config, "spool", "replay", "all")
	if strings.Count(replayed, "accepted by main") != len(entries) {
		t.Errorf("%d requests are in quarantine, replay says\n%s", len(entries), replayed)
	}
	if left := latpush(t, config, "spool", "quarantine"); !strings.Contains(left, "empty") {
		t.Errorf("after the replay:\n%s", left)
	}
	d.end()
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(poison) == 0 {
		t.Error("no request was poisoned")
	}
}

// latpush runs another command of the agent's binary, beside the agent.
func latpush(t *testing.T, config string, arguments ...string) string {
	t.Helper()
	said, err := exec.Command(binary(t), append([]string{"--config.file", config}, arguments...)...).CombinedOutput()
	if err != nil {
		t.Fatalf("latpush %s: %v\n%s", fmt.Sprint(arguments), err, said)
	}
	return string(said)
}
