package receivers

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// CacheVariable names the environment variable with the folder for what is built. Without it that is a folder of the user's cache.
const CacheVariable = "LATPUSH_RECEIVERS_CACHE"

// module is a program that the Go client builds.
type module struct {
	command string   // import path of the main package; its last element is the name of the binary
	version string   // of the module
	flags   []string // for go install
}

// path returns the binary of a module, which is built when the cache does not have it yet. It takes minutes then. Any number of processes may
// ask at the same time; one of them builds and the others wait.
func (m module) path(ctx context.Context) (string, error) {
	cache, err := cacheFolder()
	if err != nil {
		return "", err
	}
	name := filepath.Base(m.command)
	folder := filepath.Join(cache, name+"-"+m.version)
	binary := filepath.Join(folder, name)
	if err := os.MkdirAll(folder, 0o755); err != nil {
		return "", fmt.Errorf("create cache of receivers: %w", err)
	}
	unlock, err := lock(ctx, folder+".lock")
	if err != nil {
		return "", err
	}
	defer unlock()
	switch _, err := os.Stat(binary); {
	case err == nil:
		return binary, nil
	case !errors.Is(err, fs.ErrNotExist):
		return "", fmt.Errorf("look up receiver: %w", err)
	}
	return binary, m.build(ctx, folder, name)
}

// build installs the binary in a folder of its own first, so that the cache never has half of one.
func (m module) build(ctx context.Context, folder, name string) error {
	fresh, err := os.MkdirTemp(folder, "build-")
	if err != nil {
		return fmt.Errorf("create folder to build in: %w", err)
	}
	defer func() { _ = os.RemoveAll(fresh) }() // what is left of it is in nobody's way
	install := exec.CommandContext(ctx, "go", append(append([]string{"install"}, m.flags...), m.command+"@"+m.version)...)
	install.Env = append(os.Environ(), "GOBIN="+fresh, "CGO_ENABLED=0")
	install.Dir = fresh // outside every module
	if output, err := install.CombinedOutput(); err != nil {
		return fmt.Errorf("build %s@%s: %w (is there a way to the Go modules?)\n%s", m.command, m.version, err, output)
	}
	if err := os.Rename(filepath.Join(fresh, name), filepath.Join(folder, name)); err != nil {
		return fmt.Errorf("keep built receiver: %w", err)
	}
	return nil
}

func cacheFolder() (string, error) {
	if folder := os.Getenv(CacheVariable); folder != "" {
		return folder, nil
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("find cache for receivers: %w (or set %s)", err, CacheVariable)
	}
	return filepath.Join(cache, "latpush", "receivers"), nil
}

// lock waits until no other process has the file locked. A process that ends gives it up.
func lock(ctx context.Context, path string) (unlock func(), err error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return nil, fmt.Errorf("open lock of receiver: %w", err)
	}
	for {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		switch {
		case err == nil:
			return func() { _ = f.Close() }, nil
		case !errors.Is(err, unix.EWOULDBLOCK) && !errors.Is(err, unix.EINTR):
			return nil, errors.Join(fmt.Errorf("lock %s: %w", path, err), f.Close())
		}
		select {
		case <-ctx.Done():
			return nil, errors.Join(fmt.Errorf("wait for the process that builds %s: %w", filepath.Dir(path), ctx.Err()), f.Close())
		case <-time.After(200 * time.Millisecond):
		}
	}
}
