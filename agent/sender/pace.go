package sender

import (
	"math"
	"time"
)

// pace is how much the link has lately carried. The zero pace is that of a link without bounds.
type pace struct {
	perSecond float64 // samples, 0 while nothing is known
}

// observe notes that a batch of so many samples took that long, waits and repeated attempts included. Half of the pace is that of the last
// batch, so that it follows a link that changes within a few batches, and a single pause does not matter much.
func (p *pace) observe(samples int, took time.Duration) {
	last := float64(samples) / max(took.Seconds(), 1e-6)
	if p.perSecond == 0 {
		p.perSecond = last
	}
	p.perSecond = (p.perSecond + last) / 2
}

// carries is how many samples fit the link in a time.
func (p *pace) carries(d time.Duration) int {
	if p.perSecond == 0 {
		return math.MaxInt
	}
	return int(min(p.perSecond*d.Seconds(), math.MaxInt32))
}
