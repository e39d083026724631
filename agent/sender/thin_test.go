package sender

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"testing"
	"testing/synctest"
	"time"

	"github.com/latpush/latpush/agent/budget"
	"github.com/latpush/latpush/internal/upload"
)

// With a stride of three, two of three snapshots are left out, and the last one before a stop is sent.
func TestStride(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		b.purse = &purse{stride: 3}
		b.run()
		for n := range 8 {
			b.queue.append(numbered(n+1, 1))
			synctest.Wait()
		}
		b.wantOnes(1, 4, 7)
		b.wantCommitted(7)
		b.wantMetric(4, b.metrics.thinned)
		b.drain()
		b.wantOnes(1, 4, 7, 8)
		b.wantCommitted(8)
		if got := b.purse.sent; !reflect.DeepEqual(got, []int{1, 1, 1, 1}) {
			t.Errorf("the budget was told of %v snapshots sent", got)
		}
		if b.purse.spent != int(b.receiver.transferred) || b.purse.spent == 0 {
			t.Errorf("the budget was told of %d bytes, want %d", b.purse.spent, b.receiver.transferred)
		}
	})
}

// What cannot be left out without losing a count is sent, be the budget as short as it may.
func TestStrideKeepsResets(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, upTo(20)...)
		for _, s := range b.queue.snapshots[9:] { // a reset between 9 and 10
			s.Families[0].Series[0].Value -= 9.5
		}
		b.purse = &purse{stride: 1000}
		b.run()
		b.drain()
		b.wantOnes(1, 9, 10, 20)
		b.wantCommitted(20)
	})
}

// A thinned backlog is batched like any other, and one that is delivered in halves is not thinned anew.
func TestStrideInABacklog(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, upTo(10)...)
		b.purse = &purse{stride: 2}
		b.limits.MaxSnapshots = 3
		b.run()
		if got, want := b.encoder.calls(), [][]int{{1, 3, 5}, {7, 9}}; !reflect.DeepEqual(got, want) {
			t.Errorf("batches of %v, want %v", got, want)
		}
		b.drain()
		b.wantOnes(1, 3, 5, 7, 9, 10)
	})
}

func TestBudgetIsAskedBeforeEachRequest(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, upTo(3)...)
		b.purse = &purse{wait: func(ctx context.Context, bytes int) error {
			if bytes <= 0 {
				t.Errorf("asked for %d bytes", bytes)
			}
			sleep(ctx, time.Hour)
			return ctx.Err()
		}}
		b.run()
		b.wantGot()
		b.after(time.Hour)
		b.wantOnes(1)
		b.after(2 * time.Hour)
		b.wantOnes(1, 2, 3)
		b.queue.append(numbered(4, 1))
		synctest.Wait()
		b.stop() // does not wait for the budget
		b.wantCommitted(3)
	})
}

// A receiver that throttles costs the link as much as one that accepts: each further attempt waits for the budget, which knows what those before it took.
func TestBudgetIsAskedBeforeEachAttempt(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, upTo(1)...)
		var spent []int
		b.purse = &purse{wait: func(ctx context.Context, _ int) error {
			b.purse.mu.Lock()
			spent = append(spent, b.purse.spent)
			b.purse.mu.Unlock()
			sleep(ctx, time.Hour)
			return ctx.Err()
		}}
		b.receiver.behave(func(message) upload.Answer { return upload.Answer{Verdict: upload.Retry, Status: 429} })
		b.run()
		b.after(3*time.Hour + time.Minute)
		b.stop()
		if len(spent) != 4 || spent[0] != 0 || spent[1] == 0 || spent[2] != 2*spent[1] || spent[3] != 3*spent[1] {
			t.Errorf("the budget was asked when %d bytes were spent, want to be asked four times, each time with one attempt more", spent)
		}
	})
}

// A request that is larger than a day's budget is halved like one that is too large for the receiver.
func TestRequestLargerThanTheBudget(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, numbered(1, 8), numbered(2, 1))
		b.purse = &purse{wait: func(_ context.Context, bytes int) error {
			if bytes > 200 {
				return fmt.Errorf("wait for budget: %w", budget.ErrTooLarge)
			}
			return nil
		}}
		b.run()
		points := 0
		for _, m := range b.receiver.messages() {
			points += len(m.Points)
		}
		if points != 9 {
			t.Errorf("%d samples have arrived, want 9", points)
		}
		b.wantCommitted(2)
		b.stop()
	})
}

func TestBudgetGoesOnAfterARestart(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, numbered(1, 1))
		b.purse = new(purse)
		b.run()
		if len(b.purse.from.Spent) != 0 {
			t.Errorf("the first budget starts from %v", b.purse.from)
		}
		b.stop()
		b.run()
		if from := b.purse.from.Spent; len(from) != 1 || from[0].Bytes == 0 || from[0].Bytes != int64(b.purse.spent) {
			t.Errorf("the next budget starts from %v, %v were spent", from, b.purse.spent)
		}
		b.stop()
	})
}

// An error of the spool while a decision waits for the next snapshot loses nothing.
func TestReadErrorBehindAnUndecidedSnapshot(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, numbered(1, 1))
		b.purse = &purse{stride: 3}
		b.run()
		b.queue.append(numbered(2, 1))
		synctest.Wait()
		b.queue.mu.Lock()
		b.queue.readErrs = []error{errors.New("input/output error")}
		b.queue.mu.Unlock()
		b.queue.append(numbered(3, 1), numbered(4, 1), numbered(5, 1))
		b.after(time.Minute)
		b.wantErrors(stageRead, 1)
		b.wantOnes(1, 4)
		b.drain()
		b.wantOnes(1, 4, 5)
	})
}
