package main

import (
	"bytes"
	bits "encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/textparse"

	"github.com/latpush/latpush/internal/latency"
	"github.com/latpush/latpush/internal/spool"
	"github.com/latpush/latpush/internal/spool/spooltest"
)

// filledSpool makes a spool of 300 snapshots with two readers, a segment that was set aside and an unfinished file. It stays open, as if an agent ran.
func filledSpool(t *testing.T) (directory string) {
	t.Helper()
	directory = t.TempDir()
	if err := os.WriteFile(filepath.Join(directory, fmt.Sprintf("%020d.seg", 1)), []byte("no segment"), 0o600); err != nil {
		t.Fatal(err)
	}
	s, err := spool.Open(spool.Options{Directory: directory, SegmentBytes: 32 << 10, MaxBytes: 4 << 20}, slog.New(slog.DiscardHandler), nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	main, err := s.Reader("main")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Reader("new"); err != nil {
		t.Fatal(err)
	}
	for i := range 300 {
		if err := s.Append(spooltest.Snapshot(i)); err != nil {
			t.Fatal(err)
		}
	}
	for range 100 {
		_, p, ok, err := main.TryNext()
		if err != nil || !ok {
			t.Fatalf("next: %v, %v", ok, err)
		}
		if err := main.Commit(p, []byte(`{"version":1,"last_ms":1793514600250,"took_v2":true,"fell_back_s":1793514000,"budget":{"level":3}}`)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(directory, "other.cursor.tmp"), []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	return directory
}

// squeezed returns the lines of a table with single spaces.
func squeezed(text string) []string {
	var lines []string
	for line := range strings.Lines(text) {
		lines = append(lines, strings.Join(strings.Fields(line), " "))
	}
	return lines
}

// wantLine looks for a line that a pattern matches whole.
func wantLine(t *testing.T, text, pattern string) {
	t.Helper()
	re := regexp.MustCompile("^" + pattern + "$")
	for _, line := range squeezed(text) {
		if re.MatchString(line) {
			return
		}
	}
	t.Errorf("no line matches %q in:\n%s", pattern, text)
}

func TestSpoolList(t *testing.T) {
	t.Parallel()
	directory := filledSpool(t)
	putRequests(t, directory, request(1, "main", "body"))
	stdout, stderr, code := latpush(t, "spool", "list", "--directory", directory)
	if code != 0 || stderr != "" {
		t.Errorf("exit code %d with %q", code, stderr)
	}
	wantLine(t, stdout, regexp.QuoteMeta(directory)+`: snapshots: 300, segments: \d+, size: \d+\.\d KiB`)
	wantLine(t, stdout, `SEGMENT SIZE SNAPSHOTS POSITIONS OLDEST NEWEST SPACING REMARK`)
	wantLine(t, stdout, `0{19}2\.seg \d+\.\d KiB \d+ 2-\d+ 2026-11-01T06:30:00Z 2026-11-01T0\d:\d\d:\d\dZ 15s`)
	wantLine(t, stdout, `\d{20}\.seg \d+(\.\d)? K?i?B \d+ \d+-301 2026-11-01T0\d:\d\d:\d\dZ 2026-11-01T07:44:45Z 15s`)
	wantLine(t, stdout, `RECEIVER DELIVERED PENDING STATE`)
	wantLine(t, stdout, `main 101 200 fell_back=2026-11-01T06:20:00Z last=2026-11-01T06:30:00Z took_v2=true`)
	wantLine(t, stdout, `new 0 300 -`)
	wantLine(t, stdout, `0{19}1\.seg\.corrupt 10 B set aside because it could not be read`)
	wantLine(t, stdout, `other\.cursor\.tmp 1 B being written, or left by a crash`)
	wantLine(t, stdout, `1 main 2026-11-22T18:00:01Z \d+ B 2 7 2026-11-22T12:00:00Z 2026-11-22T12:00:15Z 503 overloaded "again"`)
	for line := range strings.Lines(stdout) {
		if strings.HasSuffix(line, " \n") && !strings.Contains(line, ".seg") {
			t.Errorf("blanks at the end of %q", line)
		}
	}
}

// All commands take the directory from the configuration unless it is given.
func TestSpoolDirectoryOfTheConfiguration(t *testing.T) {
	t.Parallel()
	directory := filledSpool(t)
	file := filepath.Join(t.TempDir(), "latpush.yml")
	rewrite(t, file, "http://127.0.0.1:9/push", directory, "external_labels: {instance: edge-1}")
	for _, command := range []string{"list", "dump", "quarantine"} {
		with, stderr, code := latpush(t, "spool", command, "--config.file", file)
		if code != 0 || stderr != "" {
			t.Errorf("%s: exit code %d with %q", command, code, stderr)
		}
		if without, _, _ := latpush(t, "spool", command, "--directory", directory); with != without || with == "" {
			t.Errorf("%s prints with a configuration:\n%s\nand with the directory:\n%s", command, with, without)
		}
	}
}

func TestSpoolDump(t *testing.T) {
	t.Parallel()
	directory := filledSpool(t)
	newest, stderr, code := latpush(t, "spool", "dump", "--directory", directory)
	if code != 0 || stderr != "" {
		t.Errorf("exit code %d with %q", code, stderr)
	}
	if named, _, _ := latpush(t, "spool", "dump", "--directory", directory, "301"); named != newest {
		t.Errorf("the newest snapshot is printed as\n%s\nand by its position as\n%s", newest, named)
	}
	dumped, _, _ := latpush(t, "spool", "dump", "--directory", directory, "12")
	if want := "# Snapshot 12, taken 2026-11-01T06:32:30.00000025Z, 2m30s after the boot with the id 626f6f74000000000000000000000001.\n"; !strings.HasPrefix(dumped, want) {
		t.Errorf("printed:\n%s\nwant:\n%s", dumped, want)
	}
	want := expected(spooltest.Snapshot(10))
	got := parseOpenMetrics(t, dumped)
	for name, value := range want {
		if got[name] != value {
			t.Errorf("%s is %q, want %q", name, got[name], value)
		}
	}
	if len(got) != len(want) || len(want) < 20 {
		t.Errorf("%d series are printed, want %d", len(got), len(want))
	}
}

// expected returns value and time of every series of a snapshot, by its labels.
func expected(snapshot *latency.Snapshot) map[string]string {
	all := make(map[string]string)
	at := snapshot.Taken.Wall.UnixMilli()
	created := func(s latency.Series) float64 {
		return float64(snapshot.Taken.Wall.Add(s.Start-snapshot.Taken.Boottime).UnixMilli()) / 1e3
	}
	for _, f := range snapshot.Families {
		for _, s := range f.Series {
			var pairs []string
			for i, name := range f.LabelNames {
				pairs = append(pairs, name, s.LabelValues[i])
			}
			put := func(name string, value float64, more ...string) {
				set := labels.FromStrings(append(append([]string{"__name__", name}, pairs...), more...)...)
				all[set.String()] = fmt.Sprintf("%v at %d", value, at)
			}
			if f.Kind == latency.Counter {
				put(f.Name, s.Value)
				put(strings.TrimSuffix(f.Name, "_total")+"_created", created(s))
				continue
			}
			var sum uint64
			for i, n := range s.Counts {
				sum += n
				le := latency.LEInf
				if i < len(f.Bounds) {
					le = latency.LE(f.Bounds[i])
				}
				put(f.Name+"_bucket", float64(sum), "le", le)
			}
			put(f.Name+"_count", float64(sum))
			put(f.Name+"_sum", float64(s.Sum)/1e9)
			put(f.Name+"_created", created(s))
		}
	}
	return all
}

// parseOpenMetrics reads a dump with Prometheus's parser, which is strict; the two lines of comment in front are not OpenMetrics.
func parseOpenMetrics(t *testing.T, dumped string) map[string]string {
	t.Helper()
	lines := strings.SplitAfterN(dumped, "\n", 3)
	if len(lines) < 3 {
		t.Fatalf("a dump of %d lines", len(lines))
	}
	all := make(map[string]string)
	for parser := textparse.NewOpenMetricsParser([]byte(lines[2]), labels.NewSymbolTable()); ; {
		entry, err := parser.Next()
		switch {
		case errors.Is(err, io.EOF):
			return all
		case err != nil:
			t.Fatalf("not OpenMetrics: %v:\n%s", err, dumped)
		case entry == textparse.EntrySeries:
			_, at, value := parser.Series()
			if at == nil {
				t.Fatalf("a sample without a timestamp:\n%s", dumped)
			}
			var set labels.Labels
			parser.Labels(&set)
			all[set.String()] = fmt.Sprintf("%v at %d", value, *at)
		}
	}
}

func TestSnapshotTextEscapes(t *testing.T) {
	t.Parallel()
	snapshot := &latency.Snapshot{Taken: spooltest.Instant(1), Families: []latency.Family{
		{
			Name: "queue_seconds", Help: "A \"help\"\nwith \\ in it.", Unit: "seconds", Kind: latency.Gauge, LabelNames: []string{"device", "absent"},
			Series: []latency.Series{{LabelValues: []string{"a\\b\"c\nd", ""}, Value: 0.25}},
		},
	}}
	var out bytes.Buffer
	if err := printSnapshot(&out, 1, snapshot); err != nil {
		t.Fatal(err)
	}
	want := "# TYPE queue_seconds gauge\n# UNIT queue_seconds seconds\n# HELP queue_seconds A \\\"help\\\"\\nwith \\\\ in it.\n" +
		"queue_seconds{device=\"a\\\\b\\\"c\\nd\"} 0.25 1793514615.000\n# EOF\n"
	if !strings.HasSuffix(out.String(), want) {
		t.Errorf("printed:\n%s\nwant at its end:\n%s", out.String(), want)
	}
	parsed := parseOpenMetrics(t, out.String())
	if name := labels.FromStrings("__name__", "queue_seconds", "device", "a\\b\"c\nd").String(); parsed[name] != "0.25 at 1793514615000" {
		t.Errorf("parsed as %v", parsed)
	}
}

func TestSpoolArguments(t *testing.T) {
	t.Parallel()
	directory := filledSpool(t)
	missing := filepath.Join(t.TempDir(), "spool")
	empty := t.TempDir()
	file := write(t, "latpush.yml", "external_labels: {instance: edge-1}\nspool: {directory: "+directory+"}\nremote_write: [{name: main, url: http://127.0.0.1:9/push}]\n")
	tests := []struct {
		name   string
		args   []string
		stderr string // beginning
	}{
		{"no subcommand", nil, "latpush: must select a subcommand of 'spool' (see latpush --help)\n"},
		{"no directory", []string{"list", "--directory", missing}, "inspect spool " + missing + ": list directory: open " + missing + ": no such file or directory (no agent has run"},
		{"no configuration", []string{"list", "--config.file", missing}, missing + ": no such file or directory"},
		{"not a number", []string{"dump", "--directory", directory, "x"}, "position \"x\" is not a number above 0 (`latpush spool list` shows which there are)\n"},
		{"position 0", []string{"dump", "--directory", directory, "0"}, "position \"0\" is not a number above 0"},
		{"no such position", []string{"dump", "--directory", directory, "302"}, "read snapshot 302 of spool " + directory + ": no snapshot at this position (`latpush spool list`"},
		{"no snapshot at all", []string{"dump", "--directory", empty}, "spool " + empty + " has no snapshot\n"},
		{"two positions", []string{"dump", "--directory", directory, "1", "2"}, "latpush: unexpected 2 (see latpush --help)\n"},
		{"replay of nothing", []string{"replay", "--config.file", file}, "latpush: required argument 'id' not provided (see latpush --help)\n"},
		{"no such receiver", []string{"replay", "--config.file", file, "--receiver", "x", "all"}, "receiver \"x\" is not in " + file + "\n"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			stdout, stderr, code := latpush(t, append([]string{"spool"}, tt.args...)...)
			if code != 1 || stdout != "" || !strings.HasPrefix(stderr, tt.stderr) {
				t.Errorf("exit code %d, standard output %q, standard error:\n%s\nwant:\n%s", code, stdout, stderr, tt.stderr)
			}
			if strings.Count(stderr, "\n") != 1 && tt.name != "no configuration" {
				t.Errorf("more than one line:\n%s", stderr)
			}
		})
	}
}

func TestSpoolOfANewerVersion(t *testing.T) {
	t.Parallel()
	directory := filledSpool(t)
	name := filepath.Join(directory, fmt.Sprintf("%020d.seg", 2))
	contents, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	bits.LittleEndian.PutUint32(contents[8:], 99) // the version, and the checksum of what is before and up to it
	bits.LittleEndian.PutUint32(contents[12:], crc32.Checksum(contents[:12], crc32.MakeTable(crc32.Castagnoli)))
	if err := os.WriteFile(name, contents, 0o600); err != nil {
		t.Fatal(err)
	}
	_, stderr, code := latpush(t, "spool", "list", "--directory", directory)
	if code != 1 || !strings.Contains(stderr, "version 99") || strings.Count(stderr, "\n") != 1 {
		t.Errorf("exit code %d with %q", code, stderr)
	}
}

func TestSize(t *testing.T) {
	t.Parallel()
	for bytes, want := range map[int64]string{0: "0 B", 1023: "1023 B", 1024: "1.0 KiB", 1536: "1.5 KiB", 64 << 20: "64.0 MiB", 5 << 40: "5120.0 GiB"} {
		if got := size(bytes); got != want {
			t.Errorf("size(%d) is %q, want %q", bytes, got, want)
		}
	}
}

func TestDescribeState(t *testing.T) {
	t.Parallel()
	for state, want := range map[string]string{
		"":                                      "-",
		"{}":                                    "-",
		"x":                                     "cannot be read: invalid character 'x' looking for beginning of value",
		`{"version":7,"count":3,"word":"a b"}`:  "count=3 word=a b",
		`{"budget":{"level":1},"took_v2":true}`: "took_v2=true",
		`{"last_ms":1793514600250}`:             "last=2026-11-01T06:30:00Z",
	} {
		if got := describeState([]byte(state)); got != want {
			t.Errorf("state %s is described as %q, want %q", state, got, want)
		}
	}
}
