package budget_test

import (
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/alecthomas/units"

	"github.com/latpush/latpush/agent/budget"
	"github.com/latpush/latpush/internal/latency"
)

const (
	day = 24 * time.Hour
	kib = 1 << 10
)

// host is a host in a synctest bubble. The bubble's clock is the true time.
type host struct {
	boots        byte
	booted       time.Time     // true time
	wrong        time.Duration // by how much the wall clock differs from the true time
	synchronized bool
}

func newHost() *host { return &host{boots: 1, booted: time.Now(), synchronized: true} }

func (h *host) Now() latency.Instant {
	now := time.Now()
	return latency.Instant{BootID: [16]byte{h.boots}, Boottime: now.Sub(h.booted), Wall: now.Add(h.wrong).Round(0).UTC()}
}

func (h *host) trusts() bool { return h.synchronized }

// reboot takes the host down for some time.
func (h *host) reboot(down time.Duration) {
	time.Sleep(down)
	h.boots++
	h.booted = time.Now()
}

func (h *host) budget(o budget.Options, from budget.State) *budget.Budget {
	return budget.New(o, h, h.trusts, from)
}

// spend waits and spends.
func spend(t *testing.T, b *budget.Budget, bytes int) {
	t.Helper()
	if err := b.Wait(t.Context(), bytes); err != nil {
		t.Fatal(err)
	}
	b.Spent(bytes)
}

// sending is what was sent at a moment of true time.
type sending struct {
	at    time.Time
	bytes int64
}

// mostInADay returns the most bytes in any 24 hours.
func mostInADay(all []sending) int64 {
	var most, sum int64
	first := 0
	for _, s := range all {
		sum += s.bytes
		for ; s.at.Sub(all[first].at) >= day; first++ {
			sum -= all[first].bytes
		}
		most = max(most, sum)
	}
	return most
}

// Random traffic of any kind, random restarts, reboots and clocks: a day never sees more than the limit.
func TestNoDaySeesMoreThanTheLimit(t *testing.T) {
	t.Parallel()
	for seed := range uint64(60) {
		synctest.Test(t, func(t *testing.T) {
			random := rand.New(rand.NewPCG(seed, 1))
			h := newHost()
			limit := int64(64*kib) << random.IntN(10)
			o := budget.Options{MaxBytesPerDay: units.Base2Bytes(limit)}
			if random.IntN(2) == 0 {
				o.MaxBytesPerSecond = units.Base2Bytes(1 + limit/86400*int64(1+random.IntN(50)))
			}
			b := h.budget(o, budget.State{})
			largest := []int64{limit, limit / 2, limit / 10, limit / 100}[random.IntN(4)]
			var all []sending
			for start := time.Now(); time.Since(start) < 8*day; {
				switch random.IntN(40) {
				case 0:
					time.Sleep(time.Duration(random.Int64N(int64(20 * time.Hour))))
				case 1, 2:
					b = h.budget(o, stored(t, b))
				case 3:
					state := stored(t, b)
					h.synchronized = random.IntN(2) == 0
					h.reboot(time.Duration(random.Int64N(int64(3*time.Hour) << random.IntN(4))))
					b = h.budget(o, state)
				case 4, 5:
					h.synchronized = !h.synchronized
				}
				// What the clock shows is right when the kernel says so, and anything otherwise.
				h.wrong = 0
				if !h.synchronized {
					h.wrong = time.Duration(random.Int64N(int64(1000*day)) - int64(900*day))
				}
				bytes := 1 + random.Int64N(largest)
				spend(t, b, int(bytes))
				all = append(all, sending{time.Now(), bytes})
				time.Sleep(time.Duration(random.Int64N(int64(time.Minute) << random.IntN(6))))
			}
			if most := mostInADay(all); most > limit {
				t.Errorf("seed %d: %d bytes in 24 hours, the limit is %d", seed, most, limit)
			}
		})
	}
}

// A budget that is never exceeded because nothing is sent would be easy. A busy link gets at least four fifths of it, and never has to wait for long.
func TestABusyLinkUsesTheDay(t *testing.T) {
	t.Parallel()
	for _, request := range []int{300, 3 * kib, 30 * kib, 200 * kib} {
		synctest.Test(t, func(t *testing.T) {
			const limit = 1 << 20
			b := newHost().budget(budget.Options{MaxBytesPerDay: limit}, budget.State{})
			var all []sending
			var longest time.Duration
			for start := time.Now(); time.Since(start) < 5*day; {
				before := time.Now()
				spend(t, b, request)
				longest = max(longest, time.Since(before))
				all = append(all, sending{time.Now(), int64(request)})
			}
			sum := int64(len(all) * request)
			if least := int64(5 * limit * 8 / 10); sum < least-int64(request) {
				t.Errorf("requests of %d bytes: %d bytes in 5 days, want at least %d", request, sum, least)
			}
			if most := mostInADay(all); most > limit {
				t.Errorf("requests of %d bytes: %d bytes in 24 hours", request, most)
			}
			if bound := max(30*time.Minute, time.Duration(float64(day)*float64(request)/(0.8*limit))); longest > bound {
				t.Errorf("requests of %d bytes: a wait of %v", request, longest)
			}
		})
	}
}

// After a burst, what is live goes on at the pace of the day, not when the day is over.
func TestABacklogDoesNotTakeTheDay(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newHost().budget(budget.Options{MaxBytesPerDay: 1 << 20}, budget.State{})
		for start := time.Now(); time.Since(start) < 2*time.Hour; {
			spend(t, b, 10*kib)
		}
		before := time.Now()
		spend(t, b, 10*kib)
		if waited := time.Since(before); waited > 20*time.Minute {
			t.Errorf("waited %v after a burst", waited)
		}
	})
}

func TestWait(t *testing.T) {
	t.Parallel()
	const limit = 960 * kib // a bucket of 120 KiB, a day of 816 KiB, 34 KiB an hour
	cancelled, cancel := context.WithCancelCause(context.Background())
	gone := errors.New("told to stop")
	cancel(gone)
	tests := []struct {
		name    string
		options budget.Options
		before  func(h *host, b *budget.Budget)
		ctx     context.Context
		bytes   int
		want    time.Duration
		err     error
	}{
		{name: "no limits", ctx: cancelled, bytes: 1 << 40},
		{name: "full bucket", options: budget.Options{MaxBytesPerDay: limit}, bytes: 120 * kib},
		{
			name: "empty bucket", options: budget.Options{MaxBytesPerDay: limit}, bytes: 34 * kib,
			before: func(_ *host, b *budget.Budget) { b.Spent(120 * kib) }, want: time.Hour,
		},
		{
			name: "larger than the bucket", options: budget.Options{MaxBytesPerDay: limit}, bytes: 500 * kib,
			before: func(_ *host, b *budget.Budget) { b.Spent(34 * kib) }, want: time.Hour,
		},
		{
			name: "larger than what is left of the day", options: budget.Options{MaxBytesPerDay: limit}, bytes: 500 * kib,
			before: func(_ *host, b *budget.Budget) { b.Spent(500 * kib) }, want: day + 15*time.Minute,
		},
		{name: "a whole day", options: budget.Options{MaxBytesPerDay: limit}, bytes: limit},
		{name: "more than a day", options: budget.Options{MaxBytesPerDay: limit}, bytes: limit + 1, err: budget.ErrTooLarge},
		{
			name: "stopped", options: budget.Options{MaxBytesPerDay: limit}, bytes: 1, ctx: cancelled,
			before: func(_ *host, b *budget.Budget) { b.Spent(limit) }, err: gone,
		},
		{name: "rate, idle link", options: budget.Options{MaxBytesPerSecond: kib}, bytes: 100 * kib},
		{
			name: "rate, busy link", options: budget.Options{MaxBytesPerSecond: kib}, bytes: 1, want: 30 * time.Second,
			before: func(_ *host, b *budget.Budget) { _ = b.Wait(context.Background(), 30*kib); b.Spent(30 * kib) },
		},
		{
			name: "rate, from the start of the attempt", options: budget.Options{MaxBytesPerSecond: kib}, bytes: 1, want: 10 * time.Second,
			before: func(_ *host, b *budget.Budget) {
				_ = b.Wait(context.Background(), 30*kib)
				time.Sleep(20 * time.Second)
				b.Spent(30 * kib)
			},
		},
		{
			name: "rate, attempts that were repeated", options: budget.Options{MaxBytesPerSecond: kib}, bytes: 1, want: 90 * time.Second,
			before: func(_ *host, b *budget.Budget) {
				_ = b.Wait(context.Background(), 30*kib)
				for range 3 {
					b.Spent(30 * kib)
				}
			},
		},
		{
			name: "both", options: budget.Options{MaxBytesPerDay: limit, MaxBytesPerSecond: 1}, bytes: 1, want: 2 * kib * time.Second,
			before: func(_ *host, b *budget.Budget) { _ = b.Wait(context.Background(), 2*kib); b.Spent(2 * kib) },
		},
	}
	for _, tt := range tests {
		synctest.Test(t, func(t *testing.T) {
			h := newHost()
			b := h.budget(tt.options, budget.State{})
			if tt.before != nil {
				tt.before(h, b)
			}
			ctx := tt.ctx
			if ctx == nil {
				ctx = t.Context()
			}
			start := time.Now()
			err := b.Wait(ctx, tt.bytes)
			if !errors.Is(err, tt.err) {
				t.Errorf("%s: error %v, want %v", tt.name, err, tt.err)
			}
			if waited := time.Since(start); (waited - tt.want).Abs() > time.Second {
				t.Errorf("%s: waited %v, want %v", tt.name, waited, tt.want)
			}
		})
	}
}

func TestStride(t *testing.T) {
	t.Parallel()
	const snapshot = 10 * kib // at 15 s 57,600 KiB a day
	tests := []struct {
		name    string
		options budget.Options
		cost    int
		spent   int
		want    int
	}{
		{name: "no limits", cost: 1 << 40, want: 1},
		{name: "nothing is known", options: budget.Options{MaxBytesPerDay: 1 << 20}, want: 1},
		{name: "plenty", options: budget.Options{MaxBytesPerDay: 100 << 20}, cost: snapshot, want: 1},
		{name: "day", options: budget.Options{MaxBytesPerDay: 20 << 20}, cost: snapshot, want: 4},
		{name: "rate", options: budget.Options{MaxBytesPerSecond: 100}, cost: snapshot, want: 10},
		{name: "both", options: budget.Options{MaxBytesPerDay: 20 << 20, MaxBytesPerSecond: 100}, cost: snapshot, want: 10},
		{name: "busy", options: budget.Options{MaxBytesPerDay: 20 << 20}, cost: snapshot, spent: 1500 * kib, want: 8},
		{name: "very busy", options: budget.Options{MaxBytesPerDay: 20 << 20}, cost: snapshot, spent: 5000 * kib, want: 4 * 16},
		{name: "a snapshot is more than the bucket", options: budget.Options{MaxBytesPerDay: 64 * kib}, cost: snapshot, want: 1200},
		{name: "a snapshot is more than many days", options: budget.Options{MaxBytesPerDay: 64 * kib}, cost: 1 << 50, want: 1 << 20},
	}
	for _, tt := range tests {
		synctest.Test(t, func(t *testing.T) {
			b := newHost().budget(tt.options, budget.State{})
			b.Spent(tt.cost)
			b.Sent(1)
			b.Spent(tt.spent)
			if got := b.Stride(15 * time.Second); got != tt.want {
				t.Errorf("%s: stride %d, want %d", tt.name, got, tt.want)
			}
		})
	}
}

// A host with a backlog and a short budget: the stride lets it catch up, and settles on what is live.
func TestStrideCatchesUp(t *testing.T) {
	t.Parallel()
	const cost, interval = 10 * kib, 15 * time.Second
	for _, o := range []budget.Options{{MaxBytesPerDay: 10 << 20}, {MaxBytesPerSecond: 100}} {
		synctest.Test(t, func(t *testing.T) {
			h := newHost()
			b := h.budget(o, budget.State{})
			// The queue starts two days behind and sends every n-th snapshot as fast as it may.
			behind := time.Now().Add(-2 * day)
			strides := []int{}
			for start := time.Now(); time.Since(start) < 4*day; {
				if behind.After(time.Now()) {
					time.Sleep(time.Until(behind))
				}
				spend(t, b, cost)
				b.Sent(1)
				n := b.Stride(interval)
				strides = append(strides, n)
				behind = behind.Add(time.Duration(n) * interval)
			}
			if late := time.Since(behind); late > time.Hour {
				t.Errorf("%+v: still %v behind after four days", o, late)
			}
			live := b.Stride(interval)
			if top := slices.Max(strides); top < 2*live {
				t.Errorf("%+v: stride %d at most, %d when nothing waits", o, top, live)
			}
			if least := int(float64(cost) * day.Seconds() / interval.Seconds() / float64(10<<20)); live < least || live > 2*least {
				t.Errorf("%+v: stride %d when nothing waits, %d would just fit", o, live, least)
			}
		})
	}
}
