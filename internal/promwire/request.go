package promwire

import (
	"math"
	"time"

	"github.com/golang/snappy"
	"github.com/prometheus/prometheus/prompb"
)

// Request is one remote write request, ready to be posted.
type Request struct {
	Body        []byte // the message, compressed as a snappy block; valid until the next call of the Encoder that made it
	ContentType string // value of the Content-Type header
	Version     string // value of the X-Prometheus-Remote-Write-Version header
	Samples     int
	Series      int
	Oldest      time.Time // of the samples' timestamps, which are whole milliseconds
	Newest      time.Time
}

// The header values of remote write 1.0.
const (
	contentType1 = "application/x-protobuf"
	version1     = "0.1.0"
)

// packer collects the series of one request after another, and compresses and keeps the finished ones.
type packer struct {
	max int // samples of one request

	raw            []byte // the message of the open request
	samples        int
	series         int
	oldest, newest int64         // Unix milliseconds
	sample         prompb.Sample // being marshalled, here so that it is not allocated
	sampled        []byte        // the samples of one line, marshalled

	block    []byte    // compression's scratch: its worst case is seven times a usual body, so bodies are copied out of it
	bodies   [][]byte  // reused from call to call, one for each request
	requests []Request // the finished ones of this call
}

func (p *packer) begin() {
	p.requests = p.requests[:0]
	p.open()
}

func (p *packer) open() {
	p.raw, p.samples, p.series = p.raw[:0], 0, 0
	p.oldest, p.newest = math.MaxInt64, math.MinInt64
}

// room makes room for n samples that belong together and gives how many times n fit: at least once, for an empty request takes anything.
func (p *packer) room(n int) int {
	if p.samples > 0 && p.max-p.samples < n {
		p.flush()
	}
	return max(1, (p.max-p.samples)/n)
}

// flush finishes the open request, if there is anything in it.
func (p *packer) flush() {
	if p.series == 0 {
		return
	}
	if n := snappy.MaxEncodedLen(len(p.raw)); len(p.block) < n {
		p.block = make([]byte, n)
	}
	i := len(p.requests)
	if i == len(p.bodies) {
		p.bodies = append(p.bodies, nil)
	}
	p.bodies[i] = append(p.bodies[i][:0], snappy.Encode(p.block, p.raw)...)
	p.requests = append(p.requests, Request{
		Body:        p.bodies[i],
		ContentType: contentType1,
		Version:     version1,
		Samples:     p.samples,
		Series:      p.series,
		Oldest:      time.UnixMilli(p.oldest),
		Newest:      time.UnixMilli(p.newest),
	})
	p.open()
}

// end finishes the last request and lets go of the bodies that a longer call before this one has left, so that a drained backlog does not stay in memory.
func (p *packer) end() []Request {
	p.flush()
	clear(p.bodies[len(p.requests):])
	p.bodies = p.bodies[:len(p.requests)]
	return p.requests
}
