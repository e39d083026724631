package promwire

import (
	"encoding/binary"
	"math"
	"time"

	"github.com/golang/snappy"
)

// Request is one remote write request, ready to be posted.
type Request struct {
	Body        []byte // the message, compressed as a snappy block; valid until the next call of the Encoder that made it
	Protocol    Protocol
	ContentType string // value of the Content-Type header
	Version     string // value of the X-Prometheus-Remote-Write-Version header
	Samples     int    // floats: lines of classic histograms, counters, gauges, and their stale markers
	Histograms  int    // native histograms and their stale markers
	Series      int
	Oldest      time.Time // of the samples' timestamps, which are whole milliseconds; zero when there are none
	Newest      time.Time

	parts []part // what belongs together in it, in order
}

// part is a number of series one after the other that are the lines of one label set, each with the same timestamps.
type part struct{ series, samples int }

// packer collects the series of one request after another, and compresses and keeps the finished ones.
type packer struct {
	maxSamples int // samples and histograms of one request
	maxBytes   int // of one request, uncompressed
	symbols    *symbols
	protocol   Protocol

	number         uint64 // of the open request, marks the symbols that it has
	refs           uint32 // 2.0: strings in its table
	table          []byte // 2.0: its symbols fields
	raw            []byte // its series
	samples        int
	histograms     int
	series         int
	oldest, newest int64  // Unix milliseconds
	parts          []part // of all requests of the call, those of the open one from here on:
	firstPart      int

	message  []byte    // a 2.0 message, put together
	block    []byte    // compression's scratch: its worst case is seven times a usual body, so bodies are copied out of it
	bodies   [][]byte  // reused from call to call, one for each request
	requests []Request // the finished ones of this call
}

func (p *packer) begin(protocol Protocol) {
	p.protocol = protocol
	clear(p.requests)
	p.requests, p.parts = p.requests[:0], p.parts[:0]
	p.open()
}

func (p *packer) open() {
	p.number++
	p.raw, p.samples, p.histograms, p.series = p.raw[:0], 0, 0, 0
	p.oldest, p.newest = math.MaxInt64, math.MinInt64
	p.firstPart = len(p.parts)
	if p.table, p.refs = p.table[:0], 0; p.protocol == V2 {
		p.table, p.refs = append(p.table, tagSymbols, 0), 1 // the first string is the empty one
	}
}

// ref gives a string's place in the open request's table.
func (p *packer) ref(number uint32) uint32 {
	if number == 0 {
		return 0
	}
	y := &p.symbols.table[number]
	if y.request != p.number {
		y.request, y.ref = p.number, p.refs
		p.refs++
		p.table = appendText(p.table, tagSymbols, y.text)
	}
	return y.ref
}

// appendRefs appends the places of strings.
func (p *packer) appendRefs(dst []byte, numbers ...uint32) []byte {
	for _, n := range numbers {
		dst = binary.AppendUvarint(dst, uint64(p.ref(n)))
	}
	return dst
}

// room makes room for steps of a label set, each with so many samples and at most so many bytes, and at most so many bytes for all of them together. It gives
// how many steps there is room for: at least one, for an empty request takes anything.
func (p *packer) room(samples, bytes, once int) int {
	for {
		n := min((p.maxSamples-p.samples-p.histograms)/samples, (p.maxBytes-len(p.table)-len(p.raw)-once)/bytes)
		if n > 0 {
			return n
		}
		if p.series == 0 {
			return 1
		}
		p.flush()
	}
}

// flush finishes the open request, if there is anything in it.
func (p *packer) flush() {
	if p.series == 0 {
		return
	}
	message := p.raw
	if p.protocol == V2 {
		p.message = append(append(p.message[:0], p.table...), p.raw...)
		message = p.message
	}
	if n := snappy.MaxEncodedLen(len(message)); len(p.block) < n {
		p.block = make([]byte, n)
	}
	i := len(p.requests)
	if i == len(p.bodies) {
		p.bodies = append(p.bodies, nil)
	}
	p.bodies[i] = append(p.bodies[i][:0], snappy.Encode(p.block, message)...)
	r := Request{
		Body: p.bodies[i], Protocol: p.protocol, Samples: p.samples, Histograms: p.histograms, Series: p.series,
		Oldest: time.UnixMilli(p.oldest), Newest: time.UnixMilli(p.newest), parts: p.parts[p.firstPart:],
	}
	r.ContentType, r.Version = p.protocol.headers()
	p.requests = append(p.requests, r)
	p.open()
}

// end finishes the last request and lets go of the bodies that a longer call before this one has left, so that a drained backlog does not stay in memory.
func (p *packer) end() []Request {
	p.flush()
	clear(p.bodies[len(p.requests):])
	p.bodies = p.bodies[:len(p.requests)]
	return p.requests
}
