package main

import (
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/latpush/latpush/internal/promwire"
	"github.com/latpush/latpush/internal/spool/quarantine"
)

// request is the i-th quarantined request.
func request(i int, receiver, body string) quarantine.Batch {
	at := time.Date(2026, time.November, 22, 12, 0, 0, 0, time.UTC)
	return quarantine.Batch{
		Receiver: receiver, Taken: at.Add(6*time.Hour + time.Duration(i)*time.Second), ContentType: "application/x-protobuf", Version: "0.1.0",
		Body: []byte(body), Samples: 7, Series: 2, Oldest: at, Newest: at.Add(15 * time.Second), Status: 503, Message: "overloaded\n\"again\"",
	}
}

func putRequests(t *testing.T, spoolDirectory string, batches ...quarantine.Batch) {
	t.Helper()
	store, err := quarantine.Open(filepath.Join(spoolDirectory, quarantine.Folder), 1<<20, slog.New(slog.DiscardHandler), nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, b := range batches {
		if err := store.Put(b); err != nil {
			t.Fatal(err)
		}
	}
}

// kept returns the numbers of the requests in a quarantine.
func kept(t *testing.T, spoolDirectory string) string {
	t.Helper()
	entries, err := quarantine.List(filepath.Join(spoolDirectory, quarantine.Folder))
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	for _, e := range entries {
		all = append(all, e.ID)
	}
	return strings.Join(all, " ")
}

// scripted is a receiver that answers each body in its own way, and notes what it was sent.
type scripted struct {
	mu  sync.Mutex
	got []string
}

func (s *scripted) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	s.mu.Lock()
	defer s.mu.Unlock()
	user, password, _ := r.BasicAuth()
	s.got = append(s.got, fmt.Sprintf("%s:%s %s %s %s %s", user, password, r.Header.Get("Content-Type"), r.Header.Get("X-Prometheus-Remote-Write-Version"),
		r.Header.Get("Content-Encoding"), body))
	switch kind := string(body); kind {
	case "bad":
		http.Error(w, "out of bounds\x1b[2J", http.StatusBadRequest)
	case "busy":
		http.Error(w, "still overloaded", http.StatusServiceUnavailable)
	case "locked":
		http.Error(w, "no such user", http.StatusUnauthorized)
	default:
		if r.Header.Get("X-Prometheus-Remote-Write-Version") == "2.0.0" && kind != "dropped" {
			written := "7"
			if kind == "partial" {
				written = "5"
			}
			w.Header().Set("X-Prometheus-Remote-Write-Samples-Written", written)
		}
		w.WriteHeader(http.StatusNoContent)
	}
}

func TestSpoolReplay(t *testing.T) {
	t.Parallel()
	second := func(body string) quarantine.Batch {
		b := request(1, "main", body)
		b.ContentType, b.Version = "application/x-protobuf;proto="+string(promwire.V2), "2.0.0"
		return b
	}
	tests := []struct {
		name    string
		batches []quarantine.Batch
		args    []string
		code    int
		stdout  string
		stderr  string
		kept    string
		sent    int
	}{
		{name: "empty", args: []string{"all"}, stdout: "There is nothing to replay.\n"},
		{
			name: "all are accepted", batches: []quarantine.Batch{request(1, "main", "a"), request(2, "other", "b"), second("c")}, args: []string{"all"}, sent: 3,
			stdout: "request 1: accepted by main with status 204\nrequest 2: accepted by other with status 204\nrequest 3: accepted by main with status 204\n",
		},
		{
			name: "some are", batches: []quarantine.Batch{request(1, "main", "bad"), request(2, "main", "b"), request(3, "main", "busy"), request(4, "main", "d")},
			args: []string{"all"}, sent: 4, code: 1, kept: "1 3",
			stdout: "request 1: stays: rejected: receive status 400 Bad Request: out of bounds\uFFFD[2J\nrequest 2: accepted by main with status 204\n" +
				"request 3: stays: retry: receive status 503 Service Unavailable: still overloaded\nrequest 4: accepted by main with status 204\n",
			stderr: "replay quarantine: 2 of 4 requests were not accepted and stay there\n",
		},
		{
			name: "by number", batches: []quarantine.Batch{request(1, "main", "a"), request(2, "main", "b"), request(3, "main", "c")}, args: []string{"3", "1"}, sent: 2,
			kept: "2", stdout: "request 1: accepted by main with status 204\nrequest 3: accepted by main with status 204\n",
		},
		{
			name: "by receiver", batches: []quarantine.Batch{request(1, "main", "a"), request(2, "other", "b"), request(3, "gone", "c")},
			args: []string{"--receiver", "other", "all"}, sent: 1, kept: "1 3", stdout: "request 2: accepted by other with status 204\n",
		},
		{
			name: "a receiver that is gone", batches: []quarantine.Batch{request(1, "gone", "a"), request(2, "main", "b")}, args: []string{"all"}, sent: 1, code: 1, kept: "1",
			stdout: "request 1: stays: its receiver \"gone\" is not in the configuration any more (give a receiver that name)\nrequest 2: accepted by main with status 204\n",
			stderr: "replay quarantine: 1 of 2 requests were not accepted and stay there\n",
		},
		{
			name: "credentials that are refused are shown once", batches: []quarantine.Batch{request(1, "main", "locked"), request(2, "main", "b")}, args: []string{"all"},
			sent: 1, code: 1, kept: "1 2",
			stdout: "request 1: stays: unauthorized: receive status 401 Unauthorized: no such user\n" +
				"request 2: stays: not sent: receiver main did not take the one before: unauthorized: receive status 401 Unauthorized: no such user\n",
			stderr: "replay quarantine: 2 of 2 requests were not accepted and stay there\n",
		},
		{
			name: "a success that wrote nothing", batches: []quarantine.Batch{second("dropped"), second("partial")}, args: []string{"all"}, sent: 2, code: 1, kept: "1",
			stdout: "request 1: stays: unsupported: receive status 204 without a word on what was written (the receiver does not know io.prometheus.write.v2.Request)\n" +
				"request 2: accepted by main with status 204, which says that it has written 5 of 7 samples\n",
			stderr: "replay quarantine: 1 of 2 requests were not accepted and stay there\n",
		},
		{
			name: "a number that is not there", batches: []quarantine.Batch{request(1, "main", "a")}, args: []string{"1", "2"}, code: 1, kept: "1",
			stderr: "there is no quarantined request \"2\" (`latpush spool quarantine` lists them)\n",
		},
		{
			name: "numbers and all", batches: []quarantine.Batch{request(1, "main", "a")}, args: []string{"1", "all"}, code: 1, kept: "1",
			stderr: "name either numbers of requests or all, not both\n",
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			script := new(scripted)
			server := httptest.NewServer(script)
			t.Cleanup(server.Close)
			directory := t.TempDir()
			file := write(t, "latpush.yml", fmt.Sprintf("external_labels: {instance: edge-1}\nspool: {directory: %s}\nremote_write:\n"+
				"  - {name: main, url: %s/main, basic_auth: {username: me, password: secret}}\n  - {name: other, url: %s/other}\n", directory, server.URL, server.URL))
			putRequests(t, directory, tt.batches...)
			stdout, stderr, code := latpush(t, append([]string{"spool", "replay", "--config.file", file}, tt.args...)...)
			if code != tt.code || stdout != tt.stdout || stderr != tt.stderr {
				t.Errorf("exit code %d, want %d\nstandard output:\n%s\nwant:\n%s\nstandard error:\n%s\nwant:\n%s", code, tt.code, stdout, tt.stdout, stderr, tt.stderr)
			}
			if got := kept(t, directory); got != tt.kept {
				t.Errorf("the quarantine keeps %q, want %q", got, tt.kept)
			}
			if len(script.got) != tt.sent {
				t.Errorf("%d requests were sent, want %d: %v", len(script.got), tt.sent, script.got)
			}
			if tt.name == "all are accepted" {
				want := []string{
					"me:secret application/x-protobuf 0.1.0 snappy a", ": application/x-protobuf 0.1.0 snappy b",
					"me:secret application/x-protobuf;proto=io.prometheus.write.v2.Request 2.0.0 snappy c",
				}
				if strings.Join(script.got, "\n") != strings.Join(want, "\n") {
					t.Errorf("sent:\n%s\nwant:\n%s", strings.Join(script.got, "\n"), strings.Join(want, "\n"))
				}
			}
		})
	}
}

// A receiver that does not answer is tried once, not once for each request.
func TestSpoolReplayWithoutAReceiver(t *testing.T) {
	t.Parallel()
	directory := t.TempDir()
	file := write(t, "latpush.yml", "external_labels: {instance: edge-1}\nspool: {directory: "+directory+"}\nremote_write: [{name: main, url: http://127.0.0.1:9/push}]\n")
	putRequests(t, directory, request(1, "main", "a"), request(2, "main", "b"))
	stdout, stderr, code := latpush(t, "spool", "replay", "--config.file", file, "all")
	if code != 1 || !strings.HasPrefix(stderr, "replay quarantine: 2 of 2") {
		t.Errorf("exit code %d with %q", code, stderr)
	}
	wantLine(t, stdout, `request 1: stays: retry: .*connection refused`)
	wantLine(t, stdout, `request 2: stays: not sent: receiver main did not take the one before: retry: .*connection refused`)
	if got := kept(t, directory); got != "1 2" {
		t.Errorf("the quarantine keeps %q", got)
	}
}

func TestSpoolQuarantine(t *testing.T) {
	t.Parallel()
	directory := t.TempDir()
	stdout, stderr, code := latpush(t, "spool", "quarantine", "--directory", directory)
	if code != 0 || stderr != "" || stdout != "The quarantine is empty.\n" {
		t.Errorf("exit code %d with %q and %q", code, stdout, stderr)
	}
	putRequests(t, directory, request(1, "main", "a"), request(2, "main", strings.Repeat("b", 4000)))
	damaged := filepath.Join(directory, quarantine.Folder, fmt.Sprintf("%020d.request", 1))
	if err := os.WriteFile(damaged, []byte("rotten\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	stdout, stderr, code = latpush(t, "spool", "quarantine", "--directory", directory)
	if code != 0 || stderr != "" {
		t.Errorf("exit code %d with %q", code, stderr)
	}
	wantLine(t, stdout, `ID RECEIVER SET APART SIZE SERIES SAMPLES OLDEST NEWEST STATUS MESSAGE`)
	wantLine(t, stdout, `1 - - 7 B - - - - - load quarantined request 1 from `+regexp.QuoteMeta(damaged)+`: damaged .*`)
	wantLine(t, stdout, `2 main 2026-11-22T18:00:02Z 4\.\d KiB 2 7 2026-11-22T12:00:00Z 2026-11-22T12:00:15Z 503 overloaded "again"`)
	// The columns are aligned.
	lines := strings.SplitAfter(stdout, "\n")
	if column := strings.Index(lines[0], "STATUS"); column < 0 || !strings.HasPrefix(lines[2][column:], "503 ") {
		t.Errorf("the columns are not aligned:\n%s", stdout)
	}
}
