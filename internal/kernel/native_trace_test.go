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
	task int    // thread id
	text string // what the kernel says about it
}

// trace makes the kernel trace an event, such as "vmscan/mm_shrink_slab_end", until the test ends. The function that it returns tells what was traced.
func trace(t *testing.T, event string) func() []traced {
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
	enable := filepath.Join(instance, "events", event, "enable")
	t.Cleanup(func() {
		if err := os.WriteFile(enable, []byte("0"), 0); err != nil {
			t.Error(err)
		}
		if err := os.Remove(instance); err != nil {
			t.Error(err)
		}
	})
	if err := os.WriteFile(enable, []byte("1"), 0); err != nil {
		t.Fatal(err)
	}
	line := regexp.MustCompile(`-(\d+) +\[\d+\] .* ` + filepath.Base(event) + `: (.*)$`)
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
				all = append(all, traced{task: task, text: match[2]})
			}
		}
		return all
	}
}
