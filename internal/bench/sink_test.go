package bench

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/golang/snappy"
	"github.com/prometheus/prometheus/prompb"
	writev2 "github.com/prometheus/prometheus/prompb/io/prometheus/write/v2"
	"google.golang.org/protobuf/encoding/protowire"
)

// sink is a receiver that takes everything, counts it and forgets it.
type sink struct {
	url string

	mu       sync.Mutex
	requests int
	bytes    int64 // of bodies
	samples  int64 // native histograms are one each
	marked   int   // samples of the marked metric
	began    time.Time
	mark     []byte
}

// newSink starts one that also counts the samples of one metric by itself.
func newSink(b *testing.B, mark string) *sink {
	b.Helper()
	s := &sink{mark: []byte(mark)}
	server := httptest.NewServer(http.HandlerFunc(s.serve))
	b.Cleanup(server.Close)
	s.url = server.URL + "/api/v1/write"
	return s
}

func (s *sink) serve(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return
	}
	message, err := snappy.Decode(nil, body)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	timeseries, histograms := protowire.Number(1), protowire.Number(4)
	if strings.Contains(r.Header.Get("Content-Type"), "v2.Request") {
		timeseries, histograms = 5, 3
	}
	c, err := s.count(message, timeseries, histograms)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	w.Header().Set("X-Prometheus-Remote-Write-Samples-Written", fmt.Sprint(c.samples))
	w.Header().Set("X-Prometheus-Remote-Write-Histograms-Written", fmt.Sprint(c.histograms))
	s.mu.Lock()
	if s.requests == 0 {
		s.began = time.Now()
	}
	s.requests++
	s.bytes += int64(len(body))
	s.samples += int64(c.samples + c.histograms)
	s.marked += c.marked
	s.mu.Unlock()
	w.WriteHeader(http.StatusNoContent)
}

// carried is what a request has.
type carried struct{ samples, histograms, marked int }

// count counts what is in a message without decoding it, so that the receiver is not what is measured. The numbers are those of the fields in the message's
// version; samples are field 2 of a time series in both.
func (s *sink) count(message []byte, timeseries, histograms protowire.Number) (c carried, err error) {
	const samples = 2
	// Only the request with the mark has its name, as a label or as a symbol; that one is small.
	hasMark := bytes.Contains(message, s.mark)
	err = fields(message, func(number protowire.Number, value []byte) {
		if number == timeseries {
			_ = fields(value, func(number protowire.Number, _ []byte) {
				switch number {
				case samples:
					c.samples++
				case histograms:
					c.histograms++
				}
			})
		}
	})
	if hasMark && err == nil {
		c.marked, err = s.countMarked(message, timeseries)
	}
	return c, err
}

// fields calls f for each field of a message.
func fields(message []byte, f func(protowire.Number, []byte)) error {
	for len(message) > 0 {
		number, kind, n := protowire.ConsumeTag(message)
		if n < 0 {
			return protowire.ParseError(n)
		}
		size := protowire.ConsumeFieldValue(number, kind, message[n:])
		if size < 0 {
			return protowire.ParseError(size)
		}
		value := message[n : n+size]
		if kind == protowire.BytesType {
			value, _ = protowire.ConsumeBytes(value)
		}
		f(number, value)
		message = message[n+size:]
	}
	return nil
}

// countMarked decodes a message that has the mark somewhere, and counts the samples of its series.
func (s *sink) countMarked(message []byte, timeseries protowire.Number) (marked int, err error) {
	if timeseries == 1 {
		var request prompb.WriteRequest
		if err := request.Unmarshal(message); err != nil {
			return 0, err
		}
		for i := range request.Timeseries {
			if request.Timeseries[i].Labels[0].Value == string(s.mark) {
				marked += len(request.Timeseries[i].Samples)
			}
		}
		return marked, nil
	}
	var request writev2.Request
	if err := request.Unmarshal(message); err != nil {
		return 0, err
	}
	for i := range request.Timeseries {
		if request.Symbols[request.Timeseries[i].LabelsRefs[1]] == string(s.mark) {
			marked += len(request.Timeseries[i].Samples)
		}
	}
	return marked, nil
}

// totals are what has arrived.
type totals struct {
	requests       int
	bytes, samples int64
	marked         int
	began          time.Time // of the first request
}

func (s *sink) totals() totals {
	s.mu.Lock()
	defer s.mu.Unlock()
	return totals{s.requests, s.bytes, s.samples, s.marked, s.began}
}
