package budget

import "time"

const (
	day  = 24 * time.Hour
	slot = 15 * time.Minute // of a day 96, of which 1 % is lost by counting each until its end
)

// window is what was spent in the last 24 hours.
type window struct {
	slots   []spending // in order of time
	earlier int        // how many of the first hold only what was spent before the restart
	sum     int64      // bytes of all
}

// spending is what was spent within the slot that ends at a CLOCK_BOOTTIME, which is below zero for what was spent before this boot.
type spending struct {
	end   time.Duration
	bytes int64
}

// add counts bytes that are spent now.
func (w *window) add(now time.Duration, bytes int64) {
	w.sum += bytes
	if last := len(w.slots) - 1; last >= 0 && now <= w.slots[last].end {
		w.slots[last].bytes += bytes
		w.earlier = min(w.earlier, last) // a slot that began before the restart is as young as the youngest byte in it
		return
	}
	w.slots = append(w.slots, spending{now + slot, bytes})
}

// forget drops what was spent more than 24 hours ago.
func (w *window) forget(now time.Duration) {
	gone := 0
	for gone < len(w.slots) && w.slots[gone].end+day <= now {
		w.sum -= w.slots[gone].bytes
		gone++
	}
	w.slots = w.slots[gone:]
	w.earlier = max(0, w.earlier-gone)
}

// wait returns how long it takes until no more than limit bytes are left. Limit is at least 0.
func (w *window) wait(now time.Duration, limit int64) time.Duration {
	left := w.sum
	for _, s := range w.slots {
		if left <= limit {
			return 0
		}
		if left -= s.bytes; left <= limit {
			return s.end + day - now
		}
	}
	return 0
}

// sleep moves what was spent before the restart, which was one of the host, back by the time for which the host was down.
func (w *window) sleep(slept time.Duration) {
	for i := range w.slots[:w.earlier] {
		w.slots[i].end -= slept
	}
	w.earlier = 0
}
