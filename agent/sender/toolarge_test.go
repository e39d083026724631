package sender

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/latpush/latpush/internal/upload"
)

// small answers like a receiver that takes that many samples at once.
func small(most int) func(m message) upload.Answer {
	return func(m message) upload.Answer {
		if len(m.Points) > most {
			return answers(upload.TooLarge, 413)
		}
		return accepts()
	}
}

func TestTooLarge(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, numbered(1, 16), numbered(2, 16), numbered(3, 1))
		b.receiver.behave(small(4))
		b.run()
		counters := 0
		for _, m := range b.receiver.messages() {
			for _, p := range m.Points {
				if want := counters % 16; p.Counter != want || p.N != 1+counters/16 {
					t.Errorf("sample %d of snapshot %d arrived as number %d", p.Counter, p.N, counters)
				}
				counters++
			}
		}
		if counters != 33 {
			t.Errorf("%d samples have arrived, want 33", counters)
		}
		// 16, 8, and from then on, what is believed to be small enough.
		if tried, got := len(b.receiver.tried()), len(b.receiver.got()); tried != got+2 {
			t.Errorf("%d attempts for %d requests", tried, got)
		}
		b.wantCommitted(3)
		b.wantMetric(0, b.metrics.dropped.WithLabelValues("main", "too_large"))

		b.receiver.behave(nil) // the limit is raised
		b.after(believeCeiling)
		b.queue.append(numbered(4, 16))
		synctest.Wait()
		if messages := b.receiver.messages(); len(messages[len(messages)-1].Points) != 16 {
			t.Error("large requests are not tried again")
		}
		b.stop()
	})
}

func TestOneHistogramIsTooLarge(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, numbered(1, 4), numbered(2, 1))
		b.receiver.answer = func(m message) upload.Answer {
			for _, p := range m.Points {
				if p.N == 1 && p.Counter == 2 {
					return answers(upload.TooLarge, 413)
				}
			}
			return accepts()
		}
		b.run()
		b.wantGot([]int{1}, []int{1}, []int{2})
		b.wantCommitted(2)
		b.wantMetric(1, b.metrics.dropped.WithLabelValues("main", "too_large"))
		if len(b.receiver.refused) != 1 {
			t.Errorf("%d requests were refused for good, want 1", len(b.receiver.refused))
		}
		b.stop()
	})
}

func TestCeilingIsForgotten(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		large, other := encode(message{Points: make([]point, 10)}), encode(message{Points: make([]point, 9)})
		var c ceiling
		if c.tooLow(large) {
			t.Error("everything is too large")
		}
		c.lower(large)
		if !c.tooLow(large) || c.tooLow(other) {
			t.Error("want what was refused to be too large, and nothing smaller")
		}
		time.Sleep(believeCeiling)
		if c.tooLow(large) {
			t.Error("the ceiling holds for ever")
		}
	})
}
