package upload_test

import (
	"fmt"
	"maps"
	"net/http"
	"testing"

	"github.com/latpush/latpush/internal/upload"
)

// The numbers of a receiver of 2.0 are read strictly: anything but one decimal number that fits is as good as no header.
func TestWrittenHeaders(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		samples, histograms, exemplars []string // nil: no header
		want                           *upload.Written
		bad                            int // lines in the log
	}{
		{nil, nil, nil, nil, 0},
		{[]string{"30"}, []string{"4"}, []string{"0"}, &upload.Written{Samples: 30, Histograms: 4}, 0},
		{[]string{"30"}, nil, nil, &upload.Written{Samples: 30}, 0},
		{nil, nil, []string{"7"}, &upload.Written{Exemplars: 7}, 0},
		{[]string{"9223372036854775807"}, nil, nil, &upload.Written{Samples: 9223372036854775807}, 0},
		{[]string{"9223372036854775808"}, nil, nil, nil, 1},
		{[]string{"-1"}, nil, nil, nil, 1},
		{[]string{"+1"}, nil, nil, nil, 1},
		{[]string{"1_0"}, nil, nil, nil, 1},
		{[]string{"0x10"}, nil, nil, nil, 1},
		{[]string{"1.0"}, nil, nil, nil, 1},
		{[]string{"1e3"}, nil, nil, nil, 1},
		{[]string{""}, nil, nil, nil, 1},
		{[]string{"30", "30"}, nil, nil, nil, 1},
		{[]string{"30, 30"}, nil, nil, nil, 1},
		{[]string{"x"}, []string{"4"}, []string{"y"}, &upload.Written{Histograms: 4}, 2},
	} {
		t.Run(fmt.Sprint(c.samples, c.histograms, c.exemplars), func(t *testing.T) {
			t.Parallel()
			server := serve(t, func(w http.ResponseWriter, _ *http.Request) {
				maps.Copy(w.Header(), http.Header{
					"X-Prometheus-Remote-Write-Samples-Written":    c.samples,
					"X-Prometheus-Remote-Write-Histograms-Written": c.histograms,
					"X-Prometheus-Remote-Write-Exemplars-Written":  c.exemplars,
				})
				w.WriteHeader(http.StatusConflict)
			})
			s := newSender(t, server.URL, nil)
			for range 2 { // bad headers are logged once
				a := s.Send(t.Context(), request2())
				if (a.Written == nil) != (c.want == nil) || a.Written != nil && *a.Written != *c.want {
					t.Errorf("got %+v, want %+v", a.Written, c.want)
				}
			}
			bad := 0
			for _, l := range s.log.lines(t) {
				if _, about := l["header"]; about {
					bad++
				}
			}
			if bad != c.bad {
				t.Errorf("%d lines about bad headers, want %d:\n%s", bad, c.bad, s.log)
			}
			if a := s.Send(t.Context(), request()); a.Written != nil {
				t.Errorf("with 1.0 got %+v", a.Written)
			}
		})
	}
}

// A receiver that claims to have written more than it was sent is not believed.
func TestWrittenMoreThanSent(t *testing.T) {
	t.Parallel()
	server := serve(t, func(w http.ResponseWriter, _ *http.Request) { maps.Copy(w.Header(), written("1000", "3")) })
	s := newSender(t, server.URL, nil)
	if a := s.Send(t.Context(), request2()); a.Verdict != upload.Accepted || a.Written.Samples != 1000 {
		t.Errorf("got %+v", a)
	}
	if accepted, unwritten := sumOf(t, s.registry, "latpush_remote_samples_accepted_total"), sumOf(t, s.registry, "latpush_remote_samples_unwritten_total"); accepted != 33 || unwritten != 1 {
		t.Errorf("%d are counted as accepted and %d as unwritten", accepted, unwritten)
	}
	if lines := s.log.lines(t); len(lines) != 1 || lines[0]["level"] != "ERROR" || lines[0]["unwritten"] != 1.0 {
		t.Errorf("got the lines %v", lines)
	}
}

// What the caller gives up is counted and logged once, and never twice what the Client has counted already.
func TestRefuse(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name         string
		status       int
		header       http.Header
		first        bool // it is the first 2.0 request that the receiver answers
		before       int  // rejected samples before Refuse is called
		rejected     int
		accepted     int
		wantVerdict  upload.Verdict
		linesRefused int
	}{
		{"too large", 413, nil, true, 0, 34, 0, upload.TooLarge, 1},
		{"unsupported", 415, nil, true, 0, 34, 0, upload.Unsupported, 1},
		{"success without a word", 204, nil, true, 0, 34, 0, upload.Unsupported, 1},
		{"400 of a receiver that may not know 2.0", 400, nil, true, 0, 34, 0, upload.Rejected, 1},
		{"400 of a receiver that knows 2.0", 400, nil, false, 34, 34, 34, upload.Rejected, 1},
		{"400 in part", 400, written("29", "4"), false, 1, 1, 67, upload.Rejected, 1},
		{"404", 404, nil, true, 34, 34, 0, upload.Rejected, 1},
		{"500", 500, nil, true, 0, 34, 0, upload.Retry, 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			asked := 0
			server := serve(t, func(w http.ResponseWriter, _ *http.Request) {
				if asked++; asked == 1 && !c.first {
					maps.Copy(w.Header(), written("30", "4"))
					return
				}
				maps.Copy(w.Header(), c.header)
				w.WriteHeader(c.status)
			})
			s := newSender(t, server.URL, nil)
			if !c.first {
				s.Send(t.Context(), request2())
			}
			a := s.Send(t.Context(), request2())
			if n := sumOf(t, s.registry, "latpush_remote_samples_rejected_total"); a.Verdict != c.wantVerdict || n != c.before {
				t.Errorf("got %+v, and %d samples are counted as rejected", a, n)
			}
			s.Refuse(request2(), a)
			rejected, accepted := sumOf(t, s.registry, "latpush_remote_samples_rejected_total"), sumOf(t, s.registry, "latpush_remote_samples_accepted_total")
			if rejected != c.rejected || accepted != c.accepted {
				t.Errorf("%d samples are counted as rejected and %d as accepted, want %d and %d", rejected, accepted, c.rejected, c.accepted)
			}
			if n := labelled(t, s.registry, "latpush_remote_samples_rejected_total", "code", fmt.Sprint(c.status)); int(n) != c.rejected {
				t.Errorf("%v of them have the code %d", n, c.status)
			}
			refused := 0
			for _, l := range s.log.lines(t) {
				if l["msg"] == "receiver refuses samples for good, going on with the next" {
					refused++
				}
			}
			if refused != c.linesRefused {
				t.Errorf("%d lines say so:\n%s", refused, s.log)
			}
		})
	}
}
