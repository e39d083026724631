package sender

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/latpush/latpush/internal/latency"
	"github.com/latpush/latpush/internal/promwire"
	"github.com/latpush/latpush/internal/upload"
)

// point is a sample in a request: which counter of which snapshot, and its timestamp in Unix milliseconds.
type point struct {
	N, Counter int
	At         int64
}

// message is the body of a request.
type message struct {
	Protocol promwire.Protocol
	Points   []point
	Metadata bool `json:",omitempty"`
	Stale    bool `json:",omitempty"`
}

func encode(m message) promwire.Request {
	body, err := json.Marshal(m)
	if err != nil {
		panic(err)
	}
	r := promwire.Request{Body: body, Protocol: m.Protocol, Samples: len(m.Points)}
	for _, p := range m.Points {
		at := time.UnixMilli(p.At)
		if r.Oldest.IsZero() || at.Before(r.Oldest) {
			r.Oldest = at
		}
		if at.After(r.Newest) {
			r.Newest = at
		}
	}
	return r
}

func decode(body []byte) message {
	var m message
	if err := json.Unmarshal(body, &m); err != nil {
		panic(err)
	}
	return m
}

// numbers are the numbers of the snapshots in a message, each once.
func (m *message) numbers() []int {
	var numbers []int
	for _, p := range m.Points {
		numbers = append(numbers, p.N)
	}
	slices.Sort(numbers)
	return slices.Compact(numbers)
}

// plain encodes like the real encoder: grouped by series, perRequest samples in a request, bodies that the next call overwrites.
type plain struct {
	mu         sync.Mutex
	perRequest int          // 0: a request for each snapshot, whatever it has
	bad        map[int]bool // the snapshots that cannot be encoded
	batches    [][]int      // numbers of the snapshots of each call
	last       []int        // of the last call
	accepted   []int        // numbers of all snapshots that were accepted, in order
	bodies     []promwire.Request
}

func (e *plain) Encode(p promwire.Protocol, snapshots ...*latency.Snapshot) ([]promwire.Request, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, r := range e.bodies {
		clear(r.Body) // a request that is used too late is no JSON
	}
	e.bodies = nil
	var numbers []int
	var errs []error
	var points []point
	for _, s := range snapshots {
		n := number(s)
		numbers = append(numbers, n)
		if e.bad[n] {
			errs = append(errs, fmt.Errorf("snapshot %d is malformed", n))
			continue
		}
		for _, f := range s.Families {
			for i := range f.Series {
				points = append(points, point{N: n, Counter: i, At: s.Taken.Wall.UnixMilli()})
			}
		}
	}
	e.batches, e.last = append(e.batches, numbers), numbers
	for _, points := range e.split(points) {
		e.bodies = append(e.bodies, encode(message{Protocol: p, Points: points}))
	}
	return slices.Clone(e.bodies), errors.Join(errs...)
}

func (e *plain) split(points []point) [][]point {
	if e.perRequest > 0 {
		slices.SortStableFunc(points, func(a, b point) int { return a.Counter - b.Counter })
		return slices.Collect(slices.Chunk(points, e.perRequest))
	}
	var split [][]point
	for len(points) > 0 {
		n := slices.IndexFunc(points, func(p point) bool { return p.N != points[0].N })
		if n < 0 {
			n = len(points)
		}
		split, points = append(split, points[:n]), points[n:]
	}
	return split
}

func (e *plain) Accept() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.accepted = append(e.accepted, e.last...)
}

func (e *plain) Stale(p promwire.Protocol, at time.Time) ([]promwire.Request, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if len(e.accepted) == 0 {
		return nil, nil
	}
	return []promwire.Request{encode(message{Protocol: p, Stale: true, Points: []point{{At: at.UnixMilli()}}})}, nil
}

func (e *plain) MetadataRequests() ([]promwire.Request, error) {
	return []promwire.Request{encode(message{Protocol: promwire.V1, Metadata: true})}, nil
}

func (e *plain) Halve(r promwire.Request) ([]promwire.Request, error) {
	m := decode(r.Body)
	if len(m.Points) < 2 {
		return nil, nil
	}
	half := len(m.Points) / 2
	return []promwire.Request{
		encode(message{Protocol: m.Protocol, Stale: m.Stale, Points: m.Points[:half]}), encode(message{Protocol: m.Protocol, Stale: m.Stale, Points: m.Points[half:]}),
	}, nil
}

// done are the numbers of all snapshots that were accepted, in order.
func (e *plain) done() []int {
	e.mu.Lock()
	defer e.mu.Unlock()
	return slices.Clone(e.accepted)
}

func (e *plain) calls() [][]int {
	e.mu.Lock()
	defer e.mu.Unlock()
	return slices.Clone(e.batches)
}

// accepts is what an answer of a receiver is unless a test says otherwise.
func accepts() upload.Answer { return upload.Answer{Verdict: upload.Accepted, Status: 204} }

func answers(v upload.Verdict, status int) upload.Answer {
	return upload.Answer{Verdict: v, Status: status, Message: "no. " + strconv.Itoa(status), Err: fmt.Errorf("receive status %d", status)}
}

// retryPause is the client's wait between two attempts.
const retryPause = 30 * time.Second

// receiver is a client and the receiver behind it: it answers with what answer says, and keeps what it has accepted.
type receiver struct {
	mu          sync.Mutex
	answer      func(m message) upload.Answer // nil: everything is accepted
	took        time.Duration                 // of an attempt
	attempts    []message
	accepted    []message
	refused     []message
	transferred int64
}

func (r *receiver) Send(ctx context.Context, request promwire.Request) upload.Answer {
	m := decode(request.Body)
	r.mu.Lock()
	answer, took := r.answer, r.took
	r.attempts = append(r.attempts, m)
	r.transferred += int64(r.Bytes(request))
	r.mu.Unlock()
	if took > 0 {
		sleep(ctx, took)
	}
	if ctx.Err() != nil {
		return upload.Answer{Verdict: upload.Retry, Err: ctx.Err()}
	}
	a := accepts()
	if answer != nil {
		a = answer(m)
	}
	if a.Verdict == upload.Accepted {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.accepted = append(r.accepted, m)
	}
	return a
}

// Deliver has the patience of the real client.
func (r *receiver) Deliver(
	ctx context.Context, request promwire.Request, patience time.Duration, again func(context.Context) error,
) (upload.Answer, error) {
	failing, began := 0, time.Time{}
	for attempt := 1; ; attempt++ {
		if attempt > 1 && again != nil {
			if err := again(ctx); err != nil {
				return upload.Answer{}, fmt.Errorf("deliver: %w", err)
			}
		}
		a := r.Send(ctx, request)
		if ctx.Err() != nil {
			return a, fmt.Errorf("deliver: %w", context.Cause(ctx))
		}
		if a.Verdict != upload.Retry && a.Verdict != upload.Unauthorized {
			return a, nil
		}
		if a.Status < 500 {
			failing = 0
		} else {
			if failing == 0 {
				began = time.Now()
			}
			failing++
		}
		if patience > 0 && failing >= 3 && time.Since(began) >= patience {
			return a, nil
		}
		sleep(ctx, retryPause)
	}
}

func (r *receiver) Refuse(request promwire.Request, _ upload.Answer) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.refused = append(r.refused, decode(request.Body))
}

func (r *receiver) Bytes(request promwire.Request) int { return len(request.Body) }

func (r *receiver) Transferred() int64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.transferred
}

// behave changes what the receiver answers.
func (r *receiver) behave(answer func(m message) upload.Answer) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.answer = answer
}

// got are the numbers of the accepted snapshots, request by request.
func (r *receiver) got() [][]int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return numbersOf(r.accepted)
}

// tried are the numbers of the snapshots of all attempts.
func (r *receiver) tried() [][]int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return numbersOf(r.attempts)
}

func numbersOf(messages []message) [][]int {
	var all [][]int
	for _, m := range messages {
		if !m.Metadata && !m.Stale {
			all = append(all, m.numbers())
		}
	}
	return all
}

// attempted are the messages of all attempts.
func (r *receiver) attempted() []message {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.attempts)
}

// messages are the accepted messages.
func (r *receiver) messages() []message {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.accepted)
}
