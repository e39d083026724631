package sender

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/latpush/latpush/internal/promwire"
	"github.com/latpush/latpush/internal/upload"
)

// metadata counts the attempts to send some.
func (r *receiver) metadata() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	n := 0
	for _, m := range r.attempts {
		if m.Metadata {
			n++
		}
	}
	return n
}

func (b *bench) wantMetadata(want int) {
	b.t.Helper()
	if got := b.receiver.metadata(); got != want {
		b.t.Errorf("%d attempts to send metadata, want %d", got, want)
	}
}

func TestMetadata(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, numbered(1, 1))
		b.settings.MetadataInterval = time.Minute
		b.run()
		b.wantMetadata(1)
		for n := range 8 { // two minutes
			b.after(tick)
			b.queue.append(numbered(n+2, 1))
			synctest.Wait()
		}
		b.wantMetadata(3)
		b.drain()
	})
}

func TestMetadataNeverBlocksSamples(t *testing.T) {
	t.Parallel()
	for _, a := range []upload.Answer{answers(upload.Retry, 503), answers(upload.Rejected, 400), answers(upload.TooLarge, 413)} {
		t.Run(a.Verdict.String(), func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				b := newBench(t, upTo(3)...)
				b.settings.MetadataInterval = time.Minute
				b.limits.MaxSnapshots = 1
				b.receiver.answer = func(m message) upload.Answer {
					if m.Metadata {
						return a
					}
					return accepts()
				}
				b.run()
				b.wantOnes(1, 2, 3)
				b.wantCommitted(3)
				b.wantMetadata(1)
				b.wantErrors(stageMetadata, 1)
				b.stop()
			})
		})
	}
}

func TestWithoutMetadata(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(b *bench){
		"switched off": func(b *bench) { b.settings.MetadataInterval = 0 },
		"2.0":          func(b *bench) { b.settings.Protocol = promwire.V2 },
		"nothing is accepted": func(b *bench) {
			b.receiver.answer = func(message) upload.Answer { return answers(upload.Rejected, 400) }
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				b := newBench(t, numbered(1, 1))
				b.settings.MetadataInterval = time.Minute
				change(b)
				b.run()
				b.wantMetadata(0)
				b.stop()
			})
		})
	}
}

// While the budget is short, metadata is sent once.
func TestMetadataOnAMeteredLink(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, numbered(1, 1))
		b.settings.MetadataInterval = time.Second
		b.purse = &purse{stride: 2}
		b.run()
		for n := range 9 {
			b.after(tick)
			b.queue.append(numbered(n+2, 1))
			synctest.Wait()
		}
		b.wantMetadata(1)
		b.stop()
	})
}

func (r *receiver) staleAt() []time.Time {
	var at []time.Time
	for _, m := range r.messages() {
		if m.Stale {
			at = append(at, time.UnixMilli(m.Points[0].At))
		}
	}
	return at
}

func TestStaleMarkersAtDrain(t *testing.T) {
	t.Parallel()
	for _, on := range []bool{true, false} {
		synctest.Test(t, func(t *testing.T) {
			b := newBench(t, upTo(2)...)
			b.settings.StaleMarkers = on
			b.after(5 * time.Minute)
			b.run()
			b.drain()
			at := b.receiver.staleAt()
			if !on {
				if len(at) != 0 {
					t.Errorf("stale markers at %v", at)
				}
				return
			}
			if len(at) != 1 || !at[0].Equal(b.clock.Now()) {
				t.Fatalf("stale markers at %v, want one at %v", at, b.clock.Now())
			}
			b.wantCommitted(2)

			b.queue.append(numbered(3, 1)) // taken before the markers, as far as the clock knows
			b.run()
			messages := b.receiver.messages()
			if last := messages[len(messages)-1]; last.Points[0].At != at[0].UnixMilli()+1 {
				t.Errorf("the next sample is at %v, the markers were at %v", time.UnixMilli(last.Points[0].At), at[0])
			}
			b.stop()
		})
	}
}

// The markers come after the newest samples, be they in the future, and go away with a stop that takes too long.
func TestStaleMarkersAreBounded(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, upTo(2)...)
		b.settings.StaleMarkers = true
		b.receiver.behave(func(m message) upload.Answer {
			if m.Stale {
				return upload.Answer{}
			}
			return accepts()
		})
		b.run()
		b.sender.Drain()
		time.AfterFunc(10*time.Second, b.cancel)
		began := time.Now()
		b.end(true)
		if took := time.Since(began); took != 10*time.Second {
			t.Errorf("gave up after %v, want 10s", took)
		}
		tried := b.receiver.attempted()[len(b.receiver.attempted())-1]
		if want := b.clock.began.Add(2*tick + time.Millisecond); !tried.Stale || tried.Points[0].At != want.UnixMilli() {
			t.Errorf("last attempt was %+v, want markers at %v", tried, want)
		}
	})
}

// Nothing is marked as stale that was not sent in this life.
func TestNoStaleMarkersForNothing(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		b.settings.StaleMarkers = true
		b.run()
		b.drain()
		if len(b.receiver.attempted()) != 0 {
			t.Errorf("%v attempts", b.receiver.attempted())
		}
	})
}
