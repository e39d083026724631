package kernel

import (
	"encoding/binary"
	"maps"
	"net"
	"testing"
	"time"
)

// The fields of a message's header, and of the server's behaviour, which the queries here carry after it.
const (
	dnsResponse  = 0x8000
	dnsTruncated = 0x0200
	dnsHeader    = 12
)

// What the server does with a query.
const (
	answerOnce = iota
	answerTwice
	answerLate
	answerTruncated
	answerWithOtherID
	answerFromOtherPort
	answerShort
	answerNothing
)

// lateAnswer is in the bucket above 33.6 ms.
const lateAnswer = 40 * time.Millisecond

// dnsServer answers queries as they ask for, with the code that they have themselves.
func dnsServer(t *testing.T, address string) {
	t.Helper()
	server, err := net.ListenPacket("udp", address)
	if err != nil {
		t.Fatal(err)
	}
	host, _, _ := net.SplitHostPort(address)
	elsewhere, err := net.ListenPacket("udp", net.JoinHostPort(host, "54"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _, _ = server.Close(), elsewhere.Close() })
	go func() {
		for buffer := make([]byte, 512); ; {
			n, client, err := server.ReadFrom(buffer)
			if err != nil {
				return
			}
			if n <= dnsHeader {
				continue
			}
			answer, from := append([]byte(nil), buffer[:n]...), server
			id, flags := binary.BigEndian.Uint16(answer), binary.BigEndian.Uint16(answer[2:])|dnsResponse
			switch answer[dnsHeader] {
			case answerTwice:
				binary.BigEndian.PutUint16(answer[2:], flags)
				_, _ = server.WriteTo(answer, client)
			case answerLate:
				time.Sleep(lateAnswer)
			case answerTruncated:
				flags |= dnsTruncated
			case answerWithOtherID:
				binary.BigEndian.PutUint16(answer, id+1)
			case answerFromOtherPort:
				from = elsewhere
			case answerShort:
				answer = answer[:3]
			case answerNothing:
				continue
			}
			if len(answer) > 3 {
				binary.BigEndian.PutUint16(answer[2:], flags)
			}
			_, _ = from.WriteTo(answer, client)
		}
	}()
}

// query is a query with an id, which the server is to answer with a code in some way.
func query(id uint16, rcode, behaviour byte) []byte {
	message := make([]byte, dnsHeader+1)
	binary.BigEndian.PutUint16(message, id)
	message[3], message[dnsHeader] = rcode, behaviour
	return message
}

// dnsClient sends queries and reads answers, with a socket that is connected to the server or one that is not.
type dnsClient struct {
	t      *testing.T
	socket *net.UDPConn
	server *net.UDPAddr // nil: connected
}

func newDNSClient(t *testing.T, server string, connected bool) *dnsClient {
	t.Helper()
	address, err := net.ResolveUDPAddr("udp", server)
	if err != nil {
		t.Fatal(err)
	}
	c := &dnsClient{t: t}
	if connected {
		c.socket, err = net.DialUDP("udp", nil, address)
	} else {
		c.server = address
		c.socket, err = net.ListenUDP("udp", nil)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.socket.Close() })
	if err := c.socket.SetReadDeadline(time.Now().Add(20 * time.Second)); err != nil {
		t.Fatal(err)
	}
	return c
}

func (c *dnsClient) send(message []byte) {
	var err error
	if c.server == nil {
		_, err = c.socket.Write(message)
	} else {
		_, err = c.socket.WriteToUDP(message, c.server)
	}
	if err != nil {
		c.t.Error(err)
	}
}

func (c *dnsClient) receive() {
	if _, err := c.socket.Read(make([]byte, 512)); err != nil {
		c.t.Error("no answer:", err)
	}
}

func (c *dnsClient) exchange(message []byte) {
	c.send(message)
	c.receive()
}

// answered returns how many queries were answered by code, without those that come to nothing.
func answered(t *testing.T, k *Kernel) (counts map[string]uint64, late uint64) {
	t.Helper()
	counts = map[string]uint64{}
	for _, rcode := range []string{"noerror", "formerr", "servfail", "nxdomain", "notimp", "refused", "other", "timeout"} {
		s := sample(t, k, "dns_latency_seconds", rcode)
		counts[rcode] = events(s)
		if s.Metric == nil {
			continue
		}
		for i, bound := range s.Metric.Bounds {
			if rcode == "refused" && bound > uint64(33*time.Millisecond) && bound <= uint64(135*time.Millisecond) {
				late += s.Counts[i]
			}
		}
	}
	return counts, late
}

// Queries of this test use codes that other programs on this machine seldom get, and are told from those by their number.
func TestDNSAnswersAreCounted(t *testing.T) {
	const n, others = 50, 20
	for _, how := range []string{TpBTF, RawTracepoint} {
		k := open(t, how, SourceConfig{Name: "dns"})
		for _, server := range []string{"127.0.0.1:53", "[::1]:53"} {
			for kind, connected := range map[string]bool{"connected": true, "unconnected": false} {
				t.Run(how+" "+server+" "+kind, func(t *testing.T) {
					before, lateBefore := answered(t, k)
					inNetwork(t, func() {
						dnsServer(t, server)
						client := newDNSClient(t, server, connected)
						for i := range uint16(n) {
							for rcode := range byte(8) { // 6 and 7 are "other"
								client.exchange(query(8*i+uint16(rcode), rcode, answerOnce))
							}
						}
						client.exchange(query(1000, 5, answerLate))
						client.send(query(1001, 5, answerNothing))
						time.Sleep(lateAnswer)
						client.exchange(query(1001, 5, answerOnce)) // sent again: it began the first time
					})
					got, late := answered(t, k)
					for rcode := range got {
						got[rcode] -= before[rcode]
					}
					want := map[string]uint64{
						"noerror": n, "formerr": n, "servfail": n, "nxdomain": n, "notimp": n, "refused": n + 2, "other": 2 * n, "timeout": 0,
					}
					for rcode, least := range want {
						most := least
						if rcode == "noerror" || rcode == "servfail" || rcode == "nxdomain" || rcode == "timeout" {
							most += others
						}
						if got[rcode] < least || got[rcode] > most {
							t.Errorf("counted %d answers %s, want %d to %d", got[rcode], rcode, least, most)
						}
					}
					if late-lateBefore < 2 || late-lateBefore > 4 {
						t.Errorf("%d answers took %v, want 2", late-lateBefore, lateAnswer)
					}
				})
			}
		}
	}
}

// answerElsewhere sends the answer to a query in a network namespace where nobody asked, to the same addresses.
func answerElsewhere(t *testing.T, server string, port int, query []byte) {
	t.Helper()
	inNetwork(t, func() {
		socket, err := net.ListenPacket("udp", server)
		if err != nil {
			t.Fatal(err)
		}
		defer socket.Close()
		answer := append([]byte(nil), query...)
		answer[2] |= dnsResponse >> 8
		if _, err := socket.WriteTo(answer, &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1), Port: port}); err != nil {
			t.Error(err)
		}
	})
}

// Of what comes from port 53, only the first whole answer to a query counts, and what has none counts when resolvers give up.
func TestDNSQueriesWithoutAnswer(t *testing.T) {
	k := open(t, "", SourceConfig{Name: "dns"})
	before, _ := answered(t, k)
	inNetwork(t, func() {
		const server, rcode = "127.0.0.1:53", 4
		dnsServer(t, server)
		client := newDNSClient(t, server, false)
		for id, behaviour := range map[uint16]byte{10: answerWithOtherID, 20: answerFromOtherPort, 30: answerShort} {
			client.exchange(query(id, rcode, behaviour))
		}
		client.send(query(4, rcode, answerNothing))
		client.exchange(query(4, rcode, answerOnce)) // sent again
		client.send(query(40, rcode, answerNothing))
		sent := time.Now()
		answerElsewhere(t, server, client.socket.LocalAddr().(*net.UDPAddr).Port, query(40, rcode, answerNothing))
		client.exchange(query(5, rcode, answerTwice))
		client.receive()
		client.exchange(query(6, rcode, answerTruncated))
		for size := range dnsHeader { // neither a query nor an answer
			client.send(make([]byte, size))
		}
		response := query(7, rcode, answerNothing)
		response[2] |= dnsResponse >> 8
		client.send(response)
		// What was never asked.
		liar, err := net.DialUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 2), Port: 53}, client.socket.LocalAddr().(*net.UDPAddr))
		if err != nil {
			t.Fatal(err)
		}
		defer liar.Close()
		if _, err := liar.Write(response); err != nil {
			t.Fatal(err)
		}
		client.receive()
		got, _ := answered(t, k)
		if n := got["notimp"] - before["notimp"]; n != 2 {
			t.Errorf("counted %d answers, want those of the queries 4 and 5", n)
		}
		time.Sleep(time.Until(sent.Add(5100 * time.Millisecond)))
		client.exchange(query(8, rcode, answerOnce))
	})
	got, _ := answered(t, k)
	for rcode := range got {
		got[rcode] -= before[rcode]
	}
	maps.DeleteFunc(got, func(rcode string, _ uint64) bool { return rcode != "notimp" && rcode != "timeout" && rcode != "other" })
	if want := map[string]uint64{"notimp": 3, "timeout": 4, "other": 0}; !maps.Equal(got, want) {
		t.Errorf("counted %v, want %v", got, want)
	}
	s := sample(t, k, "dns_latency_seconds", "timeout")
	if s.SumNanoseconds != events(s)*uint64(5*time.Second) {
		t.Errorf("%d queries without answer took %v, want 5s each", events(s), time.Duration(s.SumNanoseconds))
	}
}

// unansweredQueries sends queries to a server that does not answer.
func unansweredQueries(t *testing.T) {
	t.Helper()
	inNetwork(t, func() {
		const server = "127.0.0.1:53"
		dnsServer(t, server)
		client := newDNSClient(t, server, true)
		for id := range uint16(4) {
			client.send(query(id, 0, answerNothing))
		}
	})
}
