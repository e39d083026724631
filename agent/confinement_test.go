package agent

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/latpush/latpush/agent/config"
	"github.com/latpush/latpush/agent/telemetry"
	"github.com/latpush/latpush/internal/capability"
	"github.com/latpush/latpush/internal/confine"
	"github.com/latpush/latpush/internal/kernel"
)

// fakeConfinement notes what is put in force. It starts with four capabilities.
type fakeConfinement struct {
	*rooms
	held  capability.Set
	state confine.State
	paths confine.Paths
	fail  map[string]error // by part
}

func confinementOf(s *stand) *fakeConfinement {
	return &fakeConfinement{
		rooms: s.rooms, held: capability.BPF | capability.PerfMon | capability.SysAdmin | capability.SysLog, fail: make(map[string]error),
	}
}

func (c *fakeConfinement) part(name string, in *bool) error {
	c.note(name)
	*in = c.fail[name] == nil
	return c.fail[name]
}

func (c *fakeConfinement) NoNewPrivileges() error {
	return c.part("no_new_privs", &c.state.NoNewPrivileges)
}

func (c *fakeConfinement) Landlock(paths confine.Paths) error {
	c.paths = paths
	return c.part("landlock", &c.state.Landlock)
}

func (c *fakeConfinement) Seccomp() error { return c.part("seccomp", &c.state.Seccomp) }

func (c *fakeConfinement) Keep(keep capability.Set) error {
	err := c.part("keep", &c.state.Capabilities)
	if err == nil {
		c.held &= keep
	}
	return err
}

func (c *fakeConfinement) Held() (capability.Set, error) { return c.held, nil }

func (c *fakeConfinement) State() confine.State { return c.state }

const attaching = capability.BPF | capability.PerfMon | capability.SysAdmin

// confinedStand is a stand whose configuration asks for everything and whose kernel waits for a module.
func confinedStand(t *testing.T) *stand {
	s := newStand(t)
	s.loaded.Confinement = config.Confinement{Capabilities: true, Landlock: true, Seccomp: true}
	s.rooms.needs = []kernel.Need{{Capabilities: capability.BPF, Reason: kernel.NeedToRead}, {Capabilities: attaching, Reason: kernel.NeedToAttach}}
	return s
}

// Everything is in force when the rooms are open, in the order in which each part lets the next one be.
func TestConfineComesAfterTheRooms(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := confinedStand(t)
		if err := s.open(); err != nil {
			t.Fatal(err)
		}
		c := confinementOf(s)
		s.agent.Confine(c, "/srv/conf/latpush.yml")
		if got, want := s.rooms.since("open kernel"), []string{"open kernel", "no_new_privs", "landlock", "seccomp", "keep"}; !slices.Equal(got, want) {
			t.Errorf("done: %v, want %v", got, want)
		}
		if c.held != attaching {
			t.Errorf("holds %v, want %v", c.held, attaching)
		}
		s.wantLogged(1, `msg="capabilities given up" kept="CAP_SYS_ADMIN, CAP_PERFMON, CAP_BPF" for="read, modules"`)
		for _, folder := range []string{"/etc", "/proc", "/sys/module", "/srv/conf"} {
			if !slices.Contains(c.paths.Read, folder) {
				t.Errorf("%s cannot be read, only %v", folder, c.paths.Read)
			}
		}
		for _, folder := range []string{"/", "/root", "/home", "/var", "/sys", "/usr", "/tmp"} {
			if slices.Contains(c.paths.Read, folder) {
				t.Errorf("%s can be read", folder)
			}
		}
		if !slices.Equal(c.paths.Own, []string{s.loaded.Spool.Directory}) {
			t.Errorf("its own are %v", c.paths.Own)
		}
		closeAgent(t, s)
	})
}

// closeAgent ends what New has started, without Run.
func closeAgent(t *testing.T, s *stand) {
	t.Helper()
	if err := s.agent.stop(); err != nil {
		t.Error(err)
	}
}

// The last hook is attached: what attaching takes is given up at the next tick, once, and is not taken back when it would be needed again.
func TestCapabilitiesGoWithTheLastNeed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := confinedStand(t)
		if err := s.open(); err != nil {
			t.Fatal(err)
		}
		c := confinementOf(s)
		s.agent.Confine(c, "latpush.yml")
		s.agent.tick()
		if c.held != attaching || s.rooms.count("keep") != 1 {
			t.Errorf("holds %v after keeping %d times", c.held, s.rooms.count("keep"))
		}
		s.rooms.set(func() { s.rooms.needs = s.rooms.needs[:1] })
		s.agent.tick()
		s.agent.tick()
		if c.held != capability.BPF || s.rooms.count("keep") != 2 {
			t.Errorf("holds %v after keeping %d times, want CAP_BPF after 2", c.held, s.rooms.count("keep"))
		}
		s.rooms.set(func() {
			s.rooms.needs = append(s.rooms.needs, kernel.Need{Capabilities: attaching, Reason: kernel.NeedToAttach})
		})
		s.agent.tick()
		if c.held != capability.BPF || s.rooms.count("keep") != 2 {
			t.Errorf("holds %v after keeping %d times when more is needed again", c.held, s.rooms.count("keep"))
		}
		closeAgent(t, s)
	})
}

// What the kernel does not have is said once and keeps nothing else from being in force; the metrics tell.
func TestConfinementDegrades(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := confinedStand(t)
		if err := s.open(); err != nil {
			t.Fatal(err)
		}
		c := confinementOf(s)
		c.fail["landlock"], c.fail["keep"] = errors.New("no Landlock here"), errors.New("no capset here")
		s.agent.Confine(c, "latpush.yml")
		s.agent.tick()
		s.agent.tick()
		s.wantLogged(1, `without=landlock err="no Landlock here"`)
		s.wantLogged(1, `without=capabilities err="no capset here"`)
		snapshots := s.rooms.appended()
		got := make(map[string]float64)
		for _, f := range snapshots[len(snapshots)-1].Families {
			if f.Name == telemetry.ConfinementMetric || f.Name == telemetry.CapabilityMetric {
				for _, series := range f.Series {
					got[strings.Join(series.LabelValues, " ")] = series.Value
				}
			}
		}
		want := map[string]float64{
			"no_new_privs": 1, "seccomp": 1, "landlock": 0, "capabilities": 0,
			"CAP_BPF read,modules": 1, "CAP_PERFMON modules": 1, "CAP_SYS_ADMIN modules": 1, "CAP_SYSLOG ": 1,
		}
		if fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("metrics are %v, want %v", got, want)
		}
		closeAgent(t, s)
	})
}

func TestConfinementFollowsTheConfiguration(t *testing.T) {
	for _, tt := range []struct {
		wanted config.Confinement
		done   string
	}{
		{config.Confinement{}, "open kernel"},
		{config.Confinement{Capabilities: true}, "open kernel no_new_privs keep"},
		{config.Confinement{Seccomp: true}, "open kernel no_new_privs seccomp"},
		{config.Confinement{Landlock: true}, "open kernel no_new_privs landlock"},
	} {
		synctest.Test(t, func(t *testing.T) {
			s := confinedStand(t)
			s.loaded.Confinement = tt.wanted
			if err := s.open(); err != nil {
				t.Fatal(err)
			}
			s.agent.Confine(confinementOf(s), "latpush.yml")
			if got := strings.Join(s.rooms.since("open kernel"), " "); got != tt.done {
				t.Errorf("%+v: did %s, want %s", tt.wanted, got, tt.done)
			}
			closeAgent(t, s)
		})
	}
}

// A reload that takes more than there is left is refused as a whole, before anything is changed.
func TestReloadWithinTheConfinement(t *testing.T) {
	missing := config.Errors{
		{File: "latpush.yml", Line: 3, Key: "remote_write[0].basic_auth.password_file", Err: &fs.PathError{Op: "open", Path: "/srv/secret", Err: fs.ErrPermission}},
		{File: "latpush.yml", Line: 4, Key: "interval", Err: errors.New("is bad too")},
	}
	for _, tt := range []struct {
		name   string
		change func(s *stand, c *config.Config)
		logged string
	}{
		{
			"a file outside",
			func(s *stand, _ *config.Config) { s.loadErr = missing },
			"latpush.yml:3: remote_write[0].basic_auth.password_file: open /srv/secret: permission denied (a running latpush sees only the folders of " +
				`files that its configuration named at the start: restart it)\nlatpush.yml:4: interval: is bad too"`,
		},
		{
			"a source that takes capabilities",
			func(s *stand, c *config.Config) {
				s.rooms.set(func() { s.rooms.refusal = errors.New("source x cannot be attached (restart it)") })
				c.Sources = append(c.Sources, kernel.SourceConfig{Name: "softirq"})
			},
			"source x cannot be attached (restart it)",
		},
		{
			"another confinement",
			func(_ *stand, c *config.Config) { c.Confinement.Seccomp = false },
			"compare confinement: the confinement cannot change while latpush runs (restart it)",
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := confinedStand(t)
				if err := s.open(); err != nil {
					t.Fatal(err)
				}
				s.agent.Confine(confinementOf(s), "latpush.yml")
				s.start()
				s.reload(func(c *config.Config) { tt.change(s, c) })
				s.wantLogged(1, "configuration is not reloaded, the old one stays in force")
				s.wantLogged(1, tt.logged)
				if n := s.rooms.count("reconfigure") + s.rooms.count("close client main"); n != 0 {
					t.Errorf("%d things were changed", n)
				}
				s.end()
			})
		})
	}
}

// The error of a file is left as it is where Landlock has nothing to do with it.
func TestErrorsOfFilesWithoutLandlock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := confinedStand(t)
		s.loaded.Confinement.Landlock = false
		if err := s.open(); err != nil {
			t.Fatal(err)
		}
		s.agent.Confine(confinementOf(s), "latpush.yml")
		err := config.Errors{{File: "latpush.yml", Err: fs.ErrPermission}}
		if got := s.agent.outside(err); got.Error() != err.Error() {
			t.Errorf("explained as %v", got)
		}
		closeAgent(t, s)
	})
}

func TestPathsOfFilesThatTheConfigurationNames(t *testing.T) {
	folder := t.TempDir()
	t.Setenv("SSL_CERT_FILE", filepath.Join(folder, "ssl", "ca.pem"))
	t.Setenv("SSL_CERT_DIR", filepath.Join(folder, "one")+string(os.PathListSeparator)+filepath.Join(folder, "two"))
	c := receiverNamed("main")
	c.HTTPClientConfig.TLSConfig.CAFile = filepath.Join(folder, "tls", "ca.pem")
	a := &Agent{config: &config.Config{}}
	a.config.RemoteWrite = append(a.config.RemoteWrite, c)
	read := a.paths(filepath.Join(folder, "conf", "latpush.yml")).Read
	for _, name := range []string{"ssl", "one", "two", "tls", "conf"} {
		if !slices.Contains(read, filepath.Join(folder, name)) {
			t.Errorf("%s cannot be read: %v", name, read)
		}
	}
}
