package budget

import (
	"encoding/json"
	"fmt"
	"math"
	"time"

	"github.com/latpush/latpush/internal/latency"
)

// State is what a budget has to find again after a restart, to be kept as JSON of less than 3 KiB. A State from a damaged or hostile file can
// make a budget stingy, never generous beyond an empty State.
type State struct {
	BootID   []byte        `json:"boot,omitempty"`
	Boottime time.Duration `json:"boottime,omitempty"` // when the state was taken, in nanoseconds since that boot
	Wall     *time.Time    `json:"wall,omitempty"`     // the same on the wall clock, nil unless that was synchronised
	Level    int64         `json:"level,omitempty"`    // of the daily bucket, in bytes
	Snapshot int64         `json:"snapshot,omitempty"` // average cost, in bytes
	Spent    []Spending    `json:"spent,omitempty"`    // oldest first
}

// Spending is what was spent within one slot. In JSON it is a pair of numbers.
type Spending struct {
	Age   time.Duration // from the end of the slot to the moment of the state, below zero for the slot that had not ended; whole seconds
	Bytes int64
}

// MarshalJSON writes the pair [seconds, bytes].
func (s Spending) MarshalJSON() ([]byte, error) {
	return json.Marshal([2]int64{int64(s.Age / time.Second), s.Bytes})
}

// UnmarshalJSON reads the pair [seconds, bytes].
func (s *Spending) UnmarshalJSON(text []byte) error {
	var pair []int64
	if err := json.Unmarshal(text, &pair); err != nil {
		return fmt.Errorf("read spending: %w", err)
	}
	if len(pair) != 2 {
		return fmt.Errorf("read spending: %d numbers, want seconds and bytes", len(pair))
	}
	// No slot ends later than that after the state was taken, and none counts that ended longer before it.
	const youngest, oldest = -int64(slot / time.Second), int64(2 * day / time.Second)
	s.Age, s.Bytes = time.Duration(min(max(pair[0], youngest), oldest))*time.Second, pair[1]
	return nil
}

// State returns what New needs to go on from here.
func (b *Budget) State() State {
	if b.unlimited() {
		return State{}
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	now := b.advance()
	s := State{BootID: now.BootID[:], Boottime: now.Boottime, Level: int64(math.Floor(b.daily.level)), Snapshot: int64(b.average.bytes)}
	if b.synchronized() {
		s.Wall = &now.Wall
	}
	for _, spent := range b.day.slots {
		// Rounded down, for what is younger counts longer.
		age := math.Floor((now.Boottime - spent.end).Seconds())
		s.Spent = append(s.Spent, Spending{Age: time.Duration(age) * time.Second, Bytes: spent.bytes})
	}
	return s
}

// restore goes on from a state. How much time has passed since is known within a boot. Otherwise it is at least the time since this boot began.
func (b *Budget) restore(from State, now latency.Instant) {
	if b.unlimited() || len(from.BootID) == 0 {
		return
	}
	b.average.bytes = float64(min(max(0, from.Snapshot), maxRestored))
	taken := time.Duration(0)
	if string(from.BootID) == string(now.BootID[:]) {
		taken = min(max(from.Boottime, 0), now.Boottime)
	} else if from.Wall != nil {
		b.downtime = downtime{from: *from.Wall, pending: true}
	}
	if b.options.MaxBytesPerDay == 0 {
		return
	}
	for _, s := range from.Spent {
		end := taken - s.Age
		if last := len(b.day.slots) - 1; last >= 0 {
			end = max(end, b.day.slots[last].end)
		}
		bytes := min(max(s.Bytes, 0), maxRestored)
		b.day.slots = append(b.day.slots, spending{end, bytes})
		b.day.sum += bytes
	}
	b.day.earlier = len(b.day.slots)
	b.daily.level, b.daily.at = min(max(float64(from.Level), -float64(b.options.MaxBytesPerDay)), b.daily.capacity), taken
	b.daily.advance(now.Boottime)
}

// maxRestored bounds the numbers of bytes in a state, so that their sums do not overflow.
const maxRestored = 1 << 50

// downtime is the time between the state of an earlier boot and the beginning of this one, which is not known until the clock is.
type downtime struct {
	from    time.Time // wall clock of the state
	pending bool
}

// known returns the time once, as soon as the kernel says that the clock is synchronised.
func (d *downtime) known(now latency.Instant, synchronized func() bool) (time.Duration, bool) {
	if !d.pending || !synchronized() {
		return 0, false
	}
	d.pending = false
	return max(0, now.Wall.Add(-now.Boottime).Sub(d.from)), true
}
