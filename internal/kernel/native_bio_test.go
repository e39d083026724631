package kernel

import (
	"errors"
	"io/fs"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"
)

// zram makes a disk in memory, whose driver takes bios and makes no requests, and returns its path.
func zram(t *testing.T, size int) string {
	t.Helper()
	const control = "/sys/class/zram-control/"
	number, err := os.ReadFile(control + "hot_add")
	if errors.Is(err, fs.ErrNotExist) {
		t.Skip("this kernel has no zram (modprobe zram); kerneltests has a test of bios for guests")
	}
	if err != nil {
		t.Fatal(err)
	}
	name := "zram" + strings.TrimSpace(string(number))
	t.Cleanup(func() {
		for _, end := range [][2]string{{"/sys/block/" + name + "/reset", "1"}, {control + "hot_remove", strings.TrimPrefix(name, "zram")}} {
			if err := os.WriteFile(end[0], []byte(end[1]), 0); err != nil {
				t.Error(err)
			}
		}
	})
	if err := os.WriteFile("/sys/block/"+name+"/disksize", []byte(strconv.Itoa(size)), 0); err != nil {
		t.Fatal(err)
	}
	return "/dev/" + name
}

// A driver without requests of its own is timed by its bios, each once.
func TestBiosAreCountedExactly(t *testing.T) {
	for _, how := range []string{TpBTF, RawTracepoint} {
		t.Run(how, func(t *testing.T) {
			path := zram(t, 1<<20)
			k := open(t, how, SourceConfig{Name: "block"})
			name := strings.TrimPrefix(path, "/dev/")
			before := events(sample(t, k, "block_io_latency_seconds", name, "read"))
			began := time.Now()
			directIO(t, path, 100)
			took := time.Since(began)
			reads, _ := sampleAndSkipped(t, k, "block_io_latency_seconds", name, "read")
			writes, lost := sampleAndSkipped(t, k, "block_io_latency_seconds", name, "write")
			for operation, n := range map[string]uint64{"reads": events(reads) - before, "writes": events(writes)} {
				if n > 100 || n+lost < 100 {
					t.Errorf("counted %d %s of %s, want 100, of which %d may be lost", n, operation, name, lost)
				}
			}
			if sum := time.Duration(writes.SumNanoseconds); sum <= 0 || sum > took {
				t.Errorf("writes took %v in %v", sum, took)
			}
		})
	}
}
