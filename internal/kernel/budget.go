package kernel

import (
	"fmt"
	"slices"
	"time"
)

// timing is when it is measured what sources cost, and what follows from it.
type timing struct {
	window   time.Duration // the length of a measurement
	interval time.Duration // from one measurement to the next, on average
	soon     time.Duration // the same while a source takes more than its bound
	over     time.Duration // a source that takes more than its bound on average of this time is detached
	pause    time.Duration // how long it is detached the first time; twice as long each time after that
	longest  time.Duration // at most
	forgiven time.Duration // a source that was attached for so long is detached as if it was the first time
}

// defaultTiming makes twelve measurements a minute. Each takes half a millisecond of CPU time, for the kernel to patch its statistics in and out,
// and makes programs that take 100 ns take some 60 ns more for a fiftieth of the time.
func defaultTiming() timing {
	return timing{
		window: 100 * time.Millisecond, interval: 5 * time.Second, soon: time.Second, over: time.Minute,
		pause: time.Minute, longest: time.Hour, forgiven: time.Hour,
	}
}

// farOver times its bound is what a source must not take in several measurements in a row: it is not waited for the average then. Nor is one that
// happened to meet a burst enough to say that a source is over its bound.
const (
	farOver = 10
	several = 3
)

// usage is what programs took of the CPU.
type usage struct {
	time time.Duration
	runs uint64
}

// account is what a source costs, and whether it may. Guarded by Kernel.mu.
type account struct {
	timing timing
	bound  Cores // 0: none

	cpu      float64       // seconds since the source was loaded, as the measurements stand for all the time since then
	share    Cores         // in the last measurement
	perEvent time.Duration // of a run of a program in the last measurement in which one ran

	measured time.Time // until when the measurements stand for all the time
	attached time.Time // since when the programs are attached
	readings []reading // those that the average is made of
	urgent   int       // measurements in a row that were far over the bound

	pause    time.Duration // the last one, 0 if there was none
	detached time.Time     // since when; zero if the programs are attached
	again    time.Time     // when they are attached again
	away     time.Duration // how long they were detached before
}

// reading is a measurement and the time that it stands for: since the one before it.
type reading struct {
	end    time.Time
	stands time.Duration
	share  Cores
}

func newAccount(t timing, bound Cores, now time.Time) account {
	return account{timing: t, bound: bound, measured: now, attached: now}
}

// observe takes in a measurement of some length that ends now. The error says that the source has taken too much, and must be detached.
func (a *account) observe(now time.Time, length time.Duration, used usage) error {
	a.share = Cores(used.time.Seconds() / length.Seconds())
	if used.runs > 0 {
		a.perEvent = used.time / time.Duration(used.runs)
	}
	stands := now.Sub(a.measured)
	a.measured = now
	a.cpu += float64(a.share) * stands.Seconds()
	a.readings = slices.DeleteFunc(a.readings, func(r reading) bool { return now.Sub(r.end) >= a.timing.over })
	a.readings = append(a.readings, reading{end: now, stands: stands, share: a.share})
	switch {
	case a.bound == 0:
		return nil
	case a.share > farOver*a.bound:
		a.urgent++
	default:
		a.urgent = 0
	}
	if a.urgent >= several {
		return fmt.Errorf("the programs took %v of a CPU, and max_cpu is %v", a.share, a.bound)
	}
	if average, over := a.average(); average > a.bound && over >= several && now.Sub(a.attached) >= a.timing.over {
		return fmt.Errorf("the programs took %v of a CPU for %v, and max_cpu is %v", average, a.timing.over, a.bound)
	}
	return nil
}

// average returns what the programs took on average of the last minute, or whatever timing says, and how many measurements were over the bound.
func (a *account) average() (average Cores, over int) {
	var sum, stands float64
	for _, r := range a.readings {
		sum += float64(r.share) * r.stands.Seconds()
		stands += r.stands.Seconds()
		if r.share > a.bound {
			over++
		}
	}
	return Cores(sum / stands), over
}

// detach notes that the programs are not attached from now on, and returns for how long.
func (a *account) detach(now time.Time) time.Duration {
	if now.Sub(a.attached) >= a.timing.forgiven {
		a.pause = 0
	}
	a.pause = min(max(2*a.pause, a.timing.pause), a.timing.longest)
	a.detached, a.again = now, now.Add(a.pause)
	a.share, a.urgent, a.readings = 0, 0, nil
	return a.pause
}

// attach notes that the programs are attached again from now on.
func (a *account) attach(now time.Time) {
	a.away = a.detachedFor(now)
	a.detached, a.attached, a.measured = time.Time{}, now, now
}

// postpone notes that attaching the programs again did not succeed, and returns when it is tried next.
func (a *account) postpone(now time.Time) time.Duration {
	a.pause = min(2*a.pause, a.timing.longest)
	a.again = now.Add(a.pause)
	return a.pause
}

// rebound changes the bound, with which everything begins again. It returns whether the programs must be attached for it.
func (a *account) rebound(bound Cores) bool {
	if bound == a.bound {
		return false
	}
	a.bound, a.pause, a.urgent, a.readings = bound, 0, 0, nil
	return a.isDetached()
}

// hurries returns whether the next measurement must come soon.
func (a *account) hurries() bool { return a.bound > 0 && a.share > a.bound }

func (a *account) isDetached() bool { return !a.detached.IsZero() }

// due returns whether detached programs are to be attached again.
func (a *account) due(now time.Time) bool { return a.isDetached() && !now.Before(a.again) }

// detachedFor returns how long the programs have been detached, all times together.
func (a *account) detachedFor(now time.Time) time.Duration {
	if !a.isDetached() {
		return a.away
	}
	return a.away + now.Sub(a.detached)
}
