package budget

import (
	"math"
	"time"
)

const (
	// usable is what part of a limit Stride plans with. The rest is for attempts that are repeated, metadata, and for catching up.
	usable = 0.75
	// mostStride keeps the product with an interval within a duration.
	mostStride = 1 << 20
	// weight of one snapshot in the average cost of a snapshot.
	weight = 0.1
)

// Stride returns n when every n-th of the snapshots that are taken once an interval fits the limits: 1 without limits and as long as nothing
// is known of a snapshot's cost. It is larger while a backlog keeps the link busy, so that the backlog gets shorter.
func (b *Budget) Stride(interval time.Duration) int {
	if b.unlimited() || interval <= 0 {
		return 1
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.advance()
	cost := b.average.bytes
	needed, pressure := 1., 1
	if limit := float64(b.options.MaxBytesPerDay); limit > 0 {
		needed = max(needed, cost*float64(day)/float64(interval)/(usable*limit))
		pressure = max(pressure, b.daily.pressure(cost))
	}
	if limit := float64(b.options.MaxBytesPerSecond); limit > 0 {
		needed = max(needed, cost/interval.Seconds()/(usable*limit))
		pressure = max(pressure, b.rate.pressure(cost))
	}
	return int(min(math.Ceil(needed)*float64(pressure), mostStride))
}

// average is the cost of a snapshot: an exponentially weighted moving average.
type average struct {
	bytes float64 // 0 as long as nothing is known
	spent int64   // bytes since the last batch ended
}

// sent ends a batch of so many snapshots.
func (a *average) sent(snapshots int) {
	if a.spent == 0 {
		return
	}
	each := float64(a.spent) / float64(snapshots)
	a.spent = 0
	if a.bytes == 0 {
		a.bytes = each
		return
	}
	// A batch of many snapshots says more than a batch of one.
	a.bytes += (each - a.bytes) * (1 - math.Pow(1-weight, float64(snapshots)))
}
