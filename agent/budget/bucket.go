package budget

import "time"

const (
	burstShare = 8        // of the daily limit, 1/8 may be spent at once: three hours' worth
	dailyShare = 17. / 20 // of the daily limit is given out in 24 hours, so that a burst of 1/8 still fits and the slots' 1 % too

	// The bucket of a rate bounds nothing. It shows whether the link is busy all the time: then it gives out less than the limit and runs dry.
	rateShare  = 17. / 20
	ratePeriod = 10 * time.Minute
)

// bucket fills with time and is emptied by what is sent.
type bucket struct {
	rate     float64 // bytes per second
	capacity float64 // bytes
	level    float64 // bytes, below zero when more was taken than there was
	at       time.Duration
}

// newBucket makes a full bucket.
func newBucket(rate, capacity float64, now time.Duration) bucket {
	return bucket{rate: rate, capacity: capacity, level: capacity, at: now}
}

func (b *bucket) advance(now time.Duration) {
	b.fill(now - b.at)
	b.at = now
}

// fill adds what a stretch of time brings.
func (b *bucket) fill(elapsed time.Duration) {
	b.level = min(b.capacity, b.level+max(0, elapsed.Seconds())*b.rate)
}

func (b *bucket) take(bytes float64) { b.level -= bytes }

// wait returns how long it takes until bytes can be taken. For more than the capacity a full bucket is enough, and owes the rest.
func (b *bucket) wait(bytes float64) time.Duration {
	missing := min(bytes, b.capacity) - b.level
	if missing <= 0 {
		return 0
	}
	// Rounded up, so that the wait is not a little too short for ever.
	return time.Duration(missing/b.rate*float64(time.Second)) + time.Microsecond
}

// pressure returns by what factor to send less than fits, so that a backlog goes away although the link is busy: 1 while the bucket would be
// at least half full if the given bytes had not been taken, 2 while a quarter, and so on up to 16.
func (b *bucket) pressure(bytes float64) int {
	factor := 1
	for level := b.level + bytes; factor < mostPressure && level < b.capacity/2/float64(factor); {
		factor *= 2
	}
	return factor
}

const mostPressure = 16
