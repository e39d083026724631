package main

import (
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"
)

// What a killed agent has left is removed by hand, and nothing while an agent runs. `latpush sources` leaves nothing and disturbs nobody.
func TestDetach(t *testing.T) {
	t.Parallel()
	mounted := t.TempDir()
	if err := unix.Mount("bpf", mounted, "bpf", 0, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(mounted, unix.MNT_DETACH) })
	path := filepath.Join(mounted, "latpush")
	var status atomic.Int32
	status.Store(http.StatusNoContent)
	url, _ := receiver(t, &status)
	file := configFile(t, url, "interval: 1h", "external_labels: {instance: edge-1}", "sources: [{name: softirq}, {name: runqueue}]")
	replace(t, file, "pin_path: ''", "pin_path: "+path)

	want := func(code int, stdout, stderr string, args ...string) {
		t.Helper()
		gotOut, gotErr, gotCode := latpush(t, args...)
		if gotCode != code || gotOut != stdout || gotErr != stderr {
			t.Errorf("%v: exit code %d, output %q, error %q; want %d, %q, %q", args, gotCode, gotOut, gotErr, code, stdout, stderr)
		}
	}
	nothing := "nothing to remove in " + path + "\n"
	want(0, nothing, "", "detach", "--config.file", file)
	d := start(t, file)
	d.waitLog(`msg="agent started"`)
	before := entries(t, path)
	want(1, "", path+": an agent is running: nothing is removed (stop it, which removes its programs: systemctl stop latpush)\n", "detach", "--pin-path", path+"/")
	if _, stderr, code := latpush(t, "sources"); code != 0 {
		t.Errorf("sources: exit code %d with %q", code, stderr)
	}
	if after := entries(t, path); before == "" || after != before {
		t.Errorf("pins of %q, were of %q", after, before)
	}
	d.signal(unix.SIGKILL)
	_ = d.command.Wait()
	if after := entries(t, path); after != before {
		t.Errorf("after SIGKILL pins of %q, were of %q", after, before)
	}
	want(0, "removed source runqueue from "+path+"\nremoved source softirq from "+path+"\n", "", "detach", "--config.file", file)
	want(0, nothing, "", "detach", "--config.file", file)
	if left := entries(t, path); left != "" {
		t.Errorf("pins of %q are left", left)
	}
	replace(t, file, "pin_path: "+path, "pin_path: ''")
	want(0, "nothing to remove: pin_path is empty\n", "", "detach", "--config.file", file)
}

func replace(t *testing.T, file, old, text string) {
	t.Helper()
	content, err := os.ReadFile(file)
	if err != nil || !strings.Contains(string(content), old) {
		t.Fatalf("%s has no %q (%v)", file, old, err)
	}
	if err := os.WriteFile(file, []byte(strings.Replace(string(content), old, text, 1)), 0o600); err != nil {
		t.Fatal(err)
	}
}

func entries(t *testing.T, folder string) string {
	t.Helper()
	found, err := os.ReadDir(folder)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, entry := range found {
		names = append(names, entry.Name())
	}
	return strings.Join(names, " ")
}
