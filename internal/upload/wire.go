package upload

import (
	"net"
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/latpush/latpush/internal/promwire"
)

// What an attempt costs beside its body, until one has been measured: headers both ways, and with https the handshake and its certificates.
const (
	plainOverhead     = 1 << 10
	encryptedOverhead = 6 << 10
)

// A packet carries about this much, and has the headers of IP and TCP, of which half an acknowledgement comes back.
const (
	packetPayload = 1400
	packetHeaders = 90
)

// onWire is what n bytes cost in packets.
func onWire(n int) int { return n + (n+packetPayload-1)/packetPayload*packetHeaders }

// Bytes estimates what an attempt to send the request costs on the wire, both ways together, in bytes: the body, and beside it as much as the last attempt that was
// answered has cost, for headers, encryption, and the handshake if connections do not last from one request to the next. The headers of packets are included.
func (c *Client) Bytes(r promwire.Request) int { return onWire(len(r.Body)) + c.overhead }

// Transferred is how many bytes, counted as in Bytes, all attempts of this Client have cost so far, those for tokens included.
func (c *Client) Transferred() int64 { return c.traffic.onWire.Load() }

// traffic counts what passes through the connections to one receiver, its authorisation server and its proxy.
type traffic struct {
	onWire         atomic.Int64 // with an estimate of the packets' headers
	sent, received prometheus.Counter
}

// meteredConn is a connection whose bytes are counted.
type meteredConn struct {
	net.Conn
	traffic *traffic
}

func (c *meteredConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	c.traffic.onWire.Add(int64(onWire(n)))
	c.traffic.received.Add(float64(n))
	return n, err
}

func (c *meteredConn) Write(b []byte) (int, error) {
	n, err := c.Conn.Write(b)
	c.traffic.onWire.Add(int64(onWire(n)))
	c.traffic.sent.Add(float64(n))
	return n, err
}
