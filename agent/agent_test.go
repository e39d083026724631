package agent

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/latpush/latpush/internal/latency"
	"github.com/latpush/latpush/internal/upload"
)

func TestTicksOnTheGridOfTheHost(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newStand(t)
		s.run()
		s.at(s.tickAt(0) - 1)
		if n := len(s.rooms.appended()); n != 0 {
			t.Fatalf("%d snapshots before the first deadline", n)
		}
		s.at(s.tickAt(3))
		var taken []time.Duration
		for _, snapshot := range s.rooms.appended() {
			taken = append(taken, snapshot.Taken.Boottime)
		}
		if want := []time.Duration{s.tickAt(0), s.tickAt(1), s.tickAt(2), s.tickAt(3)}; !slices.Equal(taken, want) {
			t.Errorf("snapshots taken at %v, want %v", taken, want)
		}
		if n := s.rooms.count("commit main"); n != 4 {
			t.Errorf("%d snapshots delivered, want 4", n)
		}
		if n := s.value("latpush_ticks_total"); n != 4 {
			t.Errorf("latpush_ticks_total is %v, want 4", n)
		}
		s.end()
		if n := s.value("latpush_ticks_skipped_total"); n != 0 {
			t.Errorf("latpush_ticks_skipped_total is %v, want 0", n)
		}
	})
}

func TestSnapshotHoldsHistogramsAndOwnMetrics(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newStand(t)
		s.run()
		s.at(s.tickAt(0))
		snapshot := s.rooms.appended()[0]
		if !slices.IsSortedFunc(snapshot.Families, func(a, b latency.Family) int { return strings.Compare(a.Name, b.Name) }) {
			t.Error("families are not sorted by name")
		}
		byName := make(map[string]latency.Family)
		for _, family := range snapshot.Families {
			byName[family.Name] = family
		}
		histogram := byName["nfs_latency_seconds"]
		if histogram.Kind != latency.Histogram || len(histogram.Series) != 1 || histogram.Series[0].Start != time.Second || histogram.Series[0].Counts[0] != 1 {
			t.Errorf("histogram is %+v, want one event since the source was loaded", histogram)
		}
		for name, want := range map[string]float64{
			"latpush_ticks_total": 1, "latpush_source_up": 1, "latpush_hook_attached": 1, "latpush_events_lost_total": 2,
			"latpush_build_info": 1, "latpush_config_last_reload_successful": 1,
		} {
			family := byName[name]
			if len(family.Series) != 1 || family.Series[0].Value != want {
				t.Errorf("%s is %+v, want one series with value %v", name, family, want)
			}
		}
		s.end()
	})
}

func TestSlowTickSkipsTheDeadlinesItMissed(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newStand(t)
		s.run()
		s.at(s.tickAt(0))
		s.rooms.set(func() { s.rooms.readTime = 2*testInterval + testInterval/2 })
		s.at(s.tickAt(4))
		var taken []time.Duration
		for _, snapshot := range s.rooms.appended() {
			taken = append(taken, snapshot.Taken.Boottime)
		}
		// The reading that begins at deadline 1 lasts beyond 2 and 3.
		if want := []time.Duration{s.tickAt(0), s.tickAt(1), s.tickAt(4)}; !slices.Equal(taken, want) {
			t.Errorf("snapshots taken at %v, want %v", taken, want)
		}
		if n := s.value("latpush_ticks_skipped_total"); n != 2 {
			t.Errorf("latpush_ticks_skipped_total is %v, want 2", n)
		}
		s.end()
	})
}

func TestTickAfterSuspend(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name      string
		suspended time.Duration // right after the first tick; the timer of the second one fires as late as that
		skipped   float64
		ticked    bool // when the timer fires
	}{
		{name: "a little late", suspended: 3 * time.Second, ticked: true},
		{name: "too late for its deadline", suspended: 6 * time.Second, skipped: 1},
		{name: "hours, a little after a deadline", suspended: 8*time.Hour + time.Second, skipped: 2880, ticked: true},
		{name: "hours, just before a deadline", suspended: 8*time.Hour + 9*time.Second, skipped: 2881},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				s := newStand(t)
				s.run()
				s.at(s.tickAt(0))
				s.clock.suspend(tt.suspended)
				time.Sleep(testInterval)
				synctest.Wait()
				if ticked := len(s.rooms.appended()) == 2; ticked != tt.ticked {
					t.Errorf("%d snapshots when the timer fires, ticked %v, want %v", len(s.rooms.appended()), ticked, tt.ticked)
				}
				if n := s.value("latpush_ticks_skipped_total"); n != tt.skipped {
					t.Errorf("latpush_ticks_skipped_total is %v, want %v", n, tt.skipped)
				}
				// Either way the next one is on the grid.
				before := len(s.rooms.appended())
				s.at(s.agent.schedule.After(s.clock.Now().Boottime))
				if after := s.rooms.appended(); len(after) != before+1 || (after[before].Taken.Boottime-s.tickAt(0))%testInterval != 0 {
					t.Errorf("the next snapshot is not on the grid: %v", after[len(after)-1].Taken.Boottime)
				}
				s.end()
			})
		})
	}
}

func TestErrorsOfATickAreLoggedOncePerChange(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newStand(t)
		s.run()
		s.rooms.set(func() { s.rooms.appendErr, s.rooms.readErr = errTest, errors.New("map is gone") })
		s.at(s.tickAt(2))
		s.rooms.set(func() { s.rooms.appendErr = errors.New("no space left on device") })
		s.at(s.tickAt(4))
		s.rooms.set(func() { s.rooms.appendErr, s.rooms.readErr = nil, nil })
		s.at(s.tickAt(5))
		s.end()
		s.wantLogged(1, "input/output error")
		s.wantLogged(1, "no space left on device")
		s.wantLogged(1, "map is gone")
		s.wantLogged(2, "tick works again")
		if n := s.value("latpush_tick_errors_total", "append"); n != 5 {
			t.Errorf("%v errors of append counted, want 5", n)
		}
		if n := s.value("latpush_tick_errors_total", "read"); n != 5 {
			t.Errorf("%v errors of read counted, want 5", n)
		}
		if n := len(s.rooms.appended()); n != 2 { // at deadline 5 and at the end
			t.Errorf("%d snapshots in the spool, want 2", n)
		}
	})
}

// The backlog of a fleet that is switched on in one moment must not arrive in one moment.
func TestBacklogWaitsForTheFirstTick(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newStand(t)
		s.rooms.deliver = func(context.Context, string) (upload.Answer, error) { return upload.Answer{}, errTest }
		s.run()
		s.end() // leaves its last snapshot in the spool

		again := newStand(t)
		again.loaded.Spool = s.loaded.Spool
		again.run()
		again.at(again.tickAt(0) - 1)
		if n := again.rooms.count("deliver main"); n != 0 {
			t.Errorf("%d requests before the first tick", n)
		}
		again.at(again.tickAt(0))
		if n := again.rooms.count("deliver main"); n == 0 {
			t.Error("no request after the first tick")
		}
		again.end()
	})
}

func TestStopInOrder(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newStand(t)
		s.run()
		s.at(s.tickAt(1))
		s.rooms.note("stop")
		s.end()
		want := []string{"stop", "read", "append", "close kernel", "deliver main", "commit main", "close spool"}
		// The sender delivers beside the agent, so its events may come before the programs are removed.
		got := s.rooms.since("stop")
		slices.SortStableFunc(got, func(a, b string) int { return slices.Index(want, a) - slices.Index(want, b) })
		if !slices.Equal(got, want) {
			t.Errorf("events %v, want %v", got, want)
		}
		events := s.rooms.since("stop")
		for _, order := range [][2]string{
			{"read", "append"},
			{"append", "close kernel"},
			{"append", "deliver main"},
			{"deliver main", "commit main"},
			{"commit main", "close spool"},
			{"close kernel", "close spool"},
		} {
			if slices.Index(events, order[0]) > slices.Index(events, order[1]) {
				t.Errorf("%q comes before %q in %v", order[1], order[0], events)
			}
		}
		s.wantLogged(0, "snapshots are left")
	})
}

func TestStopBeforeTheFirstTickDeliversASnapshot(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newStand(t)
		s.run()
		s.end()
		if s.rooms.count("append") != 1 || s.rooms.count("commit main") != 1 {
			t.Errorf("events %v, want one snapshot that is delivered", s.rooms.events)
		}
	})
}

// A receiver that hangs takes shutdown_timeout and no longer, and does not keep others from getting their last snapshot, nor the programs attached.
func TestStopIsBounded(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newStand(t)
		s.loaded.RemoteWrite = append(s.loaded.RemoteWrite, receiverNamed("other"))
		s.rooms.deliver = func(ctx context.Context, receiver string) (upload.Answer, error) {
			if receiver == "main" {
				<-ctx.Done()
				return upload.Answer{}, ctx.Err()
			}
			return upload.Answer{Verdict: upload.Accepted}, nil
		}
		s.run()
		s.at(s.tickAt(1))
		begin := time.Now()
		s.end()
		if took := time.Since(begin); took != 7*time.Second {
			t.Errorf("stopping took %v, want the 7s of shutdown_timeout", took)
		}
		if n := s.rooms.count("commit other"); n != 3 {
			t.Errorf("%d snapshots delivered to the other receiver, want 3", n)
		}
		if n := s.rooms.count("commit main"); n != 0 {
			t.Errorf("%d snapshots committed for the receiver that hangs", n)
		}
		if events := s.rooms.since("close kernel"); events[len(events)-1] != "close spool" {
			t.Errorf("the last events are %v, want the spool closed at the end", events)
		}
		s.wantLogged(1, "snapshots are left in the spool")
	})
}

// Nothing may be attached when anything else is wrong, and what was opened is closed again.
func TestNewOpensTheKernelLast(t *testing.T) {
	t.Parallel()
	tests := []struct {
		room   string
		events []string
	}{
		{room: "spool", events: []string{"open spool"}},
		{room: "client", events: []string{"open spool", "close spool"}},
		{room: "kernel", events: []string{"open spool", "new client main", "open kernel", "close spool"}},
	}
	for _, tt := range tests {
		t.Run(tt.room, func(t *testing.T) {
			t.Parallel()
			s := newStand(t)
			s.rooms.openErr[tt.room] = errTest
			if err := s.open(); !errors.Is(err, errTest) {
				t.Errorf("got %v, want the room's error", err)
			}
			if !slices.Equal(s.rooms.events, tt.events) {
				t.Errorf("events %v, want %v", s.rooms.events, tt.events)
			}
		})
	}
	t.Run("configuration", func(t *testing.T) {
		t.Parallel()
		s := newStand(t)
		s.loadErr = errTest
		if err := s.open(); !errors.Is(err, errTest) || len(s.rooms.events) != 0 {
			t.Errorf("got %v after %v, want the loading error and nothing opened", err, s.rooms.events)
		}
	})
}
