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

// trickle reads a request and writes a text, then the filler again and again, a little at a time until the client hangs up.
func trickle(begin, filler string) func(*net.TCPConn) {
	return func(conn *net.TCPConn) {
		answerWith(begin)(conn)
		for filler != "" {
			if _, err := io.WriteString(conn, filler); err != nil {
				return
			}
			time.Sleep(5 * time.Millisecond)
		}
		_, _ = io.Copy(io.Discard, conn)
	}
}

// A server that never stops, or never starts, costs one remote_timeout like one that hangs; each byte that it sends does not win it more time.
func TestSendToEndlessServer(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name    string
		handle  func(*net.TCPConn)
		verdict upload.Verdict
		status  int
		min     time.Duration
	}{
		{"head byte by byte", trickle("HTTP/1.1 204 No Content\r\nX: ", "y"), upload.Retry, 0, 150 * time.Millisecond},
		{"refusal byte by byte", trickle("HTTP/1.1 400 X\r\nContent-Length: 1000000\r\n\r\n", "y"), upload.Rejected, 400, 150 * time.Millisecond},
		{"success byte by byte", trickle("HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n", "y"), upload.Accepted, 200, 150 * time.Millisecond},
		{"chunks without end", trickle("HTTP/1.1 500 X\r\nTransfer-Encoding: chunked\r\n\r\n", "1\r\ny\r\n"), upload.Retry, 500, 150 * time.Millisecond},
		{"continue, and nothing after it", trickle("HTTP/1.1 100 Continue\r\n\r\n", ""), upload.Retry, 0, 150 * time.Millisecond},
		{"continue, for ever", trickle("", "HTTP/1.1 100 Continue\r\n\r\n"), upload.Retry, 0, 150 * time.Millisecond},
		{"continue, then accepted", answerWith("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n"), upload.Accepted, 204, 0},
		{"early hints, then accepted", answerWith("HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n"), upload.Accepted, 204, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			s := newSender(t, rawServer(t, c.handle), func(u *upload.Config) {
				brief(u)
				if c.min == 0 { // it ends by itself
					u.RemoteTimeout = model.Duration(20 * time.Second)
				}
			})
			begin := time.Now()
			a := s.Send(t.Context(), request())
			if took := time.Since(begin); took < c.min || took > 20*time.Second {
				t.Errorf("it took %s", took)
			}
			if a.Verdict != c.verdict || a.Status != c.status {
				t.Errorf("got %+v, want %s with status %d", a, c.verdict, c.status)
			}
		})
	}
}

// A connection that nobody accepts is half open: the kernel has completed it, and takes what fits in its buffers.
func TestSendToHalfOpenConnection(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	s := newSender(t, "http://"+l.Addr().String(), brief)
	for _, size := range []int{14, 8 << 20} { // the latter is more than the kernel's buffers hold
		r := request()
		r.Body = make([]byte, size)
		begin := time.Now()
		if a := s.Send(t.Context(), r); a.Verdict != upload.Retry || !errors.Is(a.Err, context.DeadlineExceeded) {
			t.Errorf("got %+v", a)
		}
		if took := time.Since(begin); took < 150*time.Millisecond || took > 20*time.Second {
			t.Errorf("it took %s", took)
		}
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
		if a, err := s.Deliver(t.Context(), request(), 0, nil); err != nil || a.Verdict != upload.Accepted {
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
