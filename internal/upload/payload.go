package upload

import (
	"errors"
	"io"
	"sync"
)

var errAttemptOver = errors.New("the attempt is over")

// payload lends a request's body to the HTTP client for one attempt. The client may still be reading when the answer is there, and the body's owner uses its
// memory again after that; so the payload is taken back at the end of the attempt, and counts what was read.
type payload struct {
	mu   sync.Mutex
	data []byte
	over bool // it is taken back
	read int  // bytes handed out, the repetitions of redirects included
}

// open gives a reader from the start.
func (p *payload) open() (io.ReadCloser, error) { return &payloadReader{payload: p}, nil }

// take ends all reading and tells how many bytes were read.
func (p *payload) take() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.data, p.over = nil, true
	return p.read
}

type payloadReader struct {
	payload *payload
	at      int
}

func (r *payloadReader) Read(b []byte) (int, error) {
	p := r.payload
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.over {
		return 0, errAttemptOver
	}
	if r.at == len(p.data) {
		return 0, io.EOF
	}
	n := copy(b, p.data[r.at:])
	r.at += n
	p.read += n
	return n, nil
}

func (r *payloadReader) Close() error { return nil }
