package sender

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/latpush/latpush/internal/latency"
	"github.com/latpush/latpush/internal/promwire"
	"github.com/latpush/latpush/internal/spool"
	"github.com/latpush/latpush/internal/upload"
)

// numbered makes a snapshot that is told apart by its CLOCK_BOOTTIME and becomes the given number of sample lines.
func numbered(n, lines int) *latency.Snapshot {
	return &latency.Snapshot{
		Taken:    latency.Instant{Boottime: time.Duration(n)},
		Families: []latency.Family{{Name: "some", Kind: latency.Gauge, Series: make([]latency.Series, lines)}},
	}
}

// queue is a cursor over snapshots in memory: a Reader.
type queue struct {
	mu        sync.Mutex
	snapshots []*latency.Snapshot // position p is element p-1
	position  spool.Position
	committed spool.Position
	commits   []spool.Position
	changed   chan struct{}
	readErrs  []error // returned by the next readings, one each
	commitErr error
}

func newQueue(snapshots ...*latency.Snapshot) *queue {
	return &queue{snapshots: snapshots, changed: make(chan struct{})}
}

func (q *queue) append(s *latency.Snapshot) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.snapshots = append(q.snapshots, s)
	close(q.changed)
	q.changed = make(chan struct{})
}

func (q *queue) Next(ctx context.Context) (*latency.Snapshot, spool.Position, error) {
	for {
		q.mu.Lock()
		changed := q.changed
		q.mu.Unlock()
		if snapshot, position, found, err := q.TryNext(); found || err != nil {
			return snapshot, position, err
		}
		select {
		case <-ctx.Done():
			return nil, 0, ctx.Err()
		case <-changed:
		}
	}
}

func (q *queue) TryNext() (*latency.Snapshot, spool.Position, bool, error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.readErrs) > 0 {
		err := q.readErrs[0]
		q.readErrs = q.readErrs[1:]
		return nil, 0, false, err
	}
	if int(q.position) >= len(q.snapshots) {
		return nil, 0, false, nil
	}
	q.position++
	return q.snapshots[q.position-1], q.position, true, nil
}

func (q *queue) Commit(p spool.Position) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.commitErr != nil {
		return q.commitErr
	}
	q.committed = p
	q.commits = append(q.commits, p)
	return nil
}

func (q *queue) Rewind() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.position = q.committed
}

func (q *queue) delivered() spool.Position {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.committed
}

// plain encodes each snapshot as one request whose body is the snapshot's number. The snapshots in bad cannot be encoded.
type plain struct {
	mu      sync.Mutex
	bad     map[int]bool
	batches []int // number of snapshots in each call
}

func (e *plain) Encode(snapshots ...*latency.Snapshot) ([]promwire.Request, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.batches = append(e.batches, len(snapshots))
	var requests []promwire.Request
	var errs []error
	for _, s := range snapshots {
		n := int(s.Taken.Boottime)
		if e.bad[n] {
			errs = append(errs, fmt.Errorf("snapshot %d is malformed", n))
			continue
		}
		requests = append(requests, promwire.Request{Body: fmt.Append(nil, n), Samples: 1})
	}
	return requests, errors.Join(errs...)
}

// receiver records the bodies that it was given, in order, and answers with what answer says.
type receiver struct {
	mu     sync.Mutex
	bodies []string
	answer func(ctx context.Context, body string) (upload.Answer, error) // nil: everything is accepted
}

func (r *receiver) Deliver(ctx context.Context, request promwire.Request) (upload.Answer, error) {
	body := string(request.Body)
	r.mu.Lock()
	r.bodies = append(r.bodies, body)
	answer := r.answer
	r.mu.Unlock()
	if answer == nil {
		return upload.Answer{Verdict: upload.Accepted, Status: 204}, nil
	}
	return answer(ctx, body)
}

func (r *receiver) got() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]string(nil), r.bodies...)
}
