package endtoend

import (
	"io"
	"net"
	"sync"
	"testing"
)

// forward passes connections to address on to target, until the test ends.
func forward(t *testing.T, address, target string) {
	t.Helper()
	serve(t, address, func(from net.Conn) {
		to, err := net.Dial("tcp", target)
		if err != nil {
			return
		}
		defer to.Close()
		go func() {
			_, _ = io.Copy(to, from)
			_ = to.(*net.TCPConn).CloseWrite()
		}()
		_, _ = io.Copy(from, to)
	})
}

// hang accepts connections to address and never answers, until the returned function is called.
func hang(t *testing.T, address string) (release func()) {
	t.Helper()
	return serve(t, address, func(from net.Conn) { _, _ = io.Copy(io.Discard, from) })
}

// serve runs handle for each connection to address. Stopping closes all of them.
func serve(t *testing.T, address string, handle func(net.Conn)) (stop func()) {
	t.Helper()
	listener, err := net.Listen("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	return serveOn(t, listener, handle)
}

// serveOn does so on a listener, and closes it too.
func serveOn(t *testing.T, listener net.Listener, handle func(net.Conn)) (stop func()) {
	t.Helper()
	var mu sync.Mutex
	var open []net.Conn
	var all sync.WaitGroup
	all.Go(func() {
		for {
			connection, err := listener.Accept()
			if err != nil {
				return
			}
			mu.Lock()
			open = append(open, connection)
			mu.Unlock()
			all.Go(func() {
				defer connection.Close()
				handle(connection)
			})
		}
	})
	stop = sync.OnceFunc(func() {
		_ = listener.Close()
		mu.Lock()
		for _, connection := range open {
			_ = connection.Close()
		}
		mu.Unlock()
		all.Wait()
	})
	t.Cleanup(stop)
	return stop
}
