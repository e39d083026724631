package vm

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"time"

	"github.com/latpush/latpush/internal/vm/debian"
)

// CacheVariable is the environment variable that moves the cache folder.
const CacheVariable = "LATPUSH_VM_CACHE"

// Logger receives lines of text while kernels are fetched and guests run. A *testing.T is one.
type Logger interface {
	Logf(format string, args ...any)
}

// Options of a [Harness].
type Options struct {
	Cache string // folder for unpacked packages; default $LATPUSH_VM_CACHE, else latpush/vm in the user's cache folder
}

// Validate fills in the default.
func (o *Options) Validate() error {
	if o.Cache != "" {
		return nil
	}
	if o.Cache = os.Getenv(CacheVariable); o.Cache != "" {
		return nil
	}
	dir, err := os.UserCacheDir()
	if err != nil {
		return fmt.Errorf("find cache folder: %w (set %s)", err, CacheVariable)
	}
	o.Cache = filepath.Join(dir, "latpush", "vm")
	return nil
}

// Harness fetches kernels and runs guests, as many at once as there are Places on a machine for all processes that share its cache folder.
type Harness struct {
	log   Logger
	cache string
	store *debian.Store
}

// Open opens or creates the cache folder.
func Open(o Options, log Logger) (*Harness, error) {
	if err := o.Validate(); err != nil {
		return nil, err
	}
	store, err := debian.Open(debian.Options{Directory: filepath.Join(o.Cache, "debian"), Logf: log.Logf})
	if err != nil {
		return nil, err
	}
	return &Harness{log: log, cache: o.Cache, store: store}, nil
}

// turn waits until a processor is free for another guest, which runs in one thread of the emulator.
func (h *Harness) turn(ctx context.Context, log Logger) (done func(), err error) {
	start := time.Now()
	var places []string
	for i := range Places() {
		places = append(places, filepath.Join(h.cache, fmt.Sprintf("guest-%d.lock", i)))
	}
	done, err = debian.LockAny(ctx, places...)
	if waited := time.Since(start); waited > time.Second {
		log.Logf("waited %s for the guest of another run to end", waited.Round(time.Second))
	}
	return done, err
}

// Places returns how many guests run at once on this machine: one per processor, and no more than memory suffices for.
func Places() int { return min(runtime.NumCPU(), 4) }
