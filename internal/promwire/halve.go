package promwire

import (
	"errors"
	"fmt"
	"time"

	"github.com/golang/snappy"
	"github.com/prometheus/prometheus/prompb"
	writev2 "github.com/prometheus/prometheus/prompb/io/prometheus/write/v2"
)

// Halve makes two requests that together carry what r does, for a receiver that r is too large for. They are to be sent in their order: of a series that is in
// both, the first one has the earlier samples. All lines of one histogram at one timestamp stay together; of a request with no more than that it makes none. The
// bodies have memory of their own. R is a request of this Encoder that is still valid, or one of Halve; an error means that it is not.
func (e *Encoder) Halve(r Request) ([]Request, error) {
	requests, err := r.halve()
	if err != nil {
		return nil, fmt.Errorf("halve request: %w", err)
	}
	return requests, nil
}

func (r *Request) halve() ([]Request, error) {
	raw, err := snappy.Decode(nil, r.Body)
	if err != nil {
		return nil, err
	}
	if r.Protocol == V2 {
		return halve2(raw, r.parts)
	}
	return halve1(raw, r.parts)
}

// halves says how a message is divided.
type halves struct {
	cuts  []int     // per series: how many of its samples are in the first half
	parts [2][]part // of the halves
}

// cut divides parts into halves of about as many samples. No cuts: there is nothing to divide.
func cut(parts []part, series int) (h halves, err error) {
	total, steps := 0, 0
	for _, p := range parts {
		total += p.series * p.samples
		steps += p.samples
		series -= p.series
	}
	if series != 0 {
		return h, errors.New("the body is not the request's (it was overwritten by a later call)")
	}
	if steps < 2 {
		return h, nil
	}
	room := total / 2
	for i, p := range parts {
		n := min(p.samples, room/p.series)
		if i == 0 {
			n = max(n, 1)
		}
		room = max(0, room-n*p.series)
		if n < p.samples {
			room = 0
			h.parts[1] = append(h.parts[1], part{p.series, p.samples - n})
		}
		if n > 0 {
			h.parts[0] = append(h.parts[0], part{p.series, n})
		}
		for range p.series {
			h.cuts = append(h.cuts, n)
		}
	}
	return h, nil
}

func halve1(raw []byte, parts []part) ([]Request, error) {
	var whole prompb.WriteRequest
	if err := whole.Unmarshal(raw); err != nil {
		return nil, err
	}
	var messages [2]prompb.WriteRequest
	if n := len(whole.Metadata); len(whole.Timeseries) == 0 && n > 1 {
		messages[0].Metadata, messages[1].Metadata = whole.Metadata[:n/2], whole.Metadata[n/2:]
		return both(&messages[0], &messages[1], halves{}, newRequest1)
	}
	h, err := cut(parts, len(whole.Timeseries))
	if err != nil || len(h.cuts) == 0 {
		return nil, err
	}
	for i, n := range h.cuts {
		t := &whole.Timeseries[i]
		samples, histograms := split(t.Samples, n), split(t.Histograms, n)
		for j := range messages {
			if len(samples[j])+len(histograms[j]) > 0 {
				messages[j].Timeseries = append(messages[j].Timeseries, prompb.TimeSeries{Labels: t.Labels, Samples: samples[j], Histograms: histograms[j]})
			}
		}
	}
	return both(&messages[0], &messages[1], h, newRequest1)
}

func halve2(raw []byte, parts []part) ([]Request, error) {
	var whole writev2.Request
	if err := whole.Unmarshal(raw); err != nil {
		return nil, err
	}
	h, err := cut(parts, len(whole.Timeseries))
	if err != nil || len(h.cuts) == 0 {
		return nil, err
	}
	var messages [2]writev2.Request
	tables := [2]writev2.SymbolsTable{writev2.NewSymbolTable(), writev2.NewSymbolTable()}
	for i, n := range h.cuts {
		t := &whole.Timeseries[i]
		samples, histograms := split(t.Samples, n), split(t.Histograms, n)
		for j := range messages {
			if len(samples[j])+len(histograms[j]) == 0 {
				continue
			}
			part := writev2.TimeSeries{Samples: samples[j], Histograms: histograms[j], Metadata: t.Metadata}
			for _, ref := range t.LabelsRefs {
				part.LabelsRefs = append(part.LabelsRefs, tables[j].Symbolize(whole.Symbols[ref]))
			}
			part.Metadata.HelpRef = tables[j].Symbolize(whole.Symbols[t.Metadata.HelpRef])
			part.Metadata.UnitRef = tables[j].Symbolize(whole.Symbols[t.Metadata.UnitRef])
			messages[j].Timeseries = append(messages[j].Timeseries, part)
		}
	}
	for j := range messages {
		messages[j].Symbols = tables[j].Symbols()
	}
	return both(&messages[0], &messages[1], h, newRequest2)
}

// split gives the first n of all and the rest.
func split[T any](all []T, n int) [2][]T {
	n = min(n, len(all))
	return [2][]T{all[:n:n], all[n:]}
}

func both[M any](first, second *M, h halves, newRequest func(*M) (Request, error)) ([]Request, error) {
	requests := make([]Request, 2)
	for i, m := range []*M{first, second} {
		r, err := newRequest(m)
		if err != nil {
			return nil, err
		}
		requests[i], requests[i].parts = r, h.parts[i]
	}
	return requests, nil
}

// newRequest1 marshals and describes a 1.0 message.
func newRequest1(m *prompb.WriteRequest) (Request, error) {
	raw, err := m.Marshal()
	if err != nil {
		return Request{}, err
	}
	r := newRequest(V1, raw, len(m.Timeseries))
	for i := range m.Timeseries {
		r.Samples += spanAll(&r, m.Timeseries[i].Samples)
		r.Histograms += spanAll(&r, m.Timeseries[i].Histograms)
	}
	return r, nil
}

// newRequest2 marshals and describes a 2.0 message.
func newRequest2(m *writev2.Request) (Request, error) {
	raw, err := m.Marshal()
	if err != nil {
		return Request{}, err
	}
	r := newRequest(V2, raw, len(m.Timeseries))
	for i := range m.Timeseries {
		r.Samples += spanAll(&r, m.Timeseries[i].Samples)
		r.Histograms += spanAll(&r, m.Timeseries[i].Histograms)
	}
	return r, nil
}

func newRequest(p Protocol, raw []byte, series int) Request {
	r := Request{Body: snappy.Encode(nil, raw), Protocol: p, Series: series}
	r.ContentType, r.Version = p.headers()
	return r
}

// spanAll widens a request's time to those of samples or histograms, and returns how many there are.
func spanAll[T any, P interface {
	*T
	GetTimestamp() int64
}](r *Request, points []T,
) int {
	for i := range points {
		r.span(P(&points[i]).GetTimestamp())
	}
	return len(points)
}

// span widens a request's time to a timestamp in Unix milliseconds.
func (r *Request) span(ms int64) {
	at := time.UnixMilli(ms)
	if r.Oldest.IsZero() || at.Before(r.Oldest) {
		r.Oldest = at
	}
	if r.Newest.IsZero() || at.After(r.Newest) {
		r.Newest = at
	}
}
