package sender

import (
	"errors"
	"reflect"
	"testing"
	"testing/synctest"
	"time"

	"github.com/latpush/latpush/internal/promwire"
	"github.com/latpush/latpush/internal/upload"
)

// stumbles answers 500 to whatever has a sample of a snapshot.
func stumbles(over int) func(m message) upload.Answer {
	return func(m message) upload.Answer {
		for _, p := range m.Points {
			if p.N == over {
				return answers(upload.Retry, 500)
			}
		}
		return accepts()
	}
}

func (b *bench) wantApart(want ...int) {
	b.t.Helper()
	if got := numbersOf(b.apart.messages()); !reflect.DeepEqual(got, ones(want...)) {
		b.t.Errorf("set apart are %v, want %v", got, want)
	}
	b.wantMetric(float64(len(want)), b.metrics.quarantined)
}

func TestSetsApartWhatTheReceiverStumblesOver(t *testing.T) {
	t.Parallel()
	for name, maxSnapshots := range map[string]int{"the next request is of the same batch": 0, "the next request is of the next batch": 2} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				b := newBench(t, upTo(4)...)
				b.limits.MaxSnapshots = maxSnapshots
				b.receiver.behave(stumbles(2))
				b.run()
				b.after(maxPatience - time.Second)
				b.wantOnes(1)
				b.after(time.Minute)
				b.wantApart(2)
				b.wantCommitted(4)
				if maxSnapshots == 0 {
					b.wantOnes(1, 3, 4)
				} else {
					b.wantOnes(1, 3, 3, 4) // the first of these was the probe
					b.wantTimes(tick, 3*tick, 3*tick, 4*tick)
				}
				if !reflect.DeepEqual(b.encoder.done(), b.sequence(4)) {
					t.Errorf("the encoder was told that %v are accepted", b.encoder.done())
				}
				put := b.apart.first()
				if put.Receiver != "main" || put.Status != 500 || put.Message != "no. 500" || put.Samples != 1 || !put.Newest.Equal(b.clock.began.Add(2*tick)) {
					t.Errorf("set apart is %+v", put)
				}
				b.stop()
			})
		})
	}
}

// A probe of the next snapshot is part of the protocol and the encoder's state that its batch has.
func TestProbeKeepsTheProtocol(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, upTo(2)...)
		b.settings.Protocol = promwire.V2
		b.limits.MaxSnapshots = 1
		b.receiver.behave(stumbles(1))
		b.run()
		b.after(6 * time.Minute)
		b.wantApart(1)
		b.wantOnes(2, 2)
		for _, m := range b.receiver.messages() {
			if m.Protocol != promwire.V2 {
				t.Errorf("sent in %s", m.Protocol)
			}
		}
		b.stop()
	})
}

// As long as nothing else is accepted either, the request stays where it is, until it has failed for too long.
func TestNothingIsSetApartInAnOutage(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, upTo(2)...)
		b.limits.MaxSnapshots = 1
		b.settings.QuarantineAfter = 6 * time.Hour
		b.receiver.behave(func(message) upload.Answer { return answers(upload.Retry, 503) })
		b.run()
		b.after(5 * time.Hour)
		b.wantApart()
		b.receiver.behave(nil)
		b.after(time.Minute)
		b.wantOnes(1, 2)
		b.wantApart()
		b.stop()
	})
}

func TestQuarantineAfter(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name  string
		after time.Duration
		wait  time.Duration
		want  []int
	}{
		{"not yet", 6 * time.Hour, 6*time.Hour - time.Minute, nil},
		{"after six hours", 6 * time.Hour, 6*time.Hour + 10*time.Minute, []int{1}},
		{"each after six hours", 6 * time.Hour, 12*time.Hour + 20*time.Minute, []int{1, 2}},
		{"less than the patience", time.Minute, 90 * time.Second, []int{1}},
		{"never", 0, 48 * time.Hour, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				b := newBench(t, upTo(3)...)
				b.settings.QuarantineAfter = tt.after
				b.receiver.behave(func(message) upload.Answer { return answers(upload.Retry, 503) })
				b.run()
				b.after(tt.wait)
				b.wantApart(tt.want...)
				b.wantGot()
				b.stop()
				b.wantCommitted(0)
			})
		})
	}
}

// The time that one request has failed is not that of the next.
func TestQuarantineAfterIsOfOneRequest(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, upTo(2)...)
		b.settings.QuarantineAfter = time.Hour
		b.receiver.behave(func(message) upload.Answer { return answers(upload.Retry, 503) })
		b.run()
		b.after(50 * time.Minute)
		b.receiver.behave(func(m message) upload.Answer {
			if m.numbers()[0] == 1 {
				return accepts()
			}
			return answers(upload.Retry, 503)
		})
		b.after(50 * time.Minute)
		b.wantOnes(1)
		b.wantApart()
		b.after(20 * time.Minute)
		b.wantApart(2)
		b.stop()
	})
}

// An outage of the network in between starts the measure of nothing but 5xx again.
func TestQuarantineAfterNothingBut5xx(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, upTo(2)...)
		b.settings.QuarantineAfter = 6 * time.Hour
		failing := func(message) upload.Answer { return answers(upload.Retry, 503) }
		b.receiver.behave(failing)
		b.run()
		b.after(5 * time.Hour)
		b.receiver.behave(func(message) upload.Answer { return upload.Answer{} })
		b.after(2 * time.Hour)
		b.receiver.behave(failing)
		b.after(5 * time.Hour)
		b.wantApart()
		b.after(time.Hour + 10*time.Minute)
		b.wantApart(1)
		b.stop()
	})
}

// A request that cannot be set apart stays the next one.
func TestQuarantineFails(t *testing.T) {
	t.Parallel()
	for name, maxSnapshots := range map[string]int{"the next request is of the same batch": 0, "the next request is of the next batch": 1} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				b := newBench(t, upTo(3)...)
				b.limits.MaxSnapshots = maxSnapshots
				full := errors.New("no space left on device")
				b.apart.errs = []error{full, full}
				b.receiver.behave(stumbles(1))
				b.run()
				b.after(12 * time.Minute)
				b.wantApart()
				b.wantErrors(stageQuarantine, 2)
				b.wantLogged(1, "no space left on device")
				b.wantCommitted(0)
				b.after(6 * time.Minute)
				b.wantApart(1)
				b.wantCommitted(3)
				if maxSnapshots == 0 {
					b.wantOnes(2, 3)
				} else {
					b.wantOnes(2, 2, 3)
				}
				b.stop()
			})
		})
	}
}

// The last snapshot of all has nothing to be compared with; it waits for the next one.
func TestNothingToProbeWith(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, numbered(1, 1))
		b.receiver.behave(stumbles(1))
		b.run()
		b.after(time.Hour)
		b.wantApart()
		b.queue.append(numbered(2, 1))
		b.after(6 * time.Minute)
		b.wantApart(1)
		b.wantOnes(2, 2)
		b.stop()
	})
}

// Without a quarantine a request is tried for ever.
func TestWithoutQuarantine(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, upTo(2)...)
		b.receiver.behave(stumbles(1))
		b.apart = nil
		b.run()
		b.after(24 * time.Hour)
		b.wantGot()
		b.stop()
	})
}
