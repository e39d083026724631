package spool

import (
	"errors"
	"fmt"
	"time"

	"github.com/alecthomas/units"
	"github.com/prometheus/common/model"
)

const (
	defaultMaxBytes = 64 * units.MiB
	defaultMaxAge   = model.Duration(30 * 24 * time.Hour)
	defaultSegments = 64 // of the default size fit in MaxBytes

	defaultMaxMemory = 8 * units.MiB
	memoryChunks     = 16 // into which snapshots in memory are divided, as segments divide those on disk

	minSyncDelay = model.Duration(100 * time.Millisecond)
	maxSyncDelay = model.Duration(time.Hour)

	minBytes        = 64 * units.KiB
	minMemory       = 256 * units.KiB
	minSegmentBytes = 4 * units.KiB
	maxSegmentBytes = units.GiB
)

// Fsync says when the spool forces its files to disk: always, never, or a duration such as 10s.
type Fsync string

const (
	// FsyncAlways makes every snapshot and cursor durable before Append and Commit return.
	FsyncAlways Fsync = "always"

	// FsyncNever leaves it to the kernel, which spares a flash card; a power cut may then take the last half minute or so.
	FsyncNever Fsync = "never"
)

// syncPolicy is an Fsync that was understood.
type syncPolicy struct {
	never bool
	delay time.Duration // at most that long after an append or commit; 0 before it returns
}

// syncsFiles reports whether files are ever synced.
func (p syncPolicy) syncsFiles() bool { return !p.never }

// syncsEach reports whether every append and commit is synced before it returns.
func (p syncPolicy) syncsEach() bool { return !p.never && p.delay == 0 }

func (f Fsync) policy() (syncPolicy, error) {
	switch f {
	case "", FsyncAlways:
		return syncPolicy{}, nil
	case FsyncNever:
		return syncPolicy{never: true}, nil
	}
	delay, err := model.ParseDuration(string(f))
	if err != nil {
		return syncPolicy{}, fmt.Errorf("fsync: %q is unknown (always, never or a duration such as 10s)", string(f))
	}
	if delay < minSyncDelay || delay > maxSyncDelay {
		return syncPolicy{}, fmt.Errorf("fsync: %s is out of range [%s to %s; or always, or never]", delay, minSyncDelay, maxSyncDelay)
	}
	return syncPolicy{delay: time.Duration(delay)}, nil
}

// Options is the `spool:` block of the configuration. The zero value of every field but Directory means its default.
type Options struct {
	// Directory holds the files; it is made when it does not exist. It belongs to one process. Required.
	Directory string `yaml:"directory"`

	// MaxBytes bounds the segments together, in bytes, a segment that is being rewritten included. Default: 64MiB, at 15 s ticks about 40 hours
	// of 100 busy label sets of 27 buckets before old snapshots are thinned. Each cursor adds at most 6 KiB; what was set aside comes on top.
	MaxBytes units.Base2Bytes `yaml:"max_size"`

	// MaxAge bounds how long a snapshot waits for its readers. Default: 30d; a receiver seldom takes samples that are older.
	MaxAge model.Duration `yaml:"max_age"`

	// Fsync is always, never, or a duration: how long a snapshot or cursor may stay unsynced. Default: always, one fsync per tick.
	Fsync Fsync `yaml:"fsync"`

	// MaxMemory bounds, in bytes, the snapshots that are kept in memory while the disk refuses them, or because they are not synced yet.
	// Default: 8MiB.
	MaxMemory units.Base2Bytes `yaml:"max_memory"`

	// SegmentBytes is the size at which a segment is full. Default: 1/64 of MaxBytes, so that a bound takes away little at a time.
	// A larger snapshot gets a segment of its own.
	SegmentBytes int64 `yaml:"-"`
}

// Validate returns an error that names the YAML key and what to do.
func (o Options) Validate() error {
	if o.Directory == "" {
		return errors.New("directory: must be set (a directory of its own, such as /var/lib/latpush)")
	}
	if o.MaxBytes < 0 || o.MaxBytes > 0 && o.MaxBytes < minBytes {
		return fmt.Errorf("max_size: %s is too small (at least %s; leave it out for %s)", o.MaxBytes, minBytes, defaultMaxBytes)
	}
	if o.MaxAge < 0 {
		return fmt.Errorf("max_age: %s is negative (leave it out for %s)", time.Duration(o.MaxAge), defaultMaxAge)
	}
	if o.MaxMemory < 0 || o.MaxMemory > 0 && o.MaxMemory < minMemory {
		return fmt.Errorf("max_memory: %s is too small (at least %s; leave it out for %s)", o.MaxMemory, minMemory, defaultMaxMemory)
	}
	if _, err := o.Fsync.policy(); err != nil {
		return err
	}
	o = o.withDefaults()
	if low, high := int64(minSegmentBytes), min(int64(o.MaxBytes)/4, int64(maxSegmentBytes)); o.SegmentBytes < low || o.SegmentBytes > high {
		return fmt.Errorf("segment size of %d bytes is out of range [%d to %d for max_size %s]", o.SegmentBytes, low, high, o.MaxBytes)
	}
	return nil
}

func (o Options) withDefaults() Options {
	if o.MaxBytes == 0 {
		o.MaxBytes = defaultMaxBytes
	}
	if o.MaxAge == 0 {
		o.MaxAge = defaultMaxAge
	}
	if o.Fsync == "" {
		o.Fsync = FsyncAlways
	}
	if o.MaxMemory == 0 {
		o.MaxMemory = defaultMaxMemory
	}
	if o.SegmentBytes == 0 {
		o.SegmentBytes = min(max(int64(o.MaxBytes)/defaultSegments, int64(minSegmentBytes)), int64(maxSegmentBytes))
	}
	return o
}
