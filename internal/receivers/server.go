package receivers

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/api"
	v1 "github.com/prometheus/client_golang/api/prometheus/v1"
)

const (
	// buildTimeout and startTimeout are for machines with one slow core.
	buildTimeout = 20 * time.Minute
	startTimeout = time.Minute

	pollInterval = 50 * time.Millisecond
)

// Server is a running receiver.
type Server struct {
	// URL is the address of its HTTP interface, such as "http://127.0.0.1:9090".
	URL string
	// API asks it.
	API v1.API

	program Program
	process *exec.Cmd
	log     *logBuffer
	exited  chan struct{} // closed when the process has ended
}

// Start starts a receiver for as long as the test runs and waits until it can be written to. When the program cannot be had, the test is skipped, or
// fails when CI is set. A program that does not start always fails the test.
func Start(t testing.TB, p Program, o Options) *Server {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), buildTimeout)
	defer cancel()
	path, err := p.Path(ctx)
	if err != nil {
		if os.Getenv("CI") != "" {
			t.Fatal(err)
		}
		t.Skip(err)
	}
	if o.Address == "" {
		o.Address = FreeAddress(t)
	}
	if o.Directory == "" {
		o.Directory = t.TempDir()
	}
	s, err := start(p, path, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		s.Stop()
		if t.Failed() {
			t.Logf("log of %s:\n%s", p, s.log)
		}
	})
	if err := s.waitReady(t.Context()); err != nil {
		t.Fatal(err)
	}
	return s
}

func start(p Program, path string, o Options) (*Server, error) {
	arguments, err := p.arguments(o)
	if err != nil {
		return nil, err
	}
	s := &Server{URL: "http://" + o.Address, program: p, process: exec.Command(path, arguments...), log: new(logBuffer), exited: make(chan struct{})}
	client, err := api.NewClient(api.Config{Address: s.URL})
	if err != nil {
		return nil, fmt.Errorf("make query client of %s: %w", p, err)
	}
	s.API = v1.NewAPI(client)
	s.process.Dir = o.Directory
	s.process.Stdout, s.process.Stderr = s.log, s.log
	if err := s.process.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", p, err)
	}
	go func() {
		defer close(s.exited)
		_ = s.process.Wait() // what it has to say is in its log
	}()
	return s, nil
}

// waitReady waits until the server says that it is ready.
func (s *Server) waitReady(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	for {
		reason := s.ready(ctx)
		if reason == nil {
			return nil
		}
		select {
		case <-s.exited:
			return fmt.Errorf("start %s: it ended with %s", s.program, s.process.ProcessState)
		case <-ctx.Done():
			return fmt.Errorf("start %s: %w", s.program, reason)
		case <-time.After(pollInterval):
		}
	}
}

func (s *Server) ready(ctx context.Context) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, s.URL+s.program.readyPath(), nil)
	if err != nil {
		return err
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("it is not ready: %s", response.Status)
	}
	return nil
}

// WriteURL is where remote write requests go.
func (s *Server) WriteURL() string { return s.URL + "/api/v1/write" }

// Pid is the number of its process.
func (s *Server) Pid() int { return s.process.Process.Pid }

// Stop ends the server at once and waits until it has ended. What it has answered is on its disk; another one can take its address and directory.
func (s *Server) Stop() {
	_ = s.process.Process.Kill() // unless it has ended
	<-s.exited
}

// FreeAddress returns a loopback address that nobody listens on.
func FreeAddress(t testing.TB) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	if err := listener.Close(); err != nil {
		t.Fatal(err)
	}
	return listener.Addr().String()
}

// logBuffer keeps the last output of a process.
type logBuffer struct {
	mu     sync.Mutex
	buffer bytes.Buffer
}

const maxLog = 64 << 10 // bytes

func (b *logBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.buffer.Write(p)
	if surplus := b.buffer.Len() - maxLog; surplus > 0 {
		b.buffer.Next(surplus)
	}
	return len(p), nil
}

func (b *logBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buffer.String()
}
