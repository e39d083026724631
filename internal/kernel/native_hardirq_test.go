package kernel

import (
	"fmt"
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

// countedInterrupts returns how often each handler was counted.
func countedInterrupts(t *testing.T, k *Kernel) map[string]uint64 {
	t.Helper()
	samples, _, err := k.Read()
	if err != nil {
		t.Fatal(err)
	}
	counted := map[string]uint64{}
	for _, s := range samples {
		counted[s.Values[0]] += events(s)
	}
	return counted
}

// Interrupts go on while the counts are read, so what was counted lies between the kernel's own counts from readings inside and outside.
func TestHardIRQsAgreeWithProc(t *testing.T) {
	const underWay = 2 // counted by the kernel at the entry, and here at the exit
	for _, how := range []string{TpBTF, RawTracepoint, Tracepoint} {
		t.Run(how, func(t *testing.T) {
			k := open(t, how, SourceConfig{Name: "hardirq"})
			first := interrupts(t)
			before := countedInterrupts(t, k)
			second := interrupts(t)
			most := interruptSomeCPU(t, second)
			third := interrupts(t)
			after := countedInterrupts(t, k)
			fourth := interrupts(t)
			for name := range fourth {
				got, least, most := after[name]-before[name], third[name]-second[name], fourth[name]-first[name]
				if got+underWay < least || got > most+underWay {
					t.Errorf("counted %d interrupts of %s, the kernel %d to %d", got, name, least, most)
				}
			}
			t.Logf("%s came most often, %d times", most, third[most]-second[most])
		})
	}
}

// interruptSomeCPU writes to the disk behind the folder of temporary files until some interrupt has come 20 times, and returns its name. A
// guest has no disk, but a serial port that takes what its tests print.
func interruptSomeCPU(t *testing.T, before map[string]uint64) string {
	t.Helper()
	file, err := os.Create(filepath.Join(t.TempDir(), "file"))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	began := time.Now()
	for time.Since(began) < 20*time.Second {
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
		if time.Since(began) > time.Second {
			fmt.Println("no disk interrupts this machine, so this line does")
		}
	}
	t.Fatalf("no interrupt came 20 times in 20 s; there were %v, and are %v", before, interrupts(t))
	return ""
}
