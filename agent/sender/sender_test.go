package sender

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/latpush/latpush/internal/latency"
	"github.com/latpush/latpush/internal/spool"
	"github.com/latpush/latpush/internal/upload"
)

// bench is a sender with everything around it.
type bench struct {
	t        *testing.T
	queue    *queue
	encoder  *plain
	receiver *receiver
	sender   *Sender
	metrics  *Metrics
	log      *bytes.Buffer
	stop     context.CancelFunc
	done     chan bool
}

func newBench(t *testing.T, o Options, snapshots ...*latency.Snapshot) *bench {
	t.Helper()
	b := &bench{t: t, queue: newQueue(snapshots...), encoder: new(plain), receiver: new(receiver), log: new(bytes.Buffer)}
	metrics, err := NewMetrics(prometheus.NewRegistry())
	if err != nil {
		t.Fatal(err)
	}
	b.metrics = metrics
	b.sender = New("main", b.queue, b.encoder, b.receiver, o, metrics, slog.New(slog.NewTextHandler(b.log, nil)))
	return b
}

// run starts the sender in the bubble of the test.
func (b *bench) run() {
	ctx, cancel := context.WithCancel(b.t.Context())
	b.stop, b.done = cancel, make(chan bool, 1)
	go func() { b.done <- b.sender.Run(ctx) }()
	synctest.Wait()
}

// end waits for the sender to return and checks what it says.
func (b *bench) end(drained bool) {
	b.t.Helper()
	defer b.stop()
	if got := <-b.done; got != drained {
		b.t.Errorf("Run returned %v, want %v", got, drained)
	}
}

func (b *bench) wantBodies(want ...string) {
	b.t.Helper()
	if got := b.receiver.got(); !slices.Equal(got, want) {
		b.t.Errorf("receiver got %v, want %v", got, want)
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

func (b *bench) wantErrors(stage string, want float64) {
	b.t.Helper()
	if got := testutil.ToFloat64(b.metrics.errors.WithLabelValues("main", stage)); got != want {
		b.t.Errorf("%v errors of stage %s counted, want %v", got, stage, want)
	}
}

func TestDeliversBacklogAndThenEachSnapshot(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, Options{}, numbered(1, 1), numbered(2, 1))
		b.run()
		b.wantBodies("1", "2")
		b.wantCommitted(2)
		b.queue.append(numbered(3, 1))
		synctest.Wait()
		b.wantBodies("1", "2", "3")
		b.wantCommitted(3)
		b.stop()
		b.end(false)
	})
}

func TestBatchesAreBounded(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name    string
		options Options
		lines   []int
		batches []int
	}{
		{name: "by snapshots", options: Options{MaxSnapshots: 2}, lines: []int{1, 1, 1, 1, 1}, batches: []int{2, 2, 1}},
		{name: "by samples", options: Options{MaxSamples: 10}, lines: []int{4, 4, 4, 4}, batches: []int{3, 1}},
		{name: "a large snapshot goes alone", options: Options{MaxSamples: 10}, lines: []int{50, 1, 1}, batches: []int{1, 2}},
		{name: "defaults", lines: []int{1, 1, 1}, batches: []int{3}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				b := newBench(t, tt.options)
				for i, lines := range tt.lines {
					b.queue.append(numbered(i+1, lines))
				}
				b.run()
				if !slices.Equal(b.encoder.batches, tt.batches) {
					t.Errorf("batches of %v snapshots, want %v", b.encoder.batches, tt.batches)
				}
				b.wantCommitted(spool.Position(len(tt.lines)))
				b.stop()
				b.end(false)
			})
		})
	}
}

func TestRejectedRequestDoesNotStopTheQueue(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, Options{}, numbered(1, 1), numbered(2, 1), numbered(3, 1))
		b.receiver.answer = func(_ context.Context, body string) (upload.Answer, error) {
			if body == "2" {
				return upload.Answer{Verdict: upload.Rejected, Status: 400, Message: "out of bounds"}, nil
			}
			return upload.Answer{Verdict: upload.Accepted, Status: 204}, nil
		}
		b.run()
		b.wantBodies("1", "2", "3")
		b.wantCommitted(3)
		b.stop()
		b.end(false)
	})
}

func TestUndeliveredSnapshotHoldsTheQueue(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, Options{MaxSnapshots: 1}, numbered(1, 1), numbered(2, 1))
		answered := make(chan struct{})
		b.receiver.answer = func(ctx context.Context, body string) (upload.Answer, error) {
			select {
			case <-answered:
				return upload.Answer{Verdict: upload.Accepted}, nil
			case <-ctx.Done():
				return upload.Answer{Verdict: upload.Retry}, ctx.Err()
			}
		}
		b.run()
		time.Sleep(24 * time.Hour)
		synctest.Wait()
		b.wantBodies("1")
		b.wantCommitted(0)
		close(answered)
		synctest.Wait()
		b.wantBodies("1", "2")
		b.wantCommitted(2)
		b.stop()
		b.end(false)
	})
}

// A batch that was cut short in the middle is not committed, and the next sender of the cursor starts with its first snapshot.
func TestCancelledBatchIsSentAgain(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, Options{}, numbered(1, 1), numbered(2, 1))
		b.receiver.answer = func(ctx context.Context, body string) (upload.Answer, error) {
			if body == "2" {
				<-ctx.Done()
				return upload.Answer{}, ctx.Err()
			}
			return upload.Answer{Verdict: upload.Accepted}, nil
		}
		b.run()
		b.wantBodies("1", "2")
		b.stop()
		b.end(false)
		b.wantCommitted(0)

		again := new(receiver)
		next := New("main", b.queue, b.encoder, again, Options{}, b.metrics, slog.New(slog.DiscardHandler))
		next.Drain()
		if !next.Run(t.Context()) {
			t.Error("the backlog was not drained")
		}
		if got := again.got(); !slices.Equal(got, []string{"1", "2"}) {
			t.Errorf("the next sender delivered %v, want 1 and 2", got)
		}
		b.wantCommitted(2)
	})
}

func TestDrain(t *testing.T) {
	t.Parallel()
	t.Run("ends a wait", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			b := newBench(t, Options{})
			b.run()
			b.sender.Drain()
			b.sender.Drain()
			b.end(true)
		})
	})
	t.Run("delivers what is left", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			b := newBench(t, Options{MaxSnapshots: 2})
			b.run()
			for n := range 5 {
				b.queue.append(numbered(n+1, 1))
			}
			b.sender.Drain()
			b.end(true)
			b.wantBodies("1", "2", "3", "4", "5")
			b.wantCommitted(5)
		})
	})
	t.Run("is given up with its context", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			b := newBench(t, Options{}, numbered(1, 1))
			b.receiver.answer = func(ctx context.Context, _ string) (upload.Answer, error) {
				<-ctx.Done()
				return upload.Answer{}, ctx.Err()
			}
			b.run()
			b.sender.Drain()
			time.AfterFunc(10*time.Second, b.stop)
			begin := time.Now()
			b.end(false)
			if took := time.Since(begin); took != 10*time.Second {
				t.Errorf("gave up after %v, want 10s", took)
			}
			b.wantCommitted(0)
		})
	})
	t.Run("does not try an unreadable spool again", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			b := newBench(t, Options{}, numbered(1, 1))
			b.sender.Drain()
			b.queue.readErrs = []error{errors.New("input/output error"), errors.New("input/output error")}
			b.run()
			b.end(false)
		})
	})
}

func TestReadErrorsAreTriedAgainWithGrowingPauses(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, Options{MinPause: time.Second, MaxPause: 4 * time.Second}, numbered(1, 1))
		failure := errors.New("input/output error")
		b.queue.readErrs = []error{failure, failure, failure, failure, errors.New("stale file handle")}
		begin := time.Now()
		delivered := time.Time{}
		b.receiver.answer = func(context.Context, string) (upload.Answer, error) {
			delivered = time.Now()
			return upload.Answer{Verdict: upload.Accepted}, nil
		}
		b.run()
		time.Sleep(time.Minute)
		synctest.Wait()
		if took := delivered.Sub(begin); took != (1+2+4+4+4)*time.Second {
			t.Errorf("delivered after %v, want 15s", took)
		}
		b.wantLogged(1, "input/output error")
		b.wantLogged(1, "stale file handle")
		b.wantErrors(stageRead, 5)
		b.stop()
		b.end(false)
	})
}

func TestSnapshotsThatCannotBeEncodedDoNotStopTheQueue(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, Options{MaxSnapshots: 2}, numbered(1, 1), numbered(2, 1), numbered(3, 1))
		b.encoder.bad = map[int]bool{2: true}
		b.run()
		b.wantBodies("1", "3")
		b.wantCommitted(3)
		b.wantLogged(1, "snapshot 2 is malformed")
		b.wantErrors(stageEncode, 1)
		b.stop()
		b.end(false)
	})
}

func TestCommitErrorDoesNotStopTheQueue(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, Options{MaxSnapshots: 1}, numbered(1, 1), numbered(2, 1))
		b.queue.commitErr = errors.New("no space left on device")
		b.run()
		b.wantBodies("1", "2")
		b.wantLogged(1, "no space left on device")
		b.wantErrors(stageCommit, 2)
		b.stop()
		b.end(false)
	})
}

func TestLines(t *testing.T) {
	t.Parallel()
	snapshot := &latency.Snapshot{Families: []latency.Family{
		{Kind: latency.Histogram, Bounds: make([]uint64, 27), Series: make([]latency.Series, 2)},
		{Kind: latency.Counter, Series: make([]latency.Series, 3)},
		{Kind: latency.Gauge},
	}}
	if got := lines(snapshot); got != 2*(27+1+2)+3 {
		t.Errorf("%d sample lines, want 63", got)
	}
}
