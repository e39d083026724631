package kernel

import (
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// traced is an event that the kernel itself has traced.
type traced struct {
	event string // without its group
	task  int    // thread id
	text  string // what the kernel says about it
}

// skipped returns whether the kernel may have run no program for the event. The 6.18 of one sandbox runs none, however it is attached, while a thread of
// process 1 has the CPU, nor for an interrupt or timer that comes meanwhile. It counts no miss, but traces the event.
func (e traced) skipped() bool {
	_, err := os.Stat(filepath.Join("/proc/1/task", strconv.Itoa(e.task)))
	return err == nil
}

// trace makes the kernel trace events, such as "vmscan/mm_shrink_slab_end", until the test ends. The function that it returns tells what was traced.
func trace(t *testing.T, events ...string) func() []traced {
	t.Helper()
	const tracefs = "/sys/kernel/tracing"
	if _, err := os.Stat(filepath.Join(tracefs, "instances")); err != nil {
		if err := unix.Mount("tracefs", tracefs, "tracefs", 0, ""); err != nil {
			t.Fatal("mount tracefs:", err)
		}
	}
	instance := filepath.Join(tracefs, "instances", "latpush-test-"+strconv.Itoa(os.Getpid()))
	if err := os.Mkdir(instance, 0o755); err != nil {
		t.Fatal("make trace instance:", err)
	}
	t.Cleanup(func() {
		if err := os.WriteFile(filepath.Join(instance, "events", "enable"), []byte("0"), 0); err != nil {
			t.Error(err)
		}
		if err := os.Remove(instance); err != nil {
			t.Error(err)
		}
	})
	names := make([]string, len(events))
	for i, event := range events {
		names[i] = filepath.Base(event)
		if err := os.WriteFile(filepath.Join(instance, "events", event, "enable"), []byte("1"), 0); err != nil {
			t.Fatal(err)
		}
	}
	line := regexp.MustCompile(`-(\d+) +\[\d+\] .* (` + strings.Join(names, "|") + `): (.*)$`)
	return func() []traced {
		t.Helper()
		raw, err := os.ReadFile(filepath.Join(instance, "trace"))
		if err != nil {
			t.Fatal(err)
		}
		var all []traced
		for text := range strings.Lines(string(raw)) {
			if strings.Contains(text, "LOST") && strings.Contains(text, "EVENTS") {
				t.Fatalf("the kernel's own trace is not whole: %s", text)
			}
			if match := line.FindStringSubmatch(strings.TrimSpace(text)); match != nil {
				task, err := strconv.Atoi(match[1])
				if err != nil {
					t.Fatal(err)
				}
				all = append(all, traced{event: match[2], task: task, text: match[3]})
			}
		}
		return all
	}
}
