package bench

import (
	"io"
	"net"
	"testing"
)

// echoServer sends back what it is sent until the benchmark ends.
func echoServer(b *testing.B) (address string) {
	b.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = listener.Close() })
	go func() {
		for {
			connection, err := listener.Accept()
			if err != nil {
				return
			}
			go func() {
				defer connection.Close()
				_, _ = io.Copy(connection, connection)
			}()
		}
	}()
	return listener.Addr().String()
}

// exchange connects and sends n bytes, one after the other, each after the answer to the one before.
func exchange(b *testing.B, address string, n int) {
	b.Helper()
	connection, err := net.Dial("tcp", address)
	if err != nil {
		b.Fatal(err)
	}
	defer connection.Close()
	for one := make([]byte, 1); n > 0; n-- {
		if _, err := connection.Write(one); err != nil {
			b.Fatal(err)
		}
		if _, err := io.ReadFull(connection, one); err != nil {
			b.Fatal(err)
		}
	}
}
