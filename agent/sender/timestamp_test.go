package sender

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/latpush/latpush/internal/latency"
	"github.com/latpush/latpush/internal/upload"
)

// Snapshots whose times are the same, or go back a little, are a millisecond apart.
func TestTimestampsAscend(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		at := func(n int, boottime time.Duration) *latency.Snapshot {
			s := numbered(n, 1)
			s.Taken.Boottime = boottime
			return s
		}
		b := newBench(t, at(1, tick), at(2, tick), at(3, tick+time.Microsecond), at(4, 10*tick), at(5, 2*tick))
		b.run()
		b.wantTimes(tick, tick+time.Millisecond, tick+2*time.Millisecond, 10*tick, 10*tick+time.Millisecond)
		b.queue.append(at(6, 3*tick), at(7, 11*tick))
		synctest.Wait()
		b.wantTimes(tick, tick+time.Millisecond, tick+2*time.Millisecond, 10*tick, 10*tick+time.Millisecond, 10*tick+2*time.Millisecond, 11*tick)
		b.stop()
	})
}

// The newest timestamp is a floor for the next sender as well, unless it is far ahead.
func TestFloorIsDurable(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name string
		step time.Duration
		want time.Duration
		back float64
	}{
		{"forward", time.Hour, 2*tick + time.Hour, 0},
		{"a little back", tick - farAhead, tick + time.Millisecond, 0},
		{"far back", tick - farAhead - 3*tick, 2*tick + tick - farAhead - 3*tick, 1},
		{"years back", -20000 * time.Hour, 2*tick - 20000*time.Hour, 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				b := newBench(t, numbered(1, 1))
				b.run()
				b.stop()
				b.clock.step(tt.step)
				b.queue.append(numbered(2, 1))
				b.run()
				b.wantTimes(tick, tt.want)
				b.wantMetric(tt.back, b.metrics.back)
				b.wantLogged(int(tt.back), "timestamps go back")
				b.stop()

				b.queue.append(numbered(3, 1))
				b.run()
				if tt.back > 0 {
					b.wantTimes(tick, tt.want, tt.want+tick)
				}
				b.wantMetric(tt.back, b.metrics.back) // given up once
				b.stop()
			})
		})
	}
}

// What was refused may be stored in part, so it is a floor as well.
func TestFloorOfRefusedSnapshots(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, upTo(2)...)
		b.receiver.behave(func(message) upload.Answer { return answers(upload.Rejected, 400) })
		b.run()
		b.stop()
		b.receiver.behave(nil)
		b.clock.step(-time.Minute)
		b.queue.append(numbered(3, 1))
		b.run()
		b.wantTimes(2*tick + time.Millisecond)
		b.stop()
	})
}

// A floor that is given up in the middle of a backlog ends a batch, since the samples of one are sorted by time.
func TestFloorIsGivenUpBetweenBatches(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		ahead := numbered(1, 1)
		ahead.Taken.Boottime = 100 * time.Hour
		b := newBench(t, ahead, numbered(2, 1), numbered(3, 1))
		b.run()
		b.wantTimes(100*time.Hour, 2*tick, 3*tick)
		if len(b.encoder.calls()) != 2 {
			t.Errorf("batches of %v, want two", b.encoder.calls())
		}
		b.wantMetric(1, b.metrics.back)
		b.stop()
	})
}

// A request that waits while the clock is stepped arrives with the corrected time: at the start of a host the right time comes with the network.
func TestClockIsSteppedWhileABatchWaits(t *testing.T) {
	t.Parallel()
	for _, step := range []time.Duration{50 * 365 * 24 * time.Hour, -20 * 365 * 24 * time.Hour, time.Second} {
		t.Run(step.String(), func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				b := newBench(t, upTo(3)...)
				b.limits.MaxSnapshots = 2
				b.receiver.behave(func(message) upload.Answer { return upload.Answer{} })
				b.run()
				b.after(time.Hour)
				b.clock.step(step)
				b.after(2 * lookAtClock)
				b.receiver.behave(nil)
				b.after(retryPause)
				b.wantTimes(tick+step, 2*tick+step, 3*tick+step)
				b.wantOnes(1, 2, 3)
				b.wantCommitted(3)
				b.wantMetric(0, b.metrics.back)
				b.stop()
			})
		})
	}
}

// A clock that is slewed does not make anything be sent again.
func TestClockIsSlewedWhileABatchWaits(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, upTo(2)...)
		b.receiver.behave(func(message) upload.Answer { return upload.Answer{} })
		b.run()
		b.clock.step(time.Second - time.Millisecond)
		b.after(time.Minute)
		b.receiver.behave(nil)
		b.after(retryPause)
		b.wantTimes(tick, 2*tick)
		b.stop()
	})
}

// A batch of which the receiver has a part keeps its times. They are a floor for what follows.
func TestClockIsSteppedBackInTheMiddleOfABatch(t *testing.T) {
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
		b.clock.step(-time.Minute)
		b.queue.append(numbered(3, 1))
		b.after(2 * lookAtClock)
		b.receiver.behave(nil)
		b.after(time.Minute)
		b.wantOnes(1, 2, 3)
		b.wantTimes(tick, 2*tick, 2*tick+time.Millisecond)
		b.stop()
	})
}
