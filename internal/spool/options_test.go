package spool

import (
	"strings"
	"testing"
	"time"

	"github.com/prometheus/common/model"
	"go.yaml.in/yaml/v3"
)

// strict decodes YAML as the agent does.
func strict(text string) (Options, error) {
	var o Options
	decoder := yaml.NewDecoder(strings.NewReader(text))
	decoder.KnownFields(true)
	err := decoder.Decode(&o)
	return o, err
}

func TestGoodOptions(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		yaml string
		want Options
	}{
		"defaults": {
			"directory: /var/lib/latpush",
			Options{Directory: "/var/lib/latpush", MaxBytes: 64 << 20, MaxAge: model.Duration(30 * 24 * time.Hour), Fsync: FsyncAlways, MaxMemory: 8 << 20, SegmentBytes: 1 << 20},
		},
		"all keys": {
			"{directory: d, max_size: 1GiB, max_age: 7d, fsync: never, max_memory: 32MiB}",
			Options{Directory: "d", MaxBytes: 1 << 30, MaxAge: model.Duration(7 * 24 * time.Hour), Fsync: FsyncNever, MaxMemory: 32 << 20, SegmentBytes: 16 << 20},
		},
		"smallest": {
			"{directory: d, max_size: 64KiB, max_age: 1h30m, fsync: always}",
			Options{Directory: "d", MaxBytes: 64 << 10, MaxAge: model.Duration(90 * time.Minute), Fsync: FsyncAlways, MaxMemory: 8 << 20, SegmentBytes: 4 << 10},
		},
		"a delay": {
			"{directory: d, max_size: 64KiB, fsync: 10s, max_memory: 256KiB}",
			Options{Directory: "d", MaxBytes: 64 << 10, MaxAge: model.Duration(30 * 24 * time.Hour), Fsync: "10s", MaxMemory: 256 << 10, SegmentBytes: 4 << 10},
		},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			o, err := strict(test.yaml)
			if err != nil {
				t.Fatal(err)
			}
			if err := o.Validate(); err != nil {
				t.Fatal(err)
			}
			if got := o.withDefaults(); got != test.want {
				t.Errorf("got %+v, want %+v", got, test.want)
			}
		})
	}
}

func TestBadOptions(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		yaml string
		want string
	}{
		"no directory":     {"max_size: 64MiB", "directory: must be set (a directory of its own, such as /var/lib/latpush)"},
		"too small":        {"{directory: d, max_size: 63KiB}", "max_size: 63KiB is too small (at least 64KiB; leave it out for 64MiB)"},
		"negative size":    {"{directory: d, max_size: -1MiB}", "max_size: -1MiB is too small"},
		"size, no unit":    {"{directory: d, max_size: 64}", "units: unknown unit"},
		"size, wrong unit": {"{directory: d, max_size: 64 MiB}", "units: unknown unit"},
		"age, no unit":     {"{directory: d, max_age: 7}", "not a valid duration string"},
		"fsync":            {"{directory: d, fsync: sometimes}", `fsync: "sometimes" is unknown (always, never or a duration such as 10s)`},
		"fsync, no unit":   {"{directory: d, fsync: 10}", `fsync: "10" is unknown`},
		"fsync, too often": {"{directory: d, fsync: 1ms}", "fsync: 1ms is out of range [100ms to 1h; or always, or never]"},
		"fsync, too rare":  {"{directory: d, fsync: 2h}", "fsync: 2h is out of range"},
		"small memory":     {"{directory: d, max_memory: 255KiB}", "max_memory: 255KiB is too small (at least 256KiB; leave it out for 8MiB)"},
		"unknown key":      {"{directory: d, max_bytes: 1}", "field max_bytes not found"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			o, err := strict(test.yaml)
			if err == nil {
				err = o.Validate()
			}
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("got %v, want %q", err, test.want)
			}
			if _, openErr := open(o, newMemoryDisk(), nil, nil); o.Validate() != nil && openErr == nil {
				t.Error("open takes options that are not valid")
			}
		})
	}
}

func TestBadSegmentSize(t *testing.T) {
	t.Parallel()
	for _, size := range []int64{-1, 1, 4095, 16<<20 + 1} {
		o := Options{Directory: "d", SegmentBytes: size}
		if err := o.Validate(); err == nil || !strings.Contains(err.Error(), "is out of range [4096 to 16777216 for max_size 64MiB]") {
			t.Errorf("segments of %d bytes: %v", size, err)
		}
	}
	if err := (Options{Directory: "d", MaxAge: -1}).Validate(); err == nil || !strings.Contains(err.Error(), "max_age: -1ns is negative") {
		t.Errorf("negative max_age: %v", err)
	}
}
