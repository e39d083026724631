package sender

import (
	"bytes"
	"context"
	"log/slog"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/latpush/latpush/agent/budget"
	"github.com/latpush/latpush/internal/latency"
	"github.com/latpush/latpush/internal/promwire"
	"github.com/latpush/latpush/internal/spool"
)

// bench is a sender with everything around it.
type bench struct {
	t        *testing.T
	queue    *queue
	encoder  *plain
	receiver *receiver
	clock    *clock
	apart    *apart // nil: no quarantine
	purse    *purse // nil: no budget
	settings Settings
	limits   Limits
	sender   *Sender
	metrics  *Metrics
	log      *journal
	cancel   context.CancelFunc
	done     chan bool
}

// journal is a log in memory.
type journal struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (j *journal) Write(b []byte) (int, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.text.Write(b)
}

func (j *journal) String() string {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.text.String()
}

// newBench makes a bench in the bubble of the test.
func newBench(t *testing.T, snapshots ...*latency.Snapshot) *bench {
	t.Helper()
	metrics, err := NewMetrics(prometheus.NewPedanticRegistry())
	if err != nil {
		t.Fatal(err)
	}
	return &bench{
		t: t, queue: newQueue(snapshots...), encoder: new(plain), receiver: new(receiver), clock: &clock{began: time.Now().Round(0)}, apart: new(apart),
		settings: Settings{Interval: tick, Protocol: promwire.V1}, metrics: metrics, log: new(journal),
	}
}

// run starts a sender, a new one each time, and waits until it waits.
func (b *bench) run() {
	o := Options{
		Name: "main", Reader: b.queue, Encoder: b.encoder, Client: b.receiver, Clock: b.clock,
		Settings: b.settings, Limits: b.limits, Metrics: b.metrics, Log: slog.New(slog.NewTextHandler(b.log, nil)),
	}
	if b.apart != nil {
		o.Quarantine = b.apart
	}
	if b.purse != nil {
		o.NewBudget = func(from budget.State) Budget {
			b.purse.from = from
			return b.purse
		}
	}
	b.sender = New(o)
	ctx, cancel := context.WithCancel(b.t.Context())
	b.cancel, b.done = cancel, make(chan bool, 1)
	go func() { b.done <- b.sender.Run(ctx) }()
	synctest.Wait()
}

// after lets time pass.
func (b *bench) after(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

// end waits for the sender to return and checks what it says.
func (b *bench) end(drained bool) {
	b.t.Helper()
	defer b.cancel()
	if got := <-b.done; got != drained {
		b.t.Errorf("Run returned %v, want %v", got, drained)
	}
}

// stop ends the sender at once.
func (b *bench) stop() {
	b.t.Helper()
	b.cancel()
	b.end(false)
}

// drain ends the sender when everything is delivered.
func (b *bench) drain() {
	b.t.Helper()
	b.sender.Drain()
	b.end(true)
}

// wantGot checks the numbers of the snapshots that the receiver has accepted, request by request.
func (b *bench) wantGot(want ...[]int) {
	b.t.Helper()
	if got := b.receiver.got(); !reflect.DeepEqual(got, want) {
		b.t.Errorf("receiver got %v, want %v", got, want)
	}
}

// wantOnes is wantGot for requests of one snapshot each.
func (b *bench) wantOnes(want ...int) {
	b.t.Helper()
	b.wantGot(ones(want...)...)
}

func ones(numbers ...int) [][]int {
	var all [][]int
	for _, n := range numbers {
		all = append(all, []int{n})
	}
	return all
}

// wantTimes checks the timestamps that the receiver has accepted, since the beginning of the test.
func (b *bench) wantTimes(want ...time.Duration) {
	b.t.Helper()
	var got []time.Duration
	for _, m := range b.receiver.messages() {
		for _, p := range m.Points {
			got = append(got, time.UnixMilli(p.At).Sub(b.clock.began))
		}
	}
	if !slices.Equal(got, want) {
		b.t.Errorf("receiver got times %v, want %v", got, want)
	}
}

func (b *bench) wantCommitted(want spool.Position) {
	b.t.Helper()
	if got := b.queue.delivered(); got != want {
		b.t.Errorf("committed up to %d, want %d", got, want)
	}
}

func (b *bench) wantLogged(times int, text string) {
	b.t.Helper()
	if got := strings.Count(b.log.String(), text); got != times {
		b.t.Errorf("%q is logged %d times, want %d:\n%s", text, got, times, b.log)
	}
}

// wantMetric checks a series of the receiver.
func (b *bench) wantMetric(want float64, c prometheus.Collector) {
	b.t.Helper()
	if got := testutil.ToFloat64(c); got != want {
		b.t.Errorf("metric is %v, want %v", got, want)
	}
}

func (b *bench) wantErrors(stage string, want float64) {
	b.t.Helper()
	b.wantMetric(want, b.metrics.errors.WithLabelValues("main", stage))
}
