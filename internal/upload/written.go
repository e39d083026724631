package upload

import (
	"net/http"
	"strconv"

	"github.com/latpush/latpush/internal/promwire"
)

// Written is how much of a request a receiver of remote write 2.0 says it has written. A number that it does not give is 0.
type Written struct {
	Samples    int
	Histograms int // native ones
	Exemplars  int
}

// written reads the headers X-Prometheus-Remote-Write-*-Written. It gives nil if there is none with a number in it.
func (c *Client) written(h http.Header) *Written {
	var w Written
	found := false
	for _, of := range []struct {
		kind string
		to   *int
	}{{"Samples", &w.Samples}, {"Histograms", &w.Histograms}, {"Exemplars", &w.Exemplars}} {
		name := "X-Prometheus-Remote-Write-" + of.kind + "-Written"
		values := h.Values(name)
		if len(values) == 0 {
			continue
		}
		n, err := strconv.ParseUint(values[0], 10, strconv.IntSize-1)
		if err != nil || len(values) > 1 {
			c.sayBadHeader(name, values[0])
			continue
		}
		*of.to, found = int(n), true
	}
	if !found {
		return nil
	}
	return &w
}

// stored is how many of the request's samples and histograms are written: what the answer says, or all of an accepted request about which it says nothing.
func (a *Answer) stored(r *promwire.Request) int {
	switch {
	case a.Written != nil:
		return min(a.Written.Samples, r.Samples) + min(a.Written.Histograms, r.Histograms) // no receiver has more than it was sent
	case a.Verdict == Accepted:
		return carried(r)
	}
	return 0
}

// carried is how many samples and native histograms a request has.
func carried(r *promwire.Request) int { return r.Samples + r.Histograms }
