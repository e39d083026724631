package bench

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/latpush/latpush/internal/kernel"
)

// BenchmarkMemory prints, for the default set and for all sources, how long the sources take to attach, the kernel memory of their maps, and the
// resident memory of the whole agent after a while of ticks with a receiver that takes everything.
func BenchmarkMemory(b *testing.B) {
	binary := buildAgent(b)
	receiver := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) }))
	defer receiver.Close()
	for _, set := range []struct {
		name     string
		configs  []kernel.SourceConfig
		resident int // MiB, the goal
	}{{"default", kernel.DefaultConfigs(), 20}, {"all", kernel.AllConfigs(), 32}} {
		fmt.Printf("\nsources: %s\n", set.name)
		printSources(b, set.configs)
		fmt.Printf("  resident memory of the agent, ticks every second (goal under %d MiB)\n", set.resident)
		runAgent(b, binary, fmt.Sprintf("sources: %s\ninterval: 1s\nremote_write: [{url: %q}]\n", set.name, receiver.URL))
	}
}

// printSources opens the sources in this process and prints what they take in the kernel, and how long that took.
func printSources(b *testing.B, configs []kernel.SourceConfig) {
	b.Helper()
	began := time.Now()
	k, err := kernel.Open(b.Context(), configs, kernel.Options{})
	took := time.Since(began)
	if err != nil {
		b.Fatal(err)
	}
	defer func() { _ = k.Close() }()
	var bytes uint64
	for _, source := range k.Sources() {
		fmt.Printf("    %-16s %8d KiB of maps\n", source.Source, source.Memory>>10)
		bytes += source.Memory
	}
	fmt.Printf("  kernel memory of the maps of %d sources on %d CPUs: %.1f MiB (goal of the default set: under 8 on 2 CPUs)\n",
		len(configs), runtime.NumCPU(), float64(bytes)/(1<<20))
	fmt.Printf("  time until all that can be attached is attached: %v (goal of the default set: under 3s)\n", took.Round(time.Millisecond))
}

func runAgent(b *testing.B, binary, text string) {
	b.Helper()
	folder := b.TempDir()
	config := filepath.Join(folder, "latpush.yml")
	text += fmt.Sprintf("spool: {directory: %s}\n", filepath.Join(folder, "spool"))
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		b.Fatal(err)
	}
	agent := startProcess(b, binary, "run", "--config.file", config, "--log.level", "warn")
	for range 3 {
		time.Sleep(10 * time.Second)
		printMemory(b, agent.command.Process.Pid)
	}
	agent.stop()
	usage := agent.command.ProcessState.SysUsage().(*syscall.Rusage)
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
