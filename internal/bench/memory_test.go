package bench

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// BenchmarkMemory prints the resident memory of the whole agent after a while of ticks with all sources and a receiver that takes everything.
func BenchmarkMemory(b *testing.B) {
	folder := b.TempDir()
	binary := buildAgent(b)
	receiver := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) }))
	defer receiver.Close()
	config := filepath.Join(folder, "latpush.yml")
	text := fmt.Sprintf("interval: 1s\nremote_write:\n  - url: %s\nspool:\n  directory: %s\n", receiver.URL, filepath.Join(folder, "spool"))
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		b.Fatal(err)
	}
	agent := exec.Command(binary, "run", "--config.file", config, "--log.level", "warn")
	agent.Stderr = os.Stderr
	if err := agent.Start(); err != nil {
		b.Fatal(err)
	}
	fmt.Printf("\nresident memory of the agent with all sources, ticks every second (goal under 24 MiB)\n")
	for range 3 {
		time.Sleep(10 * time.Second)
		printMemory(b, agent.Process.Pid)
	}
	if err := agent.Process.Signal(syscall.SIGTERM); err != nil {
		b.Fatal(err)
	}
	if err := agent.Wait(); err != nil {
		b.Fatal(err)
	}
	usage := agent.ProcessState.SysUsage().(*syscall.Rusage)
	fmt.Printf("  CPU time of %d ticks, start and stop included: %v\n", 30, time.Duration(usage.Utime.Nano()+usage.Stime.Nano()))
}

func printMemory(b *testing.B, pid int) {
	b.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		b.Fatal(err)
	}
	var parts []string
	for line := range strings.Lines(string(status)) {
		for _, name := range []string{"VmRSS:", "RssAnon:", "RssFile:", "VmHWM:"} {
			if value, found := strings.CutPrefix(line, name); found {
				parts = append(parts, strings.TrimSuffix(name, ":")+" "+strings.Join(strings.Fields(value), " "))
			}
		}
	}
	fmt.Println("  " + strings.Join(parts, ", "))
}
