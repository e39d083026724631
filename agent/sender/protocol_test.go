package sender

import (
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/latpush/latpush/internal/promwire"
	"github.com/latpush/latpush/internal/upload"
)

// wantProtocols checks in which protocols the attempts were, and that the metric tells the last one.
func (b *bench) wantProtocols(want ...promwire.Protocol) {
	b.t.Helper()
	b.wantAttempts(want...)
	for _, p := range []promwire.Protocol{promwire.V1, promwire.V2} {
		in := 0.
		if p == want[len(want)-1] {
			in = 1
		}
		b.wantMetric(in, b.metrics.protocol.WithLabelValues("main", string(p)))
	}
}

// wantAttempts checks in which protocols the attempts were.
func (b *bench) wantAttempts(want ...promwire.Protocol) {
	b.t.Helper()
	var got []promwire.Protocol
	for _, m := range b.receiver.attempted() {
		got = append(got, m.Protocol)
	}
	if !slices.Equal(got, want) {
		b.t.Errorf("attempts in %v, want %v", got, want)
	}
}

// old answers like a receiver that does not know remote write 2.0.
func old(m message) upload.Answer {
	if m.Protocol == promwire.V2 {
		return answers(upload.Unsupported, 415)
	}
	return accepts()
}

func TestProtocols(t *testing.T) {
	t.Parallel()
	const v1, v2 = promwire.V1, promwire.V2
	silent := func(m message) upload.Answer {
		if m.Protocol == v2 {
			return answers(upload.Unsupported, 204)
		}
		return accepts()
	}
	badRequest := func(m message) upload.Answer {
		if m.Protocol == v2 {
			return answers(upload.Rejected, 400)
		}
		return accepts()
	}
	refusing := func(message) upload.Answer { return answers(upload.Rejected, 400) }
	for _, tt := range []struct {
		name      string
		configure promwire.Protocol
		answer    func(m message) upload.Answer
		attempts  []promwire.Protocol // for two batches of one snapshot
		got       []int
		fallbacks float64
	}{
		{"1.0", v1, nil, []promwire.Protocol{v1, v1}, []int{1, 2}, 0},
		{"2.0", v2, nil, []promwire.Protocol{v2, v2}, []int{1, 2}, 0},
		{"415", v2, old, []promwire.Protocol{v2, v1, v1}, []int{1, 2}, 1},
		{"2xx that has written nothing", v2, silent, []promwire.Protocol{v2, v1, v1}, []int{1, 2}, 1},
		{"400 until it is 1.0", v2, badRequest, []promwire.Protocol{v2, v1, v1}, []int{1, 2}, 1},
		{"400 whatever it is", v2, refusing, []promwire.Protocol{v2, v1, v2, v1}, nil, 0},
		{"415 to 1.0", v1, func(message) upload.Answer { return answers(upload.Rejected, 415) }, []promwire.Protocol{v1, v1}, nil, 0},
		{"422", v2, func(message) upload.Answer { return answers(upload.Rejected, 422) }, []promwire.Protocol{v2, v2}, nil, 0},
		{"400 with a word on what is written, once", v2, func(m message) upload.Answer {
			a := answers(upload.Rejected, 400)
			if m.numbers()[0] == 1 {
				a.Written = new(upload.Written)
			}
			return a
		}, []promwire.Protocol{v2, v2}, nil, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				b := newBench(t, upTo(2)...)
				b.settings.Protocol = tt.configure
				b.limits.MaxSnapshots = 1
				b.receiver.answer = tt.answer
				b.run()
				b.wantOnes(tt.got...)
				b.wantMetric(tt.fallbacks, b.metrics.fallbacks)
				b.wantCommitted(2)
				b.wantAttempts(tt.attempts...)
				b.stop()
			})
		})
	}
}

// A receiver that has taken 2.0 means the samples when it answers 400.
func TestBadRequestAfter2WasTaken(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, numbered(1, 1))
		b.settings.Protocol = promwire.V2
		b.run()
		b.stop()
		b.receiver.behave(func(message) upload.Answer { return answers(upload.Rejected, 400) })
		b.queue.append(numbered(2, 1))
		b.run()
		b.wantProtocols(promwire.V2, promwire.V2)
		b.wantCommitted(2)
		b.stop()
	})
}

// The batch that finds out that the receiver has lost 2.0 in the middle is sent again as a whole.
func TestFallbackInTheMiddleOfABatch(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, upTo(3)...)
		b.settings.Protocol = promwire.V2
		b.receiver.answer = func(m message) upload.Answer {
			if m.Protocol == promwire.V2 && m.numbers()[0] == 2 {
				return answers(upload.Unsupported, 204)
			}
			return accepts()
		}
		b.run()
		b.wantProtocols(promwire.V2, promwire.V2, promwire.V1, promwire.V1, promwire.V1)
		b.wantOnes(1, 1, 2, 3)
		b.wantTimes(tick, tick, 2*tick, 3*tick)
		b.stop()
	})
}

// That a receiver does not know 2.0 is remembered over restarts, for a day.
func TestFallbackIsRemembered(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, numbered(1, 1))
		b.settings.Protocol = promwire.V2
		b.receiver.behave(old)
		b.run()
		b.stop()

		b.queue.append(numbered(2, 1))
		b.after(tryAgain - time.Second)
		b.run()
		b.wantProtocols(promwire.V2, promwire.V1, promwire.V1)

		b.after(time.Second)
		b.queue.append(numbered(3, 1))
		synctest.Wait()
		b.wantProtocols(promwire.V2, promwire.V1, promwire.V1, promwire.V2, promwire.V1)
		b.wantOnes(1, 2, 3)

		b.receiver.behave(nil) // the receiver is upgraded
		b.after(tryAgain)
		b.queue.append(numbered(4, 1))
		synctest.Wait()
		b.stop()
		b.queue.append(numbered(5, 1))
		b.run()
		b.wantProtocols(promwire.V2, promwire.V1, promwire.V1, promwire.V2, promwire.V1, promwire.V2, promwire.V2)
		b.wantMetric(2, b.metrics.fallbacks)
		b.stop()
		if kept, err := decodeState(b.queue.State()); err != nil || kept.FellBack != 0 || !kept.TookV2 {
			t.Errorf("what is remembered is %+v, %v", kept, err)
		}
	})
}

// A receiver that is downgraded, twice in different ways, has not taken 2.0 since.
func TestDowngradedReceiver(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, numbered(1, 1))
		b.settings.Protocol = promwire.V2
		b.run()
		b.receiver.behave(old)
		b.queue.append(numbered(2, 1))
		b.after(tryAgain)
		b.receiver.behave(func(m message) upload.Answer {
			if m.Protocol == promwire.V2 {
				return answers(upload.Rejected, 400)
			}
			return accepts()
		})
		b.queue.append(numbered(3, 1))
		synctest.Wait()
		b.wantProtocols(promwire.V2, promwire.V2, promwire.V1, promwire.V2, promwire.V1)
		b.wantOnes(1, 2, 3)
		b.stop()
	})
}

// A fallback in the future was remembered by a clock that was wrong: it does not hold for ever.
func TestFallbackOfAWrongClock(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, numbered(1, 1))
		b.settings.Protocol = promwire.V2
		b.receiver.behave(old)
		b.clock.step(1000 * time.Hour)
		b.run()
		b.stop()
		b.clock.step(0)
		b.receiver.behave(nil)
		b.queue.append(numbered(2, 1))
		b.run()
		b.wantProtocols(promwire.V2, promwire.V1, promwire.V2)
		b.stop()
	})
}
