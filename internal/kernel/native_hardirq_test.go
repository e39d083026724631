package kernel

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// interrupts returns how often each numbered interrupt of one handler has come since boot, by the handler's name.
func interrupts(t *testing.T) map[string]uint64 {
	t.Helper()
	all := map[string]uint64{}
	lines := procFields(t, "/proc/interrupts")
	cpus := len(lines[0])
	for _, fields := range lines[1:] {
		if strings.Trim(fields[0], "0123456789") != ":" || len(fields) <= cpus+1 || strings.HasSuffix(fields[len(fields)-2], ",") {
			continue
		}
		for _, count := range fields[1 : cpus+1] {
			all[fields[len(fields)-1]] += parse(t, count)
		}
	}
	return all
}

func TestHardIRQsAgreeWithProc(t *testing.T) {
	for _, how := range []string{TpBTF, RawTracepoint, Tracepoint} {
		t.Run(how, func(t *testing.T) {
			k := open(t, how, SourceConfig{Name: "hardirq"})
			before := interrupts(t)
			counted := map[string]uint64{}
			for name := range before {
				counted[name] = events(sample(t, k, "hardirq_service_seconds", name))
			}
			most := interruptSomeCPU(t, before)
			after := interrupts(t)
			for name, n := range after {
				got, want := events(sample(t, k, "hardirq_service_seconds", name))-counted[name], n-before[name]
				if !within(got, want, 20, 5) {
					t.Errorf("counted %d interrupts of %s, the kernel %d", got, name, want)
				}
			}
			t.Logf("%s came most often", most)
		})
	}
}

// interruptSomeCPU writes to the disk, if there is one behind the folder of temporary files, until some interrupt has come 20 times, and
// returns its name.
func interruptSomeCPU(t *testing.T, before map[string]uint64) string {
	t.Helper()
	file, err := os.Create(filepath.Join(t.TempDir(), "file"))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); {
		if _, err := file.WriteAt(make([]byte, 4096), 0); err != nil {
			t.Fatal(err)
		}
		if err := file.Sync(); err != nil {
			t.Fatal(err)
		}
		for name, n := range interrupts(t) {
			if n >= before[name]+20 {
				return name
			}
		}
	}
	t.Fatal("no interrupt came 20 times in 20 s")
	return ""
}
