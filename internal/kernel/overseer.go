package kernel

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// overseer measures now and then what each source costs, detaches those that take more than they may, and attaches them again later.
//
// The kernel measures programs only while its statistics are switched on, which costs something itself: see timing. That takes CAP_SYS_ADMIN, or an
// operator who leaves them on. Without them nothing is known, and nothing is detached.
type overseer struct {
	log        *slog.Logger
	timing     timing
	statistics func() (io.Closer, error) // switches the kernel's statistics on until it is closed
	measuring  sync.Mutex                // one measurement at a time

	lock    sync.Locker // guards the sources and the fields below
	sources func() []metered
	unknown error // why nothing can be measured
}

// metered is what the overseer needs of a source. *loadedSource is one.
type metered interface {
	name() string
	costs() *account
	begin() (attached bool)               // notes what the programs have taken until now, and says whether there are any
	used() (u usage, attached bool)       // the same of what they took since then
	detach(why error) error               // takes the programs out of the kernel; what they have counted stays
	attachAgain() (hooks string, _ error) // loads and attaches them anew, with nothing under way
}

// unknownInterval is how often the statistics are tried when they could not be switched on.
const unknownInterval = 10 * time.Minute

// run goes on until ctx ends.
func (o *overseer) run(ctx context.Context) {
	for {
		sleep(ctx, o.wait(time.Now()))
		if ctx.Err() != nil {
			return
		}
		o.attachDue(time.Now())
		o.measure(ctx, o.timing.window)
	}
}

// wait returns how long it is until something is to be done. Measurements keep no rhythm, so that they do not meet the same part of one each time.
func (o *overseer) wait(now time.Time) time.Duration {
	o.lock.Lock()
	defer o.lock.Unlock()
	interval := o.timing.interval
	if o.unknown != nil {
		interval = unknownInterval
	}
	again := time.Duration(-1)
	for _, s := range o.sources() {
		switch a := s.costs(); {
		case a.isDetached():
			if left := max(a.again.Sub(now), 0); again < 0 || left < again {
				again = left
			}
		case a.hurries():
			interval = min(interval, o.timing.soon)
		}
	}
	jittered := interval/2 + rand.N(interval)
	if again >= 0 {
		return min(jittered, again)
	}
	return jittered
}

// attachDue attaches the sources again whose pause is over.
func (o *overseer) attachDue(now time.Time) {
	o.lock.Lock()
	defer o.lock.Unlock()
	for _, s := range o.sources() {
		if s.costs().due(now) {
			o.attach(s, now)
		}
	}
}

// attach attaches a detached source again. The caller holds the lock.
func (o *overseer) attach(s metered, now time.Time) {
	hooks, err := s.attachAgain()
	if err != nil {
		o.log.Error("source cannot be attached again", "name", s.name(), "again_in", s.costs().postpone(now), "err", err)
		return
	}
	s.costs().attach(now)
	o.log.Info("source is attached again", "name", s.name(), "hooks", hooks)
}

// rebound gives a source another bound. One that was detached for the old one is attached at once. The caller holds the lock.
func (o *overseer) rebound(s metered, bound Cores) {
	if s.costs().rebound(bound) {
		o.attach(s, time.Now())
	}
}

// measure measures all sources for a time, and detaches those that take too much. However late it is woken, the statistics are on from the first
// look at them to the last.
func (o *overseer) measure(ctx context.Context, length time.Duration) {
	o.measuring.Lock()
	defer o.measuring.Unlock()
	if !o.anyAttached() {
		return
	}
	on, err := o.statistics()
	o.know(err)
	if err != nil {
		return
	}
	defer func() {
		if err := on.Close(); err != nil {
			o.log.Warn("kernel's statistics of programs are not switched off", "err", err)
		}
	}()
	start := o.begin()
	sleep(ctx, length)
	if ctx.Err() == nil {
		o.end(start)
	}
}

func (o *overseer) anyAttached() bool {
	o.lock.Lock()
	defer o.lock.Unlock()
	return slices.ContainsFunc(o.sources(), func(s metered) bool { return !s.costs().isDetached() && s.begin() })
}

// begin begins a measurement.
func (o *overseer) begin() (start time.Time) {
	o.lock.Lock()
	defer o.lock.Unlock()
	start = time.Now()
	for _, s := range o.sources() {
		s.begin()
	}
	return start
}

// end ends a measurement.
func (o *overseer) end(start time.Time) {
	o.lock.Lock()
	defer o.lock.Unlock()
	now := time.Now()
	for _, s := range o.sources() {
		if u, attached := s.used(); attached {
			o.judge(s, now, now.Sub(start), u)
		}
	}
}

// know takes in whether the statistics can be switched on, and says so when that changes.
func (o *overseer) know(err error) {
	o.lock.Lock()
	defer o.lock.Unlock()
	switch {
	case err != nil && o.unknown == nil && slices.ContainsFunc(o.sources(), func(s metered) bool { return s.costs().bound > 0 }):
		o.log.Warn("cost of sources is not known, so max_cpu does not bound them", "err", err)
	case err != nil && o.unknown == nil:
		o.log.Info("cost of sources is not known", "err", err)
	case err == nil && o.unknown != nil:
		o.log.Info("cost of sources is known")
	}
	o.unknown = err
}

// judge takes in a measurement. The caller holds the lock.
func (o *overseer) judge(s metered, now time.Time, length time.Duration, u usage) {
	why := s.costs().observe(now, length, u)
	if why == nil {
		return
	}
	pause := s.costs().detach(now)
	if err := s.detach(fmt.Errorf("%w (it is attached again after %v)", why, pause)); err != nil {
		o.log.Error("programs of a detached source are not removed completely", "name", s.name(), "err", err)
	}
	o.log.Warn("source is detached, it takes too much CPU time", "name", s.name(), "err", why, "again_in", pause)
}

// enableStatistics makes the kernel measure programs until what it returns is closed (5.8).
func enableStatistics() (io.Closer, error) {
	on, err := ebpf.EnableStats(unix.BPF_STATS_RUN_TIME)
	if err == nil {
		return on, nil
	}
	setting, readErr := os.ReadFile("/proc/sys/kernel/bpf_stats_enabled")
	if readErr == nil && strings.TrimSpace(string(setting)) == "1" {
		return io.NopCloser(nil), nil
	}
	if errors.Is(err, unix.EPERM) {
		return nil, fmt.Errorf("switch on the kernel's statistics of programs: %w (grant CAP_SYS_ADMIN, or leave them on: sysctl kernel.bpf_stats_enabled=1)", err)
	}
	return nil, fmt.Errorf("switch on the kernel's statistics of programs: %w", err)
}
