package debian

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// temporary begins the name of every folder that is not complete yet.
const temporary = ".incomplete-"

// Options of a [Store].
type Options struct {
	Directory string           // cache folder, created when missing
	MaxAge    time.Duration    // a set of packages older than this is looked up again; default one day
	Retry     time.Duration    // after an unsuccessful look-up the cache answers alone for this long; default one hour
	Keep      time.Duration    // an unpacked package that no set needs is deleted after this long; default one week
	Now       func() time.Time // default time.Now
	Logf      func(format string, args ...any)
}

// Validate fills in the defaults and says what is missing.
func (o *Options) Validate() error {
	if o.Directory == "" {
		return errors.New("open package cache: directory is empty")
	}
	for _, d := range []struct {
		value    *time.Duration
		standard time.Duration
	}{{&o.MaxAge, 24 * time.Hour}, {&o.Retry, time.Hour}, {&o.Keep, 7 * 24 * time.Hour}} {
		if *d.value == 0 {
			*d.value = d.standard
		}
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Logf == nil {
		o.Logf = func(string, ...any) {}
	}
	return nil
}

// Store is a cache folder of unpacked packages. Any number of processes may use one folder.
type Store struct {
	o    Options
	open func(ctx context.Context, dir, packages, suite, arch string) (*Archive, error) // replaced by tests
}

// Resolver chooses packages from an archive and unpacks them. It runs only when the cache has no fresh answer.
type Resolver func(ctx context.Context, a *Archive) ([]Package, error)

// Set is what the cache knows about one resolved set of packages.
type Set struct {
	Packages []Package `json:"packages"`
	Resolved time.Time `json:"resolved"` // when the archive was last asked with success
	Tried    time.Time `json:"tried"`    // when it was last asked

	packages string
}

// Folders returns the folder of every package, in the order of Packages.
func (s Set) Folders() []string {
	dirs := make([]string, len(s.Packages))
	for i, p := range s.Packages {
		dirs[i] = p.folder(s.packages)
	}
	return dirs
}

// Open opens or creates a cache folder.
func Open(o Options) (*Store, error) {
	if err := o.Validate(); err != nil {
		return nil, err
	}
	s := &Store{o: o, open: func(ctx context.Context, dir, packages, suite, arch string) (*Archive, error) {
		mirror, err := Mirror(ctx)
		if err != nil {
			return nil, err
		}
		return openArchive(ctx, dir, packages, mirror, suite, arch)
	}}
	for _, dir := range []string{s.packages(), s.sets()} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return nil, fmt.Errorf("create package cache: %w", err)
		}
	}
	return s, nil
}

func (s *Store) packages() string { return filepath.Join(s.o.Directory, "packages") }
func (s *Store) sets() string     { return filepath.Join(s.o.Directory, "sets") }

// Resolve returns the set called name of a suite and architecture. A set that is complete and younger than MaxAge comes from the cache alone;
// otherwise the archive is asked through resolve, and when that does not work an older complete set is returned with a line in the log.
func (s *Store) Resolve(ctx context.Context, name, suite, arch string, resolve Resolver) (Set, error) {
	unlock, err := Lock(ctx, filepath.Join(s.o.Directory, "lock"))
	if err != nil {
		return Set{}, err
	}
	defer unlock()
	file := filepath.Join(s.sets(), strings.Join([]string{name, suite, arch}, "-")+".json")
	old, complete := s.load(file)
	now := s.o.Now()
	if complete && (now.Sub(old.Resolved) < s.o.MaxAge || now.Sub(old.Tried) < s.o.Retry) {
		return old, nil
	}
	fresh, err := s.ask(ctx, suite, arch, resolve)
	switch {
	case err == nil:
		fresh.Resolved, fresh.Tried = now, now
		if err := s.save(file, fresh); err != nil {
			return Set{}, err
		}
		return fresh, s.prune(now)
	case complete && ctx.Err() == nil:
		s.o.Logf("use %s of %s/%s as cached on %s: %v", name, suite, arch, old.Resolved.Format(time.DateOnly), err)
		old.Tried = now
		return old, s.save(file, old)
	default:
		return Set{}, fmt.Errorf("fetch %s: %w", name, err)
	}
}

func (s *Store) ask(ctx context.Context, suite, arch string, resolve Resolver) (Set, error) {
	state, err := os.MkdirTemp(s.packages(), temporary+"*")
	if err != nil {
		return Set{}, fmt.Errorf("create apt state: %w", err)
	}
	defer func() { _ = os.RemoveAll(state) }() // what stays is pruned later
	archive, err := s.open(ctx, state, s.packages(), suite, arch)
	if err != nil {
		return Set{}, err
	}
	packages, err := resolve(ctx, archive)
	if err != nil {
		return Set{}, err
	}
	set := Set{Packages: packages, packages: s.packages()}
	if missing := set.missing(); missing != "" {
		return Set{}, fmt.Errorf("keep packages of %s/%s: %s was chosen and not unpacked", suite, arch, missing)
	}
	return set, nil
}

// load reads a set and says whether every one of its packages is there. A set that does not parse counts as not there: it is only a cache.
func (s *Store) load(file string) (Set, bool) {
	text, err := os.ReadFile(file)
	if err != nil {
		return Set{}, false
	}
	set := Set{packages: s.packages()}
	if err := json.Unmarshal(text, &set); err != nil {
		s.o.Logf("look up %s again: %v", filepath.Base(file), err)
		return Set{}, false
	}
	return set, len(set.Packages) > 0 && set.missing() == ""
}

func (s Set) missing() string {
	for i, dir := range s.Folders() {
		if _, err := os.Stat(dir); err != nil {
			return s.Packages[i].String()
		}
	}
	return ""
}

func (s *Store) save(file string, set Set) error {
	text, err := json.MarshalIndent(set, "", "\t")
	if err != nil {
		return fmt.Errorf("write package set: %w", err)
	}
	next := file + temporary
	if err := os.WriteFile(next, append(text, '\n'), 0o644); err != nil {
		return fmt.Errorf("write package set: %w", err)
	}
	if err := os.Rename(next, file); err != nil {
		return fmt.Errorf("write package set: %w", err)
	}
	return nil
}

// prune deletes what interrupted runs left behind and packages that no set has needed for a while. The caller holds the lock; a run that is still
// using a package of a replaced set is safe because the package stays for Keep.
func (s *Store) prune(now time.Time) error {
	needed := map[string]bool{}
	files, err := filepath.Glob(filepath.Join(s.sets(), "*.json"))
	if err != nil {
		return fmt.Errorf("list package sets: %w", err)
	}
	for _, file := range files {
		set, _ := s.load(file)
		for _, dir := range set.Folders() {
			needed[dir] = true
			if err := os.Chtimes(dir, now, now); err != nil && !errors.Is(err, fs.ErrNotExist) { // its age counts from the last time it was needed
				return fmt.Errorf("mark package as needed: %w", err)
			}
		}
	}
	entries, err := os.ReadDir(s.packages())
	if err != nil {
		return fmt.Errorf("list packages: %w", err)
	}
	for _, entry := range entries {
		dir := filepath.Join(s.packages(), entry.Name())
		info, err := entry.Info()
		if err != nil || needed[dir] {
			continue
		}
		if strings.HasPrefix(entry.Name(), temporary) || now.Sub(info.ModTime()) > s.o.Keep {
			if err := os.RemoveAll(dir); err != nil {
				return fmt.Errorf("delete old package: %w", err)
			}
		}
	}
	return nil
}

// Lock waits until no other run holds the lock of a file, or ctx ends.
func Lock(ctx context.Context, file string) (unlock func(), err error) { return LockAny(ctx, file) }

// LockAny waits until no other run holds the lock of one of the files, or ctx ends.
func LockAny(ctx context.Context, files ...string) (unlock func(), err error) {
	for {
		for _, file := range files {
			unlock, err := tryLock(file)
			if unlock != nil || err != nil {
				return unlock, err
			}
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("wait for another run that holds %s: %w", strings.Join(files, " or "), ctx.Err())
		case <-time.After(200 * time.Millisecond):
		}
	}
}

// tryLock returns nothing when another run holds the lock.
func tryLock(file string) (unlock func(), err error) {
	f, err := os.OpenFile(file, os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, fmt.Errorf("open lock file: %w", err)
	}
	err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	switch {
	case err == nil:
		return func() { _ = f.Close() }, nil
	case errors.Is(err, unix.EWOULDBLOCK) || errors.Is(err, unix.EINTR):
		return nil, f.Close()
	}
	return nil, errors.Join(fmt.Errorf("lock %s: %w", file, err), f.Close())
}
