//go:build guest

package kerneltests

import (
	"fmt"
	"net"
	"testing"
	"time"

	"github.com/latpush/latpush/internal/kernel"
	"github.com/latpush/latpush/internal/vm/guest"
)

// Connects and packets over a slow link are in the bucket of its delay, and nothing else connects in a guest.
func TestTCPLatency(t *testing.T) {
	const times, oneWay = 10, 50 * time.Millisecond
	for _, how := range []string{kernel.TpBTF, kernel.RawTracepoint} {
		t.Run(how, func(t *testing.T) {
			listener, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			defer listener.Close()
			k := open(t, how, kernel.SourceConfig{Name: "tcp_connect"}, kernel.SourceConfig{Name: "tcp_rtt"})
			if err := guest.AddDelay("lo", oneWay); err != nil {
				t.Fatal(err)
			}
			defer func() {
				if err := guest.RemoveDelay("lo"); err != nil {
					t.Error(err)
				}
			}()
			steady(t, func() error {
				before := read(t, k)
				var took time.Duration
				for range times {
					exchangeByte(t, listener, &took)
				}
				after := read(t, k)
				got := after.since(before, "tcp_connect_latency_seconds ipv4 established")
				n, sum := events(got), time.Duration(got.SumNanoseconds)
				t.Logf("counted %d connects of %v, callers waited %v", n, sum, took)
				if !agrees(n, times, after.lost-before.lost) {
					t.Errorf("counted %d connects, want %d", n, times)
				}
				if sum < time.Duration(n)*2*oneWay || sum > took {
					t.Errorf("the sum is %v, want at least %v and at most the %v that the callers waited", sum, time.Duration(n)*2*oneWay, took)
				}
				rtt := after.since(before, "tcp_rtt_seconds ipv4")
				t.Logf("%d round trips of %v", events(rtt), time.Duration(rtt.SumNanoseconds))
				if in := between(got, 2*oneWay, 4*oneWay); in+1 < n {
					return fmt.Errorf("%d of %d connects took about %v: %d", in, n, 2*oneWay, got.Counts)
				}
				if in := between(rtt, 2*oneWay, 4*oneWay); in+after.lost-before.lost < times || in+2 < events(rtt) {
					return fmt.Errorf("%d of %d round trips are of %v: %d", in, events(rtt), 2*oneWay, rtt.Counts)
				}
				return nil
			})
		})
	}
}

// exchangeByte connects, sends a byte and waits for it to come back, and adds the time that the connect took.
func exchangeByte(t *testing.T, listener net.Listener, took *time.Duration) {
	t.Helper()
	accepted := make(chan error, 1)
	go func() {
		connection, err := listener.Accept()
		if err == nil {
			b := make([]byte, 1)
			if _, err = connection.Read(b); err == nil {
				_, err = connection.Write(b)
			}
			_ = connection.Close()
		}
		accepted <- err
	}()
	began := time.Now()
	connection, err := net.Dial("tcp", listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	*took += time.Since(began)
	defer connection.Close()
	if _, err := connection.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	if _, err := connection.Read(make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	if err := <-accepted; err != nil {
		t.Fatal(err)
	}
}
