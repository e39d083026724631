//go:build guest

package kerneltests

import (
	"net"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/latpush/latpush/internal/kernel"
)

// acceptLate is how long connections are left waiting. Its bucket and the next one are above acceptLow.
const (
	acceptLate = 150 * time.Millisecond
	acceptLow  = 131072 * time.Microsecond
	acceptHigh = 524288 * time.Microsecond
)

// acceptWays are the ways to see accepts, each with one to see connections come.
func acceptWays() map[string][]string {
	return map[string][]string{
		"fentry": {kernel.Fentry, kernel.TpBTF}, "kprobe": {kernel.Kprobe, kernel.RawTracepoint}, "tracepoint": {kernel.Kprobe, kernel.Tracepoint},
	}
}

// listenWith listens with a socket option of TCP, which is none if option is 0.
func listenWith(t *testing.T, address string, multipath bool, option, value int) net.Listener {
	t.Helper()
	config := net.ListenConfig{Control: func(_, _ string, raw syscall.RawConn) (err error) {
		if option == 0 {
			return nil
		}
		controlErr := raw.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, option, value) })
		if controlErr != nil {
			return controlErr
		}
		return err
	}}
	config.SetMultipathTCP(multipath)
	listener, err := config.Listen(t.Context(), "tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = listener.Close() })
	return listener
}

func dial(t *testing.T, listener net.Listener) net.Conn {
	t.Helper()
	connection, err := net.Dial("tcp", listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = connection.Close() })
	return connection
}

func accept(t *testing.T, listener net.Listener) {
	t.Helper()
	connection, err := listener.Accept()
	if err != nil {
		t.Fatal(err)
	}
	_ = connection.Close()
}

// setting changes a kernel setting for as long as the test.
func setting(t *testing.T, name, value string) {
	t.Helper()
	file := "/proc/sys/" + name
	before, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte(value), 0); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.WriteFile(file, []byte(strings.TrimSpace(string(before))), 0); err != nil {
			t.Error(err)
		}
	})
}

// fastOpen connects with data in the SYN.
func fastOpen(t *testing.T, listener net.Listener) {
	t.Helper()
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Close(fd) })
	to := &unix.SockaddrInet4{Port: listener.Addr().(*net.TCPAddr).Port, Addr: [4]byte{127, 0, 0, 1}}
	if err := unix.Sendto(fd, []byte("early"), unix.MSG_FASTOPEN, to); err != nil {
		t.Fatal(err)
	}
}

// abort closes a connection with a reset.
func abort(t *testing.T, connection net.Conn) {
	t.Helper()
	if err := connection.(*net.TCPConn).SetLinger(0); err != nil {
		t.Fatal(err)
	}
	if err := connection.Close(); err != nil {
		t.Fatal(err)
	}
}

// acceptCases do something with connections, and say how many of them wait for acceptLate and how many are accepted at once.
func acceptCases(loopback string) map[string]struct {
	run        func(t *testing.T)
	late, soon uint64
} {
	const n = 8
	late := func(listener func(t *testing.T) net.Listener, connect func(t *testing.T, l net.Listener)) func(t *testing.T) {
		return func(t *testing.T) {
			l := listener(t)
			for range n {
				connect(t, l)
			}
			time.Sleep(acceptLate)
			for range n {
				accept(t, l)
			}
		}
	}
	plain := func(t *testing.T) net.Listener { return listenWith(t, loopback, false, 0, 0) }
	connect := func(t *testing.T, l net.Listener) { dial(t, l) }
	return map[string]struct {
		run        func(t *testing.T)
		late, soon uint64
	}{
		"a slow program":            {late(plain, connect), n, 0},
		"a slow program with MPTCP": {late(func(t *testing.T) net.Listener { return listenWith(t, loopback, true, 0, 0) }, connect), n, 0},
		"peers that go away":        {late(plain, func(t *testing.T, l net.Listener) { abort(t, dial(t, l)) }), n, 0},
		"SYN cookies": {func(t *testing.T) {
			setting(t, "net/ipv4/tcp_syncookies", "2")
			late(plain, connect)(t)
		}, n, 0},
		"a fast program": {func(t *testing.T) {
			l := plain(t)
			for range n {
				dial(t, l)
				accept(t, l)
			}
		}, 0, n},
		"a program that goes away": {func(t *testing.T) {
			l := plain(t)
			for range n {
				dial(t, l)
			}
			time.Sleep(acceptLate)
			if err := l.Close(); err != nil {
				t.Fatal(err)
			}
			l = plain(t) // the sockets' memory is used again
			for range n {
				dial(t, l)
				accept(t, l)
			}
		}, 0, n},
		"connections that are deferred": {func(t *testing.T) {
			l := listenWith(t, loopback, false, unix.TCP_DEFER_ACCEPT, 5)
			c := dial(t, l)
			time.AfterFunc(acceptLate, func() { _, _ = c.Write([]byte("x")) })
			accept(t, l)
		}, 0, 1},
	}
}

// Each connection counts once, with the time from when it could be accepted to when it was.
func TestTCPAcceptLatency(t *testing.T) {
	for way, how := range acceptWays() {
		k := openWays(t, how, kernel.SourceConfig{Name: "tcp_accept"})
		for family, loopback := range map[string]string{"ipv4": "127.0.0.1:0", "ipv6": "[::1]:0"} {
			cases := acceptCases(loopback)
			if family == "ipv4" {
				fast := cases["a slow program"]
				fast.run = func(t *testing.T) {
					setting(t, "net/ipv4/tcp_fastopen", "519") // for clients and listeners, without cookies
					l := listenWith(t, loopback, false, unix.TCP_FASTOPEN, 100)
					for range 8 {
						fastOpen(t, l)
					}
					time.Sleep(acceptLate)
					for range 8 {
						accept(t, l)
					}
				}
				cases["fast open"] = fast
			}
			for name, test := range cases {
				t.Run(way+" "+family+" "+name, func(t *testing.T) {
					before := read(t, k)
					test.run(t)
					after := read(t, k)
					got := after.since(before, "tcp_accept_latency_seconds "+family)
					late := uint64(0)
					if got.Metric != nil {
						late = between(got, acceptLow, acceptHigh)
					}
					lost := after.lost - before.lost
					if all := events(got); all > test.late+test.soon || all+lost < test.late+test.soon || late > test.late || late+lost < test.late {
						t.Errorf("counted %d connections, %d of them late, want %d and %d; %d events were lost", all, late, test.late+test.soon, test.late, lost)
					}
				})
			}
		}
	}
}
