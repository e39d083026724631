package quarantine

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
)

// batch is the i-th request; its body has the given size.
func batch(i, size int) Batch {
	at := time.Date(2026, time.November, 22, 18, 0, i, 250e6, time.UTC)
	return Batch{
		Receiver: "main", Taken: at.Add(6 * time.Hour), ContentType: "application/x-protobuf", Version: "0.1.0",
		Body: bytes.Repeat([]byte{byte(i), '\n'}, size/2), Samples: 100 + i, Series: 10, Oldest: at, Newest: at.Add(time.Minute),
		Status: 503, Message: fmt.Sprintf("request %d: \"no\"\nreally", i),
	}
}

func openStore(t *testing.T, directory string, maxBytes int64) (*Store, *bytes.Buffer) {
	t.Helper()
	log := new(bytes.Buffer)
	s, err := Open(directory, maxBytes, slog.New(slog.NewTextHandler(log, nil)), nil)
	if err != nil {
		t.Fatal(err)
	}
	return s, log
}

func put(t *testing.T, s *Store, batches ...Batch) {
	t.Helper()
	for _, b := range batches {
		if err := s.Put(b); err != nil {
			t.Fatal(err)
		}
	}
}

// ids returns the IDs in a quarantine, those of damaged files with a mark.
func ids(t *testing.T, directory string) []string {
	t.Helper()
	entries, err := List(directory)
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	for _, e := range entries {
		if e.Err != nil {
			e.ID += "!"
		}
		all = append(all, e.ID)
	}
	return all
}

func wantIDs(t *testing.T, directory string, want ...string) {
	t.Helper()
	if got := ids(t, directory); !slices.Equal(got, want) {
		t.Errorf("the quarantine has %v, want %v", got, want)
	}
}

func file(directory string, number int) string {
	return filepath.Join(directory, fmt.Sprintf("%020d.request", number))
}

func TestPutListLoadRemove(t *testing.T) {
	t.Parallel()
	directory := filepath.Join(t.TempDir(), Folder)
	wantIDs(t, directory)
	s, log := openStore(t, directory, 1<<20)
	if _, err := os.Stat(directory); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the directory is made before it is needed: %v", err)
	}
	put(t, s, batch(1, 100), batch(2, 0), batch(3, 5000))
	wantIDs(t, directory, "1", "2", "3")
	for i, size := range map[int]int{1: 100, 2: 0, 3: 5000} {
		want := batch(i, size)
		want.ID = fmt.Sprint(i)
		got, err := Load(directory, want.ID)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("request %d (-want +got):\n%s", i, diff)
		}
	}
	entries, err := List(directory)
	if err != nil {
		t.Fatal(err)
	}
	want := batch(3, 0)
	want.ID, want.Body = "3", nil
	if diff := cmp.Diff(Entry{Batch: want, File: filepath.Base(file(directory, 3)), Size: entries[2].Size}, entries[2]); diff != "" || entries[2].Size < 5000 {
		t.Errorf("entry of %d bytes (-want +got):\n%s", entries[2].Size, diff)
	}
	if err := Remove(directory, "2"); err != nil {
		t.Fatal(err)
	}
	wantIDs(t, directory, "1", "3")
	for _, err := range []error{Remove(directory, "2"), errorOf(Load(directory, "2"))} {
		if !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("error %v for a request that was removed", err)
		}
	}
	// Not the number of one that was removed.
	put(t, s, batch(4, 10))
	wantIDs(t, directory, "1", "3", "4")
	again, _ := openStore(t, directory, 1<<20)
	put(t, again, batch(5, 10))
	wantIDs(t, directory, "1", "3", "4", "5")
	if log.Len() > 0 {
		t.Errorf("the log:\n%s", log)
	}
}

func errorOf(_ Batch, err error) error { return err }

func TestWrongIDs(t *testing.T) {
	t.Parallel()
	directory := t.TempDir()
	for _, id := range []string{"", "0", "-1", "x", "1.request", "../1", "9223372036854775808"} {
		for _, err := range []error{Remove(directory, id), errorOf(Load(directory, id))} {
			if err == nil || !strings.Contains(err.Error(), "is not the number of a request") {
				t.Errorf("error %v for ID %q", err, id)
			}
		}
	}
}

func TestOldestAreDroppedAtTheBound(t *testing.T) {
	t.Parallel()
	directory := t.TempDir()
	registry, log := prometheus.NewRegistry(), new(bytes.Buffer)
	const bound = 10_000
	s, err := Open(directory, bound, slog.New(slog.NewTextHandler(log, nil)), registry)
	if err != nil {
		t.Fatal(err)
	}
	for i := 1; i <= 9; i++ {
		put(t, s, batch(i, 2600))
		if size := sizeOf(t, directory); size > bound {
			t.Errorf("%d bytes after request %d", size, i)
		}
	}
	wantIDs(t, directory, "7", "8", "9")
	want := fmt.Sprintf(`
		# HELP latpush_quarantine_bytes Size of the files of quarantined requests.
		# TYPE latpush_quarantine_bytes gauge
		latpush_quarantine_bytes %d
		# HELP latpush_quarantine_dropped_total Quarantined requests dropped for good because the quarantine was full.
		# TYPE latpush_quarantine_dropped_total counter
		latpush_quarantine_dropped_total 6
		# HELP latpush_quarantine_requests Requests set apart because a receiver only ever failed at them.
		# TYPE latpush_quarantine_requests gauge
		latpush_quarantine_requests 3
	`, sizeOf(t, directory))
	if err := testutil.GatherAndCompare(registry, strings.NewReader(want)); err != nil {
		t.Error(err)
	}
	if got := strings.Count(log.String(), "dropped for good"); got != 6 || !strings.Contains(log.String(), "id=6 receiver=main samples=106") {
		t.Errorf("%d lines in the log:\n%s", got, log)
	}
	// What somebody else removed makes room.
	if err := Remove(directory, "8"); err != nil {
		t.Fatal(err)
	}
	put(t, s, batch(10, 2600))
	wantIDs(t, directory, "7", "9", "10")
	// One that does not fit at all drops nothing.
	if err := s.Put(batch(11, bound)); !errors.Is(err, ErrTooLarge) {
		t.Errorf("error %v for a request that is too large", err)
	}
	wantIDs(t, directory, "7", "9", "10")
	s.Close()
	if _, err := Open(directory, bound, slog.New(slog.DiscardHandler), registry); err != nil {
		t.Errorf("open after Close: %v", err)
	}
}

func sizeOf(t *testing.T, directory string) (sum int64) {
	t.Helper()
	entries, err := List(directory)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		sum += e.Size
	}
	return sum
}

func TestOtherFilesAreLeftAlone(t *testing.T) {
	t.Parallel()
	directory := t.TempDir()
	for _, name := range []string{"README", "1.request", "00000000000000000000.request", "00000000000000000007.request.tmp"} {
		if err := os.WriteFile(filepath.Join(directory, name), []byte("x"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	s, log := openStore(t, directory, 1<<20)
	put(t, s, batch(1, 10))
	wantIDs(t, directory, "1")
	names, err := filepath.Glob(filepath.Join(directory, "*"))
	if err != nil || len(names) != 4 {
		t.Errorf("there are %v", names)
	}
	if log.Len() > 0 {
		t.Errorf("the log:\n%s", log)
	}
	if _, err := Open(filepath.Join(directory, "README"), 1, slog.New(slog.DiscardHandler), nil); err == nil {
		t.Error("a file is opened as a directory")
	}
}

func TestConcurrentPuts(t *testing.T) {
	t.Parallel()
	directory := t.TempDir()
	registry := prometheus.NewRegistry()
	s, err := Open(directory, 20_000, slog.New(slog.DiscardHandler), registry)
	if err != nil {
		t.Fatal(err)
	}
	var all sync.WaitGroup
	for i := range 8 {
		all.Go(func() {
			for j := range 5 {
				if err := s.Put(batch(10*i+j, 3000)); err != nil {
					t.Error(err)
				}
				_, _ = registry.Gather()
				for _, e := range ids(t, directory) {
					if strings.HasSuffix(e, "!") {
						t.Errorf("request %s cannot be read", e)
					}
					if i == 0 {
						_ = Remove(directory, e)
					}
				}
			}
		})
	}
	all.Wait()
	if size := sizeOf(t, directory); size > 20_000 {
		t.Errorf("%d bytes", size)
	}
}

// failingDisk fails at one of its operations, and notes all.
type failingDisk struct {
	systemDisk
	fail string
	done []string
}

func (d *failingDisk) step(name string) error {
	d.done = append(d.done, name)
	if name == d.fail {
		return syscall.ENOSPC
	}
	return nil
}

func (d *failingDisk) MakeDirectory(path string) error {
	return errors.Join(d.step("make"), d.systemDisk.MakeDirectory(path))
}

func (d *failingDisk) Write(path string, contents []byte) error {
	if err := d.step("write"); err != nil {
		_ = os.WriteFile(path, contents[:len(contents)/2], 0o600)
		return err
	}
	return d.systemDisk.Write(path, contents)
}

func (d *failingDisk) Rename(from, to string) error {
	if err := d.step("rename"); err != nil {
		return err
	}
	return d.systemDisk.Rename(from, to)
}

func (d *failingDisk) SyncDirectory(path string) error {
	return errors.Join(d.step("sync"), d.systemDisk.SyncDirectory(path))
}

func TestDiskThatRefuses(t *testing.T) {
	t.Parallel()
	for _, fail := range []string{"make", "write", "rename", "sync"} {
		t.Run(fail, func(t *testing.T) {
			t.Parallel()
			directory := t.TempDir()
			d := &failingDisk{fail: fail}
			s, err := open(directory, 1<<20, d, slog.New(slog.DiscardHandler), nil)
			if err != nil {
				t.Fatal(err)
			}
			if err := s.Put(batch(1, 1000)); !errors.Is(err, syscall.ENOSPC) {
				t.Errorf("error %v", err)
			}
			if rest, err := filepath.Glob(filepath.Join(directory, "*.tmp")); err != nil || len(rest) > 0 {
				t.Errorf("left over: %v", rest)
			}
			d.fail, d.done = "", nil
			put(t, s, batch(1, 1000))
			wantIDs(t, directory, "1")
			if want := []string{"make", "write", "rename", "sync"}; !slices.Equal(d.done, want) {
				t.Errorf("the steps are %v, want %v", d.done, want)
			}
		})
	}
}
