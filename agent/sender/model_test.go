package sender

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/latpush/latpush/internal/latency"
	"github.com/latpush/latpush/internal/promwire"
	"github.com/latpush/latpush/internal/spool"
	"github.com/latpush/latpush/internal/upload"
)

// world is a bench whose receiver, clock, disk and power fail at random.
type world struct {
	*bench
	random *rand.Rand
	mood   *rand.Rand // of the receiver, which answers from another goroutine

	counters  int // of each snapshot
	smallStep bool
	last      int // number of the newest snapshot
	value     float64

	lives []*life
}

// life is what one sender did.
type life struct {
	encoder *plain
	began   int   // how many messages had been accepted before
	tried   int   // how many attempts there had been before
	floor   int64 // the newest timestamp in the state that it began with
}

// TestModel checks that whatever happens, every snapshot is delivered, refused for good, set apart, or left out without losing a count; in order, at
// timestamps that ascend.
func TestModel(t *testing.T) {
	t.Parallel()
	seeds := 400
	if testing.Short() {
		seeds = 60
	}
	for seed := range seeds {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) { newWorld(t, uint64(seed)).play() })
		})
	}
}

func newWorld(t *testing.T, seed uint64) *world {
	w := &world{bench: newBench(t), random: rand.New(rand.NewPCG(seed, 1)), mood: rand.New(rand.NewPCG(seed, 2)), value: 1}
	w.clock.began = w.clock.began.Add(-time.Duration(w.random.Int64N(int64(3 * time.Hour)))) // some are old from the start
	w.counters, w.smallStep = 1+w.random.IntN(6), w.random.IntN(2) == 0
	w.limits.MaxSnapshots = 1 + w.random.IntN(8)
	if w.random.IntN(2) == 0 {
		w.settings.Protocol = promwire.V2
	}
	if w.random.IntN(3) == 0 {
		w.settings.PushInterval = 4 * tick
	}
	if w.random.IntN(2) == 0 {
		w.settings.QuarantineAfter = time.Hour
	}
	w.settings.StaleMarkers, w.settings.MetadataInterval = w.random.IntN(2) == 0, time.Minute
	if w.random.IntN(3) == 0 {
		w.purse = &purse{stride: 1 + w.random.IntN(5)}
	}
	return w
}

func (w *world) play() {
	w.live()
	for range 150 {
		w.happen()
		w.after(time.Duration(w.random.Int64N(int64(time.Minute))))
	}
	w.receiver.behave(nil)
	w.failCommits(nil)
	w.tick() // what to probe with
	w.after(2 * time.Hour)
	w.drain()
	w.check()
}

// live starts a sender with what the one before has left.
func (w *world) live() {
	kept, err := decodeState(w.queue.State())
	if err != nil {
		w.t.Fatal(err)
	}
	w.encoder = &plain{}
	if w.counters > 1 && w.random.IntN(2) == 0 {
		w.encoder.perRequest = 1 + w.random.IntN(10)
	}
	w.lives = append(w.lives, &life{encoder: w.encoder, began: len(w.receiver.messages()), tried: len(w.receiver.attempted()), floor: kept.Last})
	w.run()
}

func (w *world) happen() {
	switch w.random.IntN(12) {
	case 0:
		w.stop()
		w.live()
	case 1:
		w.step()
	case 2:
		w.failCommits(errors.New("no space left on device"))
	case 3:
		w.failCommits(nil)
	case 4, 5:
		w.receiver.behave(w.someMood())
	default:
		w.tick()
	}
}

// tick takes a few snapshots, as of a time in which the sender was busy. Some are the first after a reset.
func (w *world) tick() {
	for range 1 + w.random.IntN(4) {
		if w.value++; w.random.IntN(10) == 0 {
			w.value = 1
		}
		w.last++
		s := numbered(w.last, w.counters)
		for i := range s.Families[0].Series {
			s.Families[0].Series[i].Value = w.value
		}
		w.queue.append(s)
	}
}

// step makes the clock wrong, by less or by more than what is given up as a floor.
func (w *world) step() {
	most := 4 * time.Minute
	if !w.smallStep {
		most = 24 * time.Hour
	}
	w.clock.step(time.Duration(w.random.Int64N(int64(2*most))) - most)
}

func (w *world) failCommits(err error) {
	w.queue.mu.Lock()
	defer w.queue.mu.Unlock()
	w.queue.commitErr = err
}

// someMood is how the receiver answers for a while.
func (w *world) someMood() func(m message) upload.Answer {
	knows2, largest, trouble := w.random.IntN(3) > 0, 1+w.random.IntN(20), w.random.IntN(8)
	return func(m message) upload.Answer {
		switch {
		case trouble == 0 || trouble == 1 && w.mood.IntN(2) == 0:
			return [...]upload.Answer{{}, answers(upload.Retry, 429), answers(upload.Retry, 503), answers(upload.Unauthorized, 401)}[w.mood.IntN(4)]
		case trouble == 2:
			return answers(upload.Retry, 503)
		case m.Protocol == promwire.V2 && !knows2:
			return [...]upload.Answer{answers(upload.Unsupported, 415), answers(upload.Unsupported, 204), answers(upload.Rejected, 400)}[trouble%3]
		case len(m.Points) > largest && trouble == 3:
			return answers(upload.TooLarge, 413)
		case m.Metadata || m.Stale:
			return accepts()
		}
		for _, p := range m.Points {
			switch {
			case p.N%31 == 7:
				return answers(upload.Retry, 500)
			case p.N%37 == 9:
				return answers(upload.Rejected, 400)
			}
		}
		return accepts()
	}
}

// sample names one sample of one snapshot.
type sample struct{ n, counter int }

func samplesOf(messages []message) map[sample]bool {
	all := make(map[sample]bool)
	for _, m := range messages {
		for _, p := range m.Points {
			if !m.Stale {
				all[sample{p.N, p.Counter}] = true
			}
		}
	}
	return all
}

func (w *world) check() {
	accepted, refused, apart := samplesOf(w.receiver.messages()), samplesOf(w.receiver.refused), samplesOf(w.apart.messages())
	for s := range accepted {
		if s.n < 1 || s.n > w.last || s.counter >= w.counters {
			w.t.Errorf("sample %v was never taken", s)
		}
	}
	var sent []int
	for n := 1; n <= w.last; n++ {
		done := 0
		for counter := range w.counters {
			if s := (sample{n, counter}); accepted[s] || refused[s] || apart[s] {
				done++
			}
		}
		if done == w.counters {
			sent = append(sent, n)
		} else if done > 0 && w.purse == nil { // with a budget, what a life has begun to send the next one may leave out
			w.t.Errorf("snapshot %d is delivered in part", n)
		}
	}
	w.checkLeftOut(sent)
	w.checkOrder()
	w.checkTimes()
	w.checkEncoders(sent)
	w.wantCommitted(spool.Position(w.last))
}

// checkLeftOut checks that no count was lost with the snapshots that were left out.
func (w *world) checkLeftOut(sent []int) {
	if w.last > 0 && (len(sent) == 0 || sent[len(sent)-1] != w.last) {
		w.t.Errorf("the last snapshot is not delivered")
		return
	}
	for i, n := range sent {
		before := 0
		if i > 0 {
			before = sent[i-1]
		}
		for left := before + 1; left < n; left++ {
			if before == 0 || w.purse == nil || !latency.Omittable(w.queue.snapshots[before-1], w.queue.snapshots[left-1], w.queue.snapshots[n-1]) {
				w.t.Errorf("snapshot %d is missing between %d and %d", left, before, n)
			}
		}
	}
}

// checkOrder checks that a life has tried the samples of each counter in order. What it has tried before it may try again.
func (w *world) checkOrder() {
	attempts := w.receiver.attempted()
	for i, l := range w.lives {
		end := len(attempts)
		if i+1 < len(w.lives) {
			end = w.lives[i+1].tried
		}
		newest := make(map[int]int)
		seen := make(map[sample]bool)
		for _, m := range attempts[l.tried:end] {
			for _, p := range m.Points {
				if m.Stale || seen[sample{p.N, p.Counter}] {
					continue
				}
				seen[sample{p.N, p.Counter}] = true
				if p.N < newest[p.Counter] {
					w.t.Errorf("counter %d of snapshot %d was sent after that of snapshot %d", p.Counter, p.N, newest[p.Counter])
				}
				newest[p.Counter] = max(newest[p.Counter], p.N)
			}
		}
	}
}

// checkTimes checks that the timestamps of each counter ascend within a life, and from what was stored by the one before; unless the floor was given up.
func (w *world) checkTimes() {
	descents := 0
	messages := w.receiver.messages()
	for i, l := range w.lives {
		end := len(messages)
		if i+1 < len(w.lives) {
			end = w.lives[i+1].began
		}
		newest := make(map[int]point)
		for _, m := range messages[l.began:end] {
			for _, p := range m.Points {
				if m.Stale {
					continue
				}
				before, known := newest[p.Counter]
				if !known {
					before = point{At: l.floor}
				}
				if p.N > before.N {
					if p.At <= before.At {
						descents++
					}
					newest[p.Counter] = p
				}
			}
		}
	}
	given := testutil.ToFloat64(w.metrics.back)
	if float64(descents) > given*float64(w.counters) || w.smallStep && given > 0 {
		w.t.Errorf("timestamps have gone back %d times, floors were given up %v times, small steps: %v", descents, given, w.smallStep)
	}
}

// checkEncoders checks that the encoders were told of everything that was done with, in order.
func (w *world) checkEncoders(sent []int) {
	told := make(map[int]bool)
	for i, l := range w.lives {
		done := l.encoder.done()
		if !slices.IsSorted(done) || len(slices.Compact(slices.Clone(done))) != len(done) {
			w.t.Errorf("the encoder of life %d was told that %v are accepted", i, done)
		}
		for _, n := range done {
			told[n] = true
		}
	}
	for _, n := range sent {
		// With a budget, what a life has sent and not committed may be left out by the next one.
		if w.purse == nil && !told[n] {
			w.t.Errorf("no encoder was told of snapshot %d", n)
		}
	}
}
