package upload_test

import (
	"io"
	"net/http"
	"testing"

	"github.com/latpush/latpush/internal/upload"
)

// The estimate of the next attempt is what the last one has cost, with a handshake or without one, and both are what the connections have carried, in packets.
func TestBytes(t *testing.T) {
	t.Parallel()
	ca := newAuthority(t)
	handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		w.WriteHeader(http.StatusNoContent)
	})
	plain, encrypted := serve(t, handler), ca.server(t, false, handler)
	for _, c := range []struct {
		name  string
		url   string
		first [2]int // the range of the estimate before anything is measured, in bytes
		cost  [][2]int
	}{
		{"http", plain.URL, [2]int{1000, 1300}, [][2]int{{350, 700}, {350, 700}}},
		{"https", encrypted.URL, [2]int{6000, 7000}, [][2]int{{2000, 9000}, {200, 2000}}},
	} {
		s := newSender(t, c.url, func(u *upload.Config) { u.HTTPClientConfig.TLSConfig.CAFile = ca.caFile(t) })
		if n := s.Bytes(request()); n < c.first[0] || n > c.first[1] {
			t.Errorf("%s: an attempt is said to cost %d before one was made", c.name, n)
		}
		for i, want := range c.cost {
			before, carried := s.Transferred(), sumOf(t, s.registry, "latpush_remote_network_bytes_total")
			s.Send(t.Context(), request())
			cost := int(s.Transferred() - before)
			if cost < want[0] || cost > want[1] {
				t.Errorf("%s: attempt %d cost %d, want %v", c.name, i, cost, want)
			}
			// What comes of itself after the answer, as HTTP/2 does, may not be in one of them.
			if n := s.Bytes(request()); n < cost-1000 || n > cost+1000 {
				t.Errorf("%s: after attempt %d, which cost %d, the estimate is %d", c.name, i, cost, n)
			}
			if carried = sumOf(t, s.registry, "latpush_remote_network_bytes_total") - carried; carried >= cost-90 || carried < cost-80*90 {
				t.Errorf("%s: attempt %d cost %d, and the connection carried %d", c.name, i, cost, carried)
			}
		}
		// A large body is in 72 packets, or a few more as it is cut.
		big := request()
		big.Body = make([]byte, 100_000)
		estimate, before := s.Bytes(big), s.Transferred()
		s.Send(t.Context(), big)
		if cost := int(s.Transferred() - before); estimate < 100_000+72*90 || cost < 100_000+72*90 || cost > estimate*106/100 || estimate > cost*106/100 {
			t.Errorf("%s: 100 kB cost %d, and the estimate was %d", c.name, cost, estimate)
		} else if again := s.Bytes(big); again < cost*97/100 || again > cost*103/100 {
			t.Errorf("%s: 100 kB cost %d, and the estimate is %d after it", c.name, cost, again)
		}
	}
}

// An attempt that gets no answer says nothing of what one costs.
func TestBytesAfterFailure(t *testing.T) {
	t.Parallel()
	s := newSender(t, "http://"+closedPort(t), nil)
	before := s.Bytes(request())
	s.Send(t.Context(), request())
	if n := s.Bytes(request()); n != before || s.Transferred() != 0 {
		t.Errorf("the estimate was %d and is %d, %d bytes were transferred", before, n, s.Transferred())
	}
}
