package sender

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/latpush/latpush/agent/budget"
	"github.com/latpush/latpush/internal/latency"
	"github.com/latpush/latpush/internal/spool"
	"github.com/latpush/latpush/internal/spool/quarantine"
)

// tick is the interval at which the snapshots of the tests are taken.
const tick = 15 * time.Second

// numbered makes a snapshot that is taken at tick n of the only boot. Each of its counters has the value n, and becomes one sample.
func numbered(n, counters int) *latency.Snapshot {
	family := latency.Family{Name: "some_total", Kind: latency.Counter, LabelNames: []string{"which"}}
	for i := range counters {
		family.Series = append(family.Series, latency.Series{LabelValues: []string{fmt.Sprintf("%03d", i)}, Value: float64(n)})
	}
	return &latency.Snapshot{Taken: latency.Instant{Boottime: time.Duration(n) * tick}, Families: []latency.Family{family}}
}

// upTo makes the snapshots of ticks 1 to n, each of one counter.
func upTo(n int) []*latency.Snapshot {
	var snapshots []*latency.Snapshot
	for i := range n {
		snapshots = append(snapshots, numbered(i+1, 1))
	}
	return snapshots
}

func number(s *latency.Snapshot) int { return int(s.Taken.Boottime / tick) }

// queue is a cursor over snapshots in memory: a Reader.
type queue struct {
	mu        sync.Mutex
	snapshots []*latency.Snapshot // position p is element p-1
	position  spool.Position
	committed spool.Position
	state     []byte
	commits   []spool.Position
	changed   chan struct{}
	readErrs  []error // returned by the next readings, one each
	commitErr error
}

func newQueue(snapshots ...*latency.Snapshot) *queue {
	return &queue{snapshots: snapshots, changed: make(chan struct{})}
}

func (q *queue) append(snapshots ...*latency.Snapshot) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.snapshots = append(q.snapshots, snapshots...)
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

// TryNext gives a copy, as the spool does: what the sender changes of it does not come back.
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
	snapshot := *q.snapshots[q.position-1]
	return &snapshot, q.position, true, nil
}

func (q *queue) Commit(p spool.Position, state []byte) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.commitErr != nil {
		return q.commitErr
	}
	q.committed, q.state = p, slices.Clone(state)
	q.commits = append(q.commits, p)
	return nil
}

func (q *queue) State() []byte {
	q.mu.Lock()
	defer q.mu.Unlock()
	return slices.Clone(q.state)
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

// clock is a wall clock that can be stepped. Tick 0 is at the time when it was made.
type clock struct {
	mu     sync.Mutex
	began  time.Time
	offset time.Duration // by which the clock is wrong
	synced chan struct{} // closed when it is right; nil when it always was
}

func (c *clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return time.Now().Round(0).Add(c.offset)
}

func (c *clock) Settle(taken latency.Instant) time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.began.Add(taken.Boottime + c.offset)
}

func (c *clock) WaitSync(ctx context.Context) bool {
	if c.synced == nil {
		return true
	}
	select {
	case <-c.synced:
		return true
	case <-ctx.Done():
		return false
	}
}

// step makes the clock wrong by that much.
func (c *clock) step(offset time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.offset = offset
}

// apart is a quarantine.
type apart struct {
	mu   sync.Mutex
	errs []error // returned by the next calls, one each
	put  []quarantine.Batch
}

func (a *apart) Put(b quarantine.Batch) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.errs) > 0 {
		err := a.errs[0]
		a.errs = a.errs[1:]
		return err
	}
	b.Body = slices.Clone(b.Body)
	a.put = append(a.put, b)
	return nil
}

func (a *apart) messages() []message {
	a.mu.Lock()
	defer a.mu.Unlock()
	var all []message
	for _, b := range a.put {
		all = append(all, decode(b.Body))
	}
	return all
}

func (a *apart) first() quarantine.Batch {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.put[0]
}

// purse is a budget that does what it is told.
type purse struct {
	mu     sync.Mutex
	from   budget.State
	stride int
	wait   func(ctx context.Context, bytes int) error // nil: no waiting
	spent  int
	sent   []int
}

func (p *purse) Stride(time.Duration) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return max(1, p.stride)
}

func (p *purse) Wait(ctx context.Context, bytes int) error {
	if p.wait == nil {
		return nil
	}
	return p.wait(ctx, bytes)
}

func (p *purse) Spent(bytes int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.spent += bytes
}

func (p *purse) Sent(snapshots int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.sent = append(p.sent, snapshots)
}

func (p *purse) State() budget.State {
	p.mu.Lock()
	defer p.mu.Unlock()
	return budget.State{Spent: []budget.Spending{{Bytes: int64(p.spent)}}}
}
