package upload_test

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/prometheus/common/model"

	"github.com/latpush/latpush/internal/upload"
)

// rawServer answers each connection with a function of its own and gives its URL.
func rawServer(t *testing.T, handle func(*net.TCPConn)) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var all sync.WaitGroup
	all.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			all.Go(func() {
				defer conn.Close()
				handle(conn.(*net.TCPConn))
			})
		}
	})
	t.Cleanup(func() {
		l.Close()
		all.Wait()
	})
	return "http://" + l.Addr().String() + "/"
}

// answerWith reads a request and writes the text in answer, then closes.
func answerWith(text string) func(*net.TCPConn) {
	return func(conn *net.TCPConn) {
		r, err := http.ReadRequest(bufio.NewReader(conn))
		if err != nil {
			return
		}
		_, _ = io.Copy(io.Discard, r.Body)
		_, _ = io.WriteString(conn, text)
	}
}

// reset reads a request and resets the connection.
func reset(conn *net.TCPConn) {
	answerWith("")(conn)
	_ = conn.SetLinger(0)
}

func TestSendBrokenAnswers(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name    string
		handle  func(*net.TCPConn)
		verdict upload.Verdict
		status  int
		message string
		err     string
	}{
		{"closed without an answer", answerWith(""), upload.Retry, 0, "", "EOF"},
		{"truncated head", answerWith("HTTP/1.1 200 O"), upload.Retry, 0, "", "EOF"},
		{"no HTTP", answerWith("SSH-2.0-OpenSSH_9.2\r\n\r\n"), upload.Retry, 0, "", "malformed HTTP"},
		{"truncated refusal", answerWith("HTTP/1.1 400 Bad Request\r\nContent-Length: 100\r\n\r\nout of"), upload.Rejected, 400, "out of", "400 Bad Request: out of"},
		{"truncated chunk", answerWith("HTTP/1.1 503 X\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nabc"), upload.Retry, 503, "abc", "503 Service Unavailable: abc"},
		{"truncated success", answerWith("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nstor"), upload.Accepted, 200, "", ""},
		{"reset", reset, upload.Retry, 0, "", "connection reset by peer"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			s := newSender(t, rawServer(t, c.handle), nil)
			a := s.Send(t.Context(), request())
			if a.Verdict != c.verdict || a.Status != c.status || a.Message != c.message || (c.err == "") != (a.Err == nil) {
				t.Errorf("got %+v", a)
			}
			if a.Err != nil && !strings.Contains(a.Err.Error(), c.err) {
				t.Errorf("got %q, want %q in it", a.Err, c.err)
			}
		})
	}
}

// The same trouble has the same text with every attempt, whatever port the attempt was made from, so that it is logged once.
func TestSendUnreachable(t *testing.T) {
	t.Parallel()
	address := closedPort(t)
	resetting := rawServer(t, reset)
	for url, want := range map[string]string{
		"http://user:url-password@" + address + "/?key=url-key": "dial tcp " + address + ": connect: connection refused",
		resetting: "read tcp " + strings.Trim(resetting, "htp:/") + ": read: connection reset by peer",
	} {
		s := newSender(t, url, nil)
		for range 3 {
			a := s.Send(t.Context(), request())
			if a.Verdict != upload.Retry || a.Status != 0 || a.Err.Error() != want {
				t.Errorf("got %+v, want %q", a, want)
			}
			s.wantNoSecret(t, a, "url-password", "url-key")
		}
		if lines := s.log.lines(t); len(lines) != 1 || lines[0]["level"] != "WARN" || lines[0]["error"] != want || lines[0]["receiver"] != "central" {
			t.Errorf("got the lines %v", lines)
		}
	}
}

// An answer without end is not read to its end.
func TestSendHugeAnswer(t *testing.T) {
	t.Parallel()
	for _, status := range []int{200, 400, 500} {
		var written atomic.Int64
		done := make(chan struct{})
		server := serve(t, func(w http.ResponseWriter, _ *http.Request) {
			defer close(done)
			w.WriteHeader(status)
			for {
				n, err := io.WriteString(w, strings.Repeat("x", 10_000))
				if err != nil {
					return
				}
				written.Add(int64(n))
			}
		})
		a := newSender(t, server.URL, nil).Send(t.Context(), request())
		if a.Status != status || status != 200 && len(a.Message) != 4096 {
			t.Errorf("got status %d and %d bytes", a.Status, len(a.Message))
		}
		<-done // the server is told
		if n := written.Load(); n > 32<<20 {
			t.Errorf("the server could write %d bytes", n)
		}
	}
}

func brief(c *upload.Config) { c.RemoteTimeout = model.Duration(150 * time.Millisecond) }

// A server that hangs at any point costs one remote_timeout; what is known by then counts.
func TestSendToHungServer(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name    string
		begin   string // what is answered before it hangs
		verdict upload.Verdict
		status  int
		message string
		code    string
	}{
		{"before the answer", "", upload.Retry, 0, "", "timeout"},
		{"in the head", "HTTP/1.1 200 O", upload.Retry, 0, "", "timeout"},
		{"in a refusal", "HTTP/1.1 400 X\r\nContent-Length: 100\r\n\r\nout of", upload.Rejected, 400, "out of", "400"},
		{"in a success", "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nstor", upload.Accepted, 200, "", "200"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			url := rawServer(t, func(conn *net.TCPConn) {
				answerWith(c.begin)(conn)
				_, _ = io.Copy(io.Discard, conn) // until the client hangs up
			})
			s := newSender(t, url, brief)
			begin := time.Now()
			a := s.Send(t.Context(), request())
			if took := time.Since(begin); took < 150*time.Millisecond || took > 20*time.Second {
				t.Errorf("it took %s", took)
			}
			if a.Verdict != c.verdict || a.Status != c.status || a.Message != c.message {
				t.Errorf("got %+v", a)
			}
			if a.Status == 0 && !errors.Is(a.Err, context.DeadlineExceeded) {
				t.Errorf("%v is not a deadline", a.Err)
			}
			want := "# HELP latpush_remote_requests_total Attempts to send a request, by HTTP status, or error, timeout or canceled where none came.\n" +
				"# TYPE latpush_remote_requests_total counter\nlatpush_remote_requests_total{code=\"" + c.code + "\",receiver=\"central\"} 1\n"
			if err := testutil.GatherAndCompare(s.registry, strings.NewReader(want), "latpush_remote_requests_total"); err != nil {
				t.Error(err)
			}
		})
	}
}

// After a time-out the next attempt makes a connection of its own, with HTTP/2 too, which would go on using the old one.
func TestDeliverAfterTimeoutDialsAnew(t *testing.T) {
	t.Parallel()
	ca := newAuthority(t)
	release := make(chan struct{})
	t.Cleanup(func() { close(release) })
	clients := make(chan string, 3)
	server := ca.server(t, false, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		clients <- r.RemoteAddr + " " + r.Proto
		if len(clients) == 2 {
			<-release
		}
	}))
	s := newSender(t, server.URL, func(c *upload.Config) {
		c.HTTPClientConfig.TLSConfig.CAFile = ca.caFile(t)
		c.RemoteTimeout = model.Duration(2 * time.Second)
	})
	for i := range 2 {
		if a, err := s.Deliver(t.Context(), request()); err != nil || a.Verdict != upload.Accepted {
			t.Errorf("request %d: got %+v, %v", i, a, err)
		}
	}
	first, second, third := <-clients, <-clients, <-clients
	if first != second || second == third || !strings.HasSuffix(third, " HTTP/2.0") {
		t.Errorf("the connections were %s, %s and %s", first, second, third)
	}
}

// Once Send has returned, the body's memory is the caller's again, though the server answered before it was read, or never reads it. The race detector watches.
func TestSendGivesBodyBack(t *testing.T) {
	t.Parallel()
	early := rawServer(t, func(conn *net.TCPConn) {
		_, _ = http.ReadRequest(bufio.NewReader(conn))
		_, _ = io.WriteString(conn, "HTTP/1.1 413 X\r\nContent-Length: 0\r\n\r\n")
		_, _ = io.CopyN(io.Discard, conn, 1<<20)
	})
	hung := rawServer(t, func(conn *net.TCPConn) {
		_, _ = http.ReadRequest(bufio.NewReader(conn))
		_, _ = io.CopyN(io.Discard, conn, 1<<20)
	})
	for _, url := range []string{early, hung} {
		s := newSender(t, url, brief)
		r := request()
		r.Body = make([]byte, 16<<20)
		for range 5 {
			if a := s.Send(t.Context(), r); a.Verdict == upload.Accepted {
				t.Errorf("got %+v", a)
			}
			clear(r.Body)
		}
	}
}

// lateReader is a transport that answers at once and reads the body when it is told to.
type lateReader struct{ body io.Reader }

func (l *lateReader) RoundTrip(r *http.Request) (*http.Response, error) {
	l.body = r.Body
	return &http.Response{StatusCode: http.StatusNoContent, Body: http.NoBody, Request: r}, nil
}

func TestSendTakesBodyBack(t *testing.T) {
	t.Parallel()
	s := newSender(t, "http://receiver.example/", nil)
	var late lateReader
	s.Replace(&late, nil)
	if a := s.Send(t.Context(), request()); a.Verdict != upload.Accepted {
		t.Errorf("got %+v", a)
	}
	if n, err := late.body.Read(make([]byte, 10)); n != 0 || err == nil || errors.Is(err, io.EOF) {
		t.Errorf("after the attempt %d bytes could be read, %v", n, err)
	}
}

// A canceled attempt ends at once, is no reason for a line in the log, and may be made again.
func TestSendCanceled(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	release := make(chan struct{})
	server := serve(t, func(http.ResponseWriter, *http.Request) {
		cancel()
		<-release
	})
	defer close(release)
	s := newSender(t, server.URL, nil)
	a := s.Send(ctx, request())
	if a.Verdict != upload.Retry || !errors.Is(a.Err, context.Canceled) {
		t.Errorf("got %+v", a)
	}
	if lines := s.log.lines(t); len(lines) != 0 {
		t.Errorf("got the lines %v", lines)
	}
}

// Fetching a token heeds no context by itself: a token server that hangs must not hold the sender, nor be asked again and again, nor for ever.
func TestSendToHungTokenServer(t *testing.T) {
	t.Parallel()
	tokens := newTokens(t)
	var hanging atomic.Int32
	release := make(chan struct{})
	answer := tokens.Config.Handler
	tokens.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if hanging.Add(1) == 1 {
			<-release
			return
		}
		answer.ServeHTTP(w, r)
	})
	defer close(release)
	server := serve(t, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) })
	s := newSender(t, server.URL, func(c *upload.Config) {
		tokens.configure(c)
		c.RemoteTimeout = model.Duration(2 * time.Second)
		c.QueueConfig.MinBackoff, c.QueueConfig.MaxBackoff = model.Duration(time.Millisecond), model.Duration(time.Millisecond)
	})
	for range 3 {
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		begin := time.Now()
		if a := s.Send(ctx, request()); a.Verdict != upload.Retry || !errors.Is(a.Err, context.DeadlineExceeded) {
			t.Errorf("got %+v", a)
		}
		if took := time.Since(begin); took > time.Second {
			t.Errorf("it took %s", took)
		}
		cancel()
	}
	if n := hanging.Load(); n != 1 {
		t.Errorf("the token server was asked %d times while it was hanging", n)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if a, err := s.Deliver(ctx, request()); err != nil || a.Verdict != upload.Accepted {
		t.Errorf("got %+v, %v", a, err)
	}
}
