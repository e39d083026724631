package debian

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// fixture is a store with a clock of its own and an archive that unpacks empty folders.
type fixture struct {
	*Store
	now   time.Time
	down  error // what the archive answers
	asked atomic.Int32
	log   []string
}

func newFixture(t *testing.T, dir string) *fixture {
	t.Helper()
	f := &fixture{now: time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)}
	store, err := Open(Options{
		Directory: dir,
		Now:       func() time.Time { return f.now },
		Logf:      func(format string, args ...any) { f.log = append(f.log, fmt.Sprintf(format, args...)) },
	})
	if err != nil {
		t.Fatal(err)
	}
	store.open = func(_ context.Context, _, packages, suite, arch string) (*Archive, error) {
		f.asked.Add(1)
		return &Archive{Suite: suite, Arch: arch, packages: packages}, f.down
	}
	f.Store = store
	return f
}

// resolver unpacks one package of a version.
func resolver(version string) Resolver {
	return func(_ context.Context, a *Archive) ([]Package, error) {
		p := Package{Name: "linux", Version: version, Arch: a.Arch}
		return []Package{p}, os.MkdirAll(p.folder(a.packages), 0o755)
	}
}

func (f *fixture) resolve(t *testing.T, version string) Set {
	t.Helper()
	set, err := f.Resolve(t.Context(), "kernel", "sid", "amd64", resolver(version))
	if err != nil {
		t.Fatal(err)
	}
	return set
}

func version(t *testing.T, set Set) string {
	t.Helper()
	if len(set.Packages) != 1 {
		t.Fatalf("set has %d packages, want 1", len(set.Packages))
	}
	if _, err := os.Stat(set.Folders()[0]); err != nil {
		t.Fatal(err)
	}
	return set.Packages[0].Version
}

func TestResolveIsCachedForADay(t *testing.T) {
	t.Parallel()
	f := newFixture(t, t.TempDir())
	for _, step := range []struct {
		after   time.Duration
		archive string // version that the archive has
		want    string
		asked   int32 // in all
	}{
		{0, "1", "1", 1},
		{23 * time.Hour, "2", "1", 1},
		{2 * time.Hour, "2", "2", 2},
		{time.Hour, "3", "2", 2},
	} {
		f.now = f.now.Add(step.after)
		if got := version(t, f.resolve(t, step.archive)); got != step.want || f.asked.Load() != step.asked {
			t.Errorf("after %s: version %s, archive asked %d times, want %s, %d", step.after, got, f.asked.Load(), step.want, step.asked)
		}
	}
}

func TestResolveWithoutTheMirror(t *testing.T) {
	t.Parallel()
	f := newFixture(t, t.TempDir())
	f.down = errors.New("no route to host")
	if _, err := f.Resolve(t.Context(), "kernel", "sid", "amd64", resolver("1")); !errors.Is(err, f.down) {
		t.Fatalf("with an empty cache: %v, want %v", err, f.down)
	}
	f.down = nil
	f.resolve(t, "1")
	f.down, f.log = errors.New("no route to host"), nil
	f.now = f.now.Add(48 * time.Hour)
	if got := version(t, f.resolve(t, "2")); got != "1" || len(f.log) != 1 || !strings.Contains(f.log[0], "no route to host") {
		t.Errorf("with an old cache: version %s, log %q", got, f.log)
	}
	asked := f.asked.Load()
	f.now = f.now.Add(30 * time.Minute)
	f.resolve(t, "2")
	if f.asked.Load() != asked {
		t.Error("the mirror was asked again half an hour after it did not answer")
	}
	f.down = nil
	f.now = f.now.Add(time.Hour)
	if got := version(t, f.resolve(t, "2")); got != "2" {
		t.Errorf("with the mirror back: version %s, want 2", got)
	}
}

func TestResolveRepairsTheCache(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name   string
		damage func(f *fixture, set Set) error
	}{
		{"a package is gone", func(_ *fixture, set Set) error { return os.RemoveAll(set.Folders()[0]) }},
		{"the set is torn", func(f *fixture, _ Set) error {
			return os.WriteFile(filepath.Join(f.sets(), "kernel-sid-amd64.json"), []byte(`{"packages": [`), 0o644)
		}},
		{"the set is empty", func(f *fixture, _ Set) error {
			return os.WriteFile(filepath.Join(f.sets(), "kernel-sid-amd64.json"), []byte(`{}`), 0o644)
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			f := newFixture(t, t.TempDir())
			if err := tt.damage(f, f.resolve(t, "1")); err != nil {
				t.Fatal(err)
			}
			if got := version(t, f.resolve(t, "1")); got != "1" || f.asked.Load() != 2 {
				t.Errorf("version %s, archive asked %d times, want 1, 2", got, f.asked.Load())
			}
		})
	}
}

func TestResolveRefusesWhatIsNotUnpacked(t *testing.T) {
	t.Parallel()
	f := newFixture(t, t.TempDir())
	_, err := f.Resolve(t.Context(), "kernel", "sid", "amd64", func(context.Context, *Archive) ([]Package, error) {
		return []Package{{Name: "linux", Version: "1", Arch: "amd64"}}, nil
	})
	if err == nil || !strings.Contains(err.Error(), "linux_1_amd64") {
		t.Errorf("error is %v, want one that names the package", err)
	}
}

func TestPrune(t *testing.T) {
	t.Parallel()
	f := newFixture(t, t.TempDir())
	first := f.resolve(t, "1").Folders()[0]
	left := filepath.Join(f.packages(), temporary+"123")
	if err := os.Mkdir(left, 0o755); err != nil {
		t.Fatal(err)
	}
	f.now = f.now.Add(25 * time.Hour)
	second := f.resolve(t, "2").Folders()[0]
	exist := func(want map[string]bool) {
		t.Helper()
		for dir, there := range want {
			if _, err := os.Stat(dir); (err == nil) != there {
				t.Errorf("%s: %v, want it there: %v", filepath.Base(dir), err, there)
			}
		}
	}
	exist(map[string]bool{first: true, second: true, left: false}) // another run may still boot the first
	f.now = f.now.Add(8 * 24 * time.Hour)
	third := f.resolve(t, "3").Folders()[0]
	exist(map[string]bool{first: false, second: false, third: true})
}

func TestConcurrentRunsFetchOnce(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	var fetched atomic.Int32
	var group sync.WaitGroup
	for range 4 {
		f := newFixture(t, dir) // one store each, as separate processes have
		group.Go(func() {
			_, err := f.Resolve(t.Context(), "kernel", "sid", "amd64", func(ctx context.Context, a *Archive) ([]Package, error) {
				fetched.Add(1)
				return resolver("1")(ctx, a)
			})
			if err != nil {
				t.Error(err)
			}
		})
	}
	group.Wait()
	if fetched.Load() != 1 {
		t.Errorf("fetched %d times, want once", fetched.Load())
	}
}

func TestLockWaitsNoLongerThanItsContext(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "lock")
	unlock, err := Lock(t.Context(), file)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Lock(ctx, file); !errors.Is(err, context.Canceled) || !strings.Contains(err.Error(), file) {
		t.Errorf("error is %v, want one that names the file", err)
	}
	unlock()
	again, err := Lock(ctx, file)
	if err != nil {
		t.Fatal(err)
	}
	again()
}

func TestOptions(t *testing.T) {
	t.Parallel()
	if _, err := Open(Options{}); err == nil {
		t.Error("a store without a folder was opened")
	}
	o := Options{Directory: "x", MaxAge: time.Minute}
	if err := o.Validate(); err != nil {
		t.Fatal(err)
	}
	got := []time.Duration{o.MaxAge, o.Retry, o.Keep}
	if want := []time.Duration{time.Minute, time.Hour, 7 * 24 * time.Hour}; !reflect.DeepEqual(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}
