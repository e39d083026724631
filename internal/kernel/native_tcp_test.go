package kernel

import (
	"net"
	"testing"
	"time"
)

// connect connects n times to an address of this host, and returns how long that took and how often it failed.
func connect(t *testing.T, address string, n int) (took time.Duration, failed int) {
	t.Helper()
	for range n {
		began := time.Now()
		connection, err := net.Dial("tcp", address)
		took += time.Since(began)
		if err != nil {
			failed++
			continue
		}
		if err := connection.Close(); err != nil {
			t.Error(err)
		}
	}
	return took, failed
}

// listen accepts connections and closes them when the peer has.
func listen(t *testing.T, address string) string {
	t.Helper()
	listener, err := net.Listen("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = listener.Close() })
	go func() {
		for {
			connection, err := listener.Accept()
			if err != nil {
				return
			}
			go func() {
				_, _ = connection.Read(make([]byte, 1))
				_ = connection.Close()
			}()
		}
	}()
	return listener.Addr().String()
}

// closedPort returns an address to which nothing listens.
func closedPort(t *testing.T, address string) string {
	t.Helper()
	listener, err := net.Listen("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	return listener.Addr().String()
}

// Other tests connect meanwhile, but not hundreds of times.
func TestTCPConnectsAreCounted(t *testing.T) {
	const n, others = 400, 200
	for _, how := range []string{TpBTF, RawTracepoint, Tracepoint} {
		t.Run(how, func(t *testing.T) {
			k := open(t, how, SourceConfig{Name: "tcp_connect"})
			for family, loopback := range map[string]string{"ipv4": "127.0.0.1:0", "ipv6": "[::1]:0"} {
				open, closed := listen(t, loopback), closedPort(t, loopback)
				established := sample(t, k, "tcp_connect_latency_seconds", family, "established")
				refused := sample(t, k, "tcp_connect_latency_seconds", family, "failed")
				took, failed := connect(t, open, n)
				if failed != 0 {
					t.Fatalf("%d of %d connects failed", failed, n)
				}
				if _, failed = connect(t, closed, n); failed != n {
					t.Fatalf("%d of %d connects failed", failed, n)
				}
				after := sample(t, k, "tcp_connect_latency_seconds", family, "established")
				got := events(after) - events(established)
				if sum := time.Duration(after.SumNanoseconds - established.SumNanoseconds); got < n || got > n+others || (got == n && sum > took) {
					t.Errorf("counted %d connects of %v, want %d of at most %v", got, sum, n, took)
				}
				after = sample(t, k, "tcp_connect_latency_seconds", family, "failed")
				if got := events(after) - events(refused); got < n || got > n+others {
					t.Errorf("counted %d failed connects, want %d", got, n)
				}
			}
		})
	}
}

// A connection that is busy for a second and a half has two samples, however many packets there are; one that is closed at once may have one.
func TestTCPRoundTripsAreSampled(t *testing.T) {
	const connections = 50
	for _, how := range []string{TpBTF, RawTracepoint} {
		t.Run(how, func(t *testing.T) {
			k := open(t, how, SourceConfig{Name: "tcp_rtt"})
			before := events(sample(t, k, "tcp_rtt_seconds", "ipv6"))
			address := echo(t, "[::1]:0")
			var all []net.Conn
			for range connections {
				connection, err := net.Dial("tcp", address)
				if err != nil {
					t.Fatal(err)
				}
				defer connection.Close()
				all = append(all, connection)
			}
			packets := 0
			for began := time.Now(); time.Since(began) < 1500*time.Millisecond; {
				for _, connection := range all {
					if _, err := connection.Write([]byte("x")); err != nil {
						t.Fatal(err)
					}
					if _, err := connection.Read(make([]byte, 1)); err != nil {
						t.Fatal(err)
					}
					packets++
				}
			}
			// Both ends are sockets of this host.
			got := events(sample(t, k, "tcp_rtt_seconds", "ipv6")) - before
			t.Logf("%d samples of %d connections with %d exchanges", got, connections, packets)
			if least, most := uint64(2*connections*2), uint64(2*connections*3); got < least || got > most {
				t.Errorf("%d samples, want %d to %d", got, least, most)
			}
		})
	}
}

// echo sends every byte back.
func echo(t *testing.T, address string) string {
	t.Helper()
	listener, err := net.Listen("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = listener.Close() })
	go func() {
		for {
			connection, err := listener.Accept()
			if err != nil {
				return
			}
			go func() {
				defer connection.Close()
				for b := make([]byte, 1); ; {
					if _, err := connection.Read(b); err != nil {
						return
					}
					if _, err := connection.Write(b); err != nil {
						return
					}
				}
			}()
		}
	}()
	return listener.Addr().String()
}
