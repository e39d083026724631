package receiver

import (
	"math"
	"testing"
)

func TestFormat(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		unit  unit
		value float64
		want  string
	}{
		{unitSeconds, 0, "0"},
		{unitSeconds, 1e-9, "1 ns"},
		{unitSeconds, 1e-6, "1 µs"},
		{unitSeconds, 0.000512, "512 µs"},
		{unitSeconds, 0.0009999999, "1 ms"},
		{unitSeconds, 0.001024, "1.02 ms"},
		{unitSeconds, 0.016777216, "16.8 ms"},
		{unitSeconds, 1.073741824, "1.07 s"},
		{unitSeconds, 67.108864, "67.1 s"},
		{unitSeconds, 4000, "4000 s"},
		{unitSeconds, -0.25, "-250 ms"},
		{unitSeconds, math.Inf(1), "+Inf"},
		{unitSeconds, math.Inf(-1), "-Inf"},
		{unitSeconds, math.NaN(), "–"},
		{unitBytes, 512, "512 B"},
		{unitBytes, 1 << 10, "1 KiB"},
		{unitBytes, 1 << 30, "1 GiB"},
		{unitBytes, 3 << 19, "1.5 MiB"},
		{unitNone, 0.25, "0.25"},
		{unitNone, 1500, "1.5 k"},
		{unitNone, 2e9, "2 G"},
	} {
		if got := c.unit.format(c.value); got != c.want {
			t.Errorf("%v in unit %d = %q, want %q", c.value, c.unit, got, c.want)
		}
	}
}

func TestUnitOf(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name, declared string
		want           unit
	}{
		{"nfs_latency_seconds", "", unitSeconds},
		{"nfs_latency", "seconds", unitSeconds},
		{"read_size_bytes", "", unitBytes},
		{"queue_depth", "", unitNone},
		{"odd_name_seconds", "celsius", unitNone},
	} {
		if got := unitOf(c.name, c.declared); got != c.want {
			t.Errorf("unit of %s (%q) = %d, want %d", c.name, c.declared, got, c.want)
		}
	}
}
