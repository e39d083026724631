package kernel

import (
	"os"
	"path/filepath"
	"regexp"
	"testing"

	"golang.org/x/sys/unix"
)

// Passes of write-back are counted under the reason that the kernel traces. Other files of the machine are written back meanwhile, so there are as many
// as this test asked for at least, and at most what the kernel traced in a time that is a little longer.
func TestWritebackIsCountedByReason(t *testing.T) {
	const times = 5
	folder := t.TempDir()
	var system unix.Statfs_t
	if err := unix.Statfs(folder, &system); err != nil {
		t.Fatal(err)
	}
	if system.Type == unix.TMPFS_MAGIC || system.Type == unix.RAMFS_MAGIC {
		t.Skip("temporary files are in memory alone here: kerneltests has a test of write-back for guests")
	}
	for _, how := range []string{TpBTF, RawTracepoint} {
		t.Run(how, func(t *testing.T) {
			k := openWith(t, Options{Ways: []string{how}}, SourceConfig{Name: "writeback", MaxCPU: new(Cores)})
			list := trace(t, "writeback/writeback_written")
			before := sample(t, k, "writeback_latency_seconds", "sync")
			for range times {
				syncFile(t, filepath.Join(folder, "file"))
			}
			after := sample(t, k, "writeback_latency_seconds", "sync")
			var most uint64
			reason := regexp.MustCompile(`\breason=sync\b`)
			for _, line := range list() {
				if reason.MatchString(line.text) {
					most++
				}
			}
			n := events(after) - events(before)
			t.Logf("counted %d passes, traced %d", n, most)
			if n < times || n > most {
				t.Errorf("counted %d passes, want at least %d and at most the %d that the kernel traced", n, times, most)
			}
			if after.SumNanoseconds <= before.SumNanoseconds {
				t.Errorf("%d passes took no time", n)
			}
		})
	}
}

// syncFile makes a page of a file dirty and has all of its file system written back.
func syncFile(t *testing.T, name string) {
	t.Helper()
	file, err := os.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	if _, err := file.Write(make([]byte, 4096)); err != nil {
		t.Fatal(err)
	}
	if err := unix.Syncfs(int(file.Fd())); err != nil {
		t.Fatal(err)
	}
}
