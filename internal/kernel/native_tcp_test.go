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

// serve accepts connections, gives each to a function of its own, and closes it after that.
func serve(t *testing.T, address string, handle func(net.Conn)) string {
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
				handle(connection)
			}()
		}
	}()
	return listener.Addr().String()
}

// untilClosed waits for the end of a connection.
func untilClosed(connection net.Conn) { _, _ = connection.Read(make([]byte, 1)) }

// echo sends every byte back.
func echo(connection net.Conn) {
	for b := make([]byte, 1); ; {
		if _, err := connection.Read(b); err != nil {
			return
		}
		if _, err := connection.Write(b); err != nil {
			return
		}
	}
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

// Other tests connect meanwhile, but not hundreds of times. Under emulation, where programs are slow, some are interrupted by others.
func TestTCPConnectsAreCounted(t *testing.T) {
	const n, others = 400, 200
	for _, how := range []string{TpBTF, RawTracepoint, Tracepoint} {
		t.Run(how, func(t *testing.T) {
			k := open(t, how, SourceConfig{Name: "tcp_connect"})
			for family, loopback := range map[string]string{"ipv4": "127.0.0.1:0", "ipv6": "[::1]:0"} {
				for result, address := range map[string]string{"established": serve(t, loopback, untilClosed), "failed": closedPort(t, loopback)} {
					before, lostBefore := sampleAndSkipped(t, k, "tcp_connect_latency_seconds", family, result)
					took, failed := connect(t, address, n)
					if want := map[string]int{"failed": n}[result]; failed != want {
						t.Fatalf("%d of %d connects failed, want %d", failed, n, want)
					}
					after, lost := sampleAndSkipped(t, k, "tcp_connect_latency_seconds", family, result)
					got := events(after) - events(before)
					if got+lost-lostBefore < n || got > n+others || lost-lostBefore > n { // of some ten changes of state for each
						t.Errorf("counted %d connects over %s that are %s and lost %d, want %d", got, family, result, lost-lostBefore, n)
					}
					if sum := time.Duration(after.SumNanoseconds - before.SumNanoseconds); got <= n && sum > took {
						t.Errorf("connects over %s that are %s took %v, the caller waited %v", family, result, sum, took)
					}
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
			address := serve(t, "[::1]:0", echo)
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
