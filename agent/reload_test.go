package agent

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/common/model"

	"github.com/latpush/latpush/agent/config"
	"github.com/latpush/latpush/internal/kernel"
)

// events returns what a reload asked of the rooms, beside deliveries, which go on all the time.
func (s *stand) events() []string {
	return slices.DeleteFunc(s.rooms.since("reload"), func(e string) bool {
		return e == "reload" || strings.HasPrefix(e, "deliver") || strings.HasPrefix(e, "commit")
	})
}

func TestReloadTakesOverWhatChanged(t *testing.T) {
	t.Parallel()
	renamed := receiverNamed("other")
	slower := receiverNamed("main")
	slower.RemoteTimeout = model.Duration(time.Minute)
	tests := []struct {
		name   string
		change func(c *config.Config)
		events []string
	}{
		{name: "nothing", change: func(*config.Config) {}, events: []string{"reconfigure"}},
		{
			name:   "a source more",
			change: func(c *config.Config) { c.Sources = append(c.Sources, kernel.SourceConfig{Name: "block"}) },
			events: []string{"read", "append", "reconfigure"},
		},
		{
			name:   "a receiver more",
			change: func(c *config.Config) { c.RemoteWrite = append(c.RemoteWrite, renamed) },
			events: []string{"new client other", "reconfigure"},
		},
		{
			name:   "a receiver changed",
			change: func(c *config.Config) { c.RemoteWrite[0] = slower },
			events: []string{"new client main", "reconfigure", "close client main"},
		},
		{
			name:   "a receiver renamed",
			change: func(c *config.Config) { c.RemoteWrite[0] = renamed },
			events: []string{"new client other", "reconfigure", "close client main", "forget main"},
		},
		{
			name:   "labels",
			change: func(c *config.Config) { c.ExternalLabels = map[string]string{"job": "latpush", "instance": "edge-2"} },
			events: []string{"new client main", "reconfigure", "close client main"},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				s := newStand(t)
				s.run()
				s.at(s.tickAt(0))
				s.rooms.note("reload")
				s.reload(tt.change)
				if got := s.events(); !slices.Equal(got, tt.events) {
					t.Errorf("events %v, want %v", got, tt.events)
				}
				s.wantLogged(1, "configuration reloaded")
				if n := s.value("latpush_config_last_reload_successful"); n != 1 {
					t.Errorf("latpush_config_last_reload_successful is %v, want 1", n)
				}
				if !slices.EqualFunc(s.rooms.configs, s.loaded.Sources, func(a, b kernel.SourceConfig) bool { return a.Name == b.Name }) {
					t.Errorf("sources %v run, want %v", s.rooms.configs, s.loaded.Sources)
				}
				// Ticks go on, and every receiver of the new configuration gets them.
				before := len(s.rooms.appended())
				s.at(s.clock.Now().Boottime + testInterval)
				if n := len(s.rooms.appended()); n != before+1 {
					t.Errorf("%d snapshots in the interval after the reload, want 1", n-before)
				}
				for _, receiver := range s.loaded.RemoteWrite {
					if s.rooms.count("commit "+receiver.Name) == 0 {
						t.Errorf("receiver %s got nothing", receiver.Name)
					}
				}
				s.end()
			})
		})
	}
}

func TestReloadChangesTheInterval(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newStand(t)
		s.run()
		s.at(s.tickAt(0))
		s.reload(func(c *config.Config) { c.Interval = model.Duration(3 * time.Second) })
		before := len(s.rooms.appended())
		s.at(s.clock.Now().Boottime + 30*time.Second)
		if n := len(s.rooms.appended()) - before; n != 10 {
			t.Errorf("%d snapshots in 30s, want 10", n)
		}
		if n := s.value("latpush_ticks_skipped_total"); n != 0 {
			t.Errorf("%v ticks counted as skipped", n)
		}
		s.end()
	})
}

// A receiver that a changed entry replaces had not delivered: its successor goes on where it stopped.
func TestReloadHandsTheBacklogOver(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"main", "other"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				s := newStand(t)
				s.rooms.deliver = hang
				s.run()
				s.at(s.tickAt(4))
				if n := s.rooms.count("commit main"); n != 0 {
					t.Fatalf("%d commits of a receiver that hangs", n)
				}
				s.rooms.set(func() { s.rooms.deliver = nil })
				s.reload(func(c *config.Config) {
					c.RemoteWrite[0] = receiverNamed(name)
					c.RemoteWrite[0].RemoteTimeout = model.Duration(time.Minute)
				})
				pending, _, found, err := s.agent.cursors[name].TryNext()
				if err != nil || found {
					t.Errorf("%v is still in the spool: %v", pending, err)
				}
				if n := s.rooms.count("commit " + name); n == 0 {
					t.Error("the backlog was not delivered")
				}
				s.end()
			})
		})
	}
}

func TestReloadKeepsTheOldConfigurationIfTheNewOneIsBad(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name   string
		change func(s *stand, c *config.Config)
		logged string
		events []string
	}{
		{
			name:   "not valid",
			change: func(s *stand, _ *config.Config) { s.loadErr = errors.New("latpush.yml:3: intervall: unknown key") },
			logged: "latpush.yml:3: intervall: unknown key",
		},
		{
			name:   "another spool",
			change: func(_ *stand, c *config.Config) { c.Spool.Directory = "/srv/latpush" },
			logged: "the spool cannot change while latpush runs",
		},
		{
			name:   "other pins",
			change: func(_ *stand, c *config.Config) { c.PinPath = "/run/bpf/latpush" },
			logged: "the directory of the pins cannot change while latpush runs",
		},
		{
			name: "a receiver that cannot be made",
			change: func(s *stand, c *config.Config) {
				s.rooms.openErr["client"] = errTest
				c.RemoteWrite = append(c.RemoteWrite, receiverNamed("other"))
				c.Sources = nil
			},
			logged: "prepare receiver other: input/output error",
			events: []string{"forget other"},
		},
		{
			name: "a cursor that cannot be opened",
			change: func(_ *stand, c *config.Config) {
				c.RemoteWrite = append(c.RemoteWrite, receiverNamed("other"), receiverNamed("no/name"))
				c.Sources = nil
			},
			logged: "prepare receiver no/name: open cursor",
			events: []string{"new client other", "close client other", "forget other"},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				s := newStand(t)
				s.run()
				s.at(s.tickAt(0))
				s.rooms.note("reload")
				s.reload(func(c *config.Config) { tt.change(s, c) })
				if got := s.events(); !slices.Equal(got, tt.events) {
					t.Errorf("events %v, want %v", got, tt.events)
				}
				s.wantLogged(1, tt.logged)
				if n := s.value("latpush_config_last_reload_successful"); n != 0 {
					t.Errorf("latpush_config_last_reload_successful is %v, want 0", n)
				}
				s.at(s.tickAt(2))
				if n := s.rooms.count("commit main"); n != 3 {
					t.Errorf("%d snapshots delivered, want 3", n)
				}

				// The next good one is taken over.
				s.loadErr = nil
				s.rooms.set(func() { s.rooms.openErr = nil })
				s.reload(func(c *config.Config) { *c = *s.agent.config })
				if n := s.value("latpush_config_last_reload_successful"); n != 1 {
					t.Errorf("latpush_config_last_reload_successful is %v after a good reload, want 1", n)
				}
				s.end()
			})
		})
	}
}

// Cursors of receivers that an earlier start had would hold the spool for ever.
func TestStartForgetsReceiversThatAreGone(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		first := newStand(t)
		first.loaded.RemoteWrite = append(first.loaded.RemoteWrite, receiverNamed("other"))
		first.run()
		first.end()

		second := newStand(t)
		second.loaded.Spool = first.loaded.Spool
		second.run()
		synctest.Wait()
		if n := second.rooms.count("forget other"); n != 1 {
			t.Errorf("events %v, want the cursor of the other receiver removed", second.rooms.events)
		}
		if got := second.agent.spool.Readers(); !slices.Equal(got, []string{"main"}) {
			t.Errorf("cursors %v, want main alone", got)
		}
		second.end()
	})
}

func TestPhaseDependsOnTheInstance(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newStand(t)
		if err := s.open(); err != nil {
			t.Fatal(err)
		}
		phase := s.agent.schedule.Phase()
		other := newStand(t)
		other.loaded.ExternalLabels = map[string]string{"instance": "edge-2"}
		if err := other.open(); err != nil {
			t.Fatal(err)
		}
		if got := other.agent.schedule.Phase(); got == phase {
			t.Errorf("two instances have the same phase %v", got)
		}
		for _, one := range []*stand{s, other} {
			if err := one.agent.stop(); err != nil {
				t.Error(err)
			}
		}
	})
}
