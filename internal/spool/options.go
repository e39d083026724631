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

	minBytes        = 64 * units.KiB
	minSegmentBytes = 4 * units.KiB
	maxSegmentBytes = units.GiB
)

// Fsync says when the spool forces its files to disk.
type Fsync string

const (
	// FsyncAlways makes every snapshot and cursor durable before Append and Commit return.
	FsyncAlways Fsync = "always"

	// FsyncNever leaves it to the kernel, which spares a flash card; a power cut may then take the last half minute or so.
	FsyncNever Fsync = "never"
)

// Options is the `spool:` block of the configuration. The zero value of every field but Directory means its default.
type Options struct {
	// Directory holds the files; it is made when it does not exist. It belongs to one process. Required.
	Directory string `yaml:"directory"`

	// MaxBytes bounds the segments together, in bytes. Default: 64MiB, at 15 s ticks about 40 hours of 100 busy label sets of 27 buckets.
	// Each cursor adds a few bytes, and so does each segment that was set aside.
	MaxBytes units.Base2Bytes `yaml:"max_size"`

	// MaxAge bounds how long a snapshot waits for its readers. Default: 30d; a receiver seldom takes samples that are older.
	MaxAge model.Duration `yaml:"max_age"`

	// Fsync is always or never. Default: always, one fsync per tick.
	Fsync Fsync `yaml:"fsync"`

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
	switch o.Fsync {
	case "", FsyncAlways, FsyncNever:
	default:
		return fmt.Errorf("fsync: %q is unknown (always or never)", o.Fsync)
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
	if o.SegmentBytes == 0 {
		o.SegmentBytes = min(max(int64(o.MaxBytes)/defaultSegments, int64(minSegmentBytes)), int64(maxSegmentBytes))
	}
	return o
}
