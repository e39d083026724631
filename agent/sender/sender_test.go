package sender

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/latpush/latpush/internal/upload"
)

func TestDeliversBacklogAndThenEachSnapshot(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, upTo(2)...)
		b.run()
		b.wantOnes(1, 2)
		b.wantCommitted(2)
		b.queue.append(numbered(3, 1))
		synctest.Wait()
		b.wantOnes(1, 2, 3)
		b.wantCommitted(3)
		b.wantTimes(tick, 2*tick, 3*tick)
		b.wantMetric(float64(b.clock.began.Add(3*tick).Unix()), b.metrics.delivered)
		b.stop()
	})
}

func TestRejectedRequestDoesNotStopTheQueue(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, upTo(3)...)
		b.receiver.answer = func(m message) upload.Answer {
			if m.numbers()[0] == 2 {
				return answers(upload.Rejected, 400)
			}
			return accepts()
		}
		b.run()
		b.wantOnes(1, 3)
		b.wantCommitted(3)
		if refused := numbersOf(b.receiver.refused); len(refused) != 1 || refused[0][0] != 2 {
			t.Errorf("refused %v, want 2", refused)
		}
		b.stop()
	})
}

func TestUndeliveredSnapshotHoldsTheQueue(t *testing.T) {
	t.Parallel()
	for _, verdict := range []upload.Answer{{}, answers(upload.Retry, 429), answers(upload.Unauthorized, 401)} {
		t.Run(verdict.Verdict.String(), func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				b := newBench(t, upTo(2)...)
				b.limits.MaxSnapshots = 1
				b.receiver.behave(func(message) upload.Answer { return verdict })
				b.run()
				b.after(24 * time.Hour)
				b.wantGot()
				b.wantCommitted(0)
				b.receiver.behave(nil)
				b.after(retryPause)
				b.wantOnes(1, 2)
				b.wantCommitted(2)
				b.stop()
			})
		})
	}
}

// A batch that was cut short in the middle is not committed, and the next sender of the cursor starts with its first snapshot.
func TestCancelledBatchIsSentAgain(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, upTo(2)...)
		b.receiver.behave(func(m message) upload.Answer {
			if m.numbers()[0] == 2 {
				return upload.Answer{}
			}
			return accepts()
		})
		b.run()
		b.wantOnes(1)
		b.stop()
		b.wantCommitted(0)

		b.receiver.behave(nil)
		b.run()
		b.wantOnes(1, 1, 2)
		b.wantCommitted(2)
		b.wantTimes(tick, tick, 2*tick)
		b.stop()
	})
}

func TestDrain(t *testing.T) {
	t.Parallel()
	t.Run("ends a wait", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			b := newBench(t)
			b.run()
			b.sender.Drain()
			b.drain()
		})
	})
	t.Run("delivers what is left", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			b := newBench(t)
			b.limits.MaxSnapshots = 2
			b.run()
			b.queue.append(upTo(5)...)
			b.drain()
			b.wantOnes(1, 2, 3, 4, 5)
			b.wantCommitted(5)
		})
	})
	t.Run("is given up with its context", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			b := newBench(t, numbered(1, 1))
			b.receiver.behave(func(message) upload.Answer { return upload.Answer{} })
			b.run()
			b.sender.Drain()
			time.AfterFunc(10*time.Second, b.cancel)
			began := time.Now()
			b.end(false)
			if took := time.Since(began); took != 10*time.Second {
				t.Errorf("gave up after %v, want 10s", took)
			}
			b.wantCommitted(0)
		})
	})
	t.Run("does not try an unreadable spool again", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			b := newBench(t, numbered(1, 1))
			b.receiver.took = time.Second
			b.run()
			b.queue.readErrs = []error{errors.New("input/output error"), errors.New("input/output error")}
			b.sender.Drain()
			b.end(false)
		})
	})
}

func TestReadErrorsAreTriedAgainWithGrowingPauses(t *testing.T) {
	t.Parallel()
	for name, push := range map[string]time.Duration{"each tick": 0, "with a push interval": time.Hour} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				b := newBench(t, numbered(1, 1))
				b.settings.PushInterval = push
				b.limits = Limits{MinPause: time.Second, MaxPause: 4 * time.Second}
				failure := errors.New("input/output error")
				b.queue.readErrs = []error{failure, failure, failure, failure, errors.New("stale file handle")}
				began := time.Now()
				delivered := time.Time{}
				b.receiver.answer = func(message) upload.Answer {
					delivered = time.Now()
					return accepts()
				}
				b.run()
				b.after(time.Minute)
				if took := delivered.Sub(began); took != (1+2+4+4+4)*time.Second {
					t.Errorf("delivered after %v, want 15s", took)
				}
				b.wantLogged(1, "input/output error")
				b.wantLogged(1, "stale file handle")
				b.wantErrors(stageRead, 5)
				b.stop()
			})
		})
	}
}

func TestSnapshotsThatCannotBeEncodedDoNotStopTheQueue(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, upTo(3)...)
		b.limits.MaxSnapshots = 2
		b.encoder.bad = map[int]bool{2: true}
		b.run()
		b.wantOnes(1, 3)
		b.wantCommitted(3)
		b.wantLogged(1, "snapshot 2 is malformed")
		b.wantErrors(stageEncode, 1)
		b.stop()
	})
}

func TestCommitErrorDoesNotStopTheQueue(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, upTo(2)...)
		b.limits.MaxSnapshots = 1
		b.queue.commitErr = errors.New("no space left on device")
		b.run()
		b.wantOnes(1, 2)
		b.wantLogged(1, "no space left on device")
		b.wantErrors(stageCommit, 2)
		b.stop()
	})
}

// Nothing is sent before the clock is right, and what waits stays in the spool at a stop.
func TestWaitsForTheClock(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, upTo(2)...)
		b.clock.synced = make(chan struct{})
		b.run()
		b.after(time.Hour)
		b.wantGot()
		b.sender.Drain()
		b.end(false)
		b.wantCommitted(0)

		b.run()
		close(b.clock.synced)
		synctest.Wait()
		b.wantOnes(1, 2)
		b.stop()
	})
}
