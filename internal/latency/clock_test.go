package latency

import (
	"encoding/hex"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestSystemClockReadsThisHost(t *testing.T) {
	t.Parallel()
	clock, err := NewSystemClock()
	if err != nil {
		t.Fatal(err)
	}
	before := time.Now()
	first, second := clock.Now(), clock.Now()
	after := time.Now()

	text, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		t.Fatal(err)
	}
	if got, want := hex.EncodeToString(first.BootID[:]), strings.ReplaceAll(strings.TrimSpace(string(text)), "-", ""); got != want {
		t.Errorf("boot id %s, the kernel says %s", got, want)
	}
	if first.BootID != second.BootID {
		t.Error("the boot id changed between two readings")
	}
	if second.Boottime < first.Boottime {
		t.Errorf("CLOCK_BOOTTIME went back from %v to %v", first.Boottime, second.Boottime)
	}
	if first.Wall.Before(before.Round(0)) || first.Wall.After(after.Round(0)) {
		t.Errorf("wall clock %v is not between %v and %v", first.Wall, before, after)
	}
	if first.Wall.Location() != time.UTC || strings.Contains(first.Wall.String(), "m=") {
		t.Errorf("wall clock %v has a zone or a monotonic part", first.Wall)
	}
}

// The kernel's uptime is the same clock, so both readings must enclose each other to within its resolution of 10 ms.
func TestBoottimeIsTheUptime(t *testing.T) {
	t.Parallel()
	clock, err := NewSystemClock()
	if err != nil {
		t.Fatal(err)
	}
	before := clock.Now().Boottime
	text, err := os.ReadFile("/proc/uptime")
	if err != nil {
		t.Fatal(err)
	}
	after := clock.Now().Boottime
	uptime, err := time.ParseDuration(strings.Fields(string(text))[0] + "s")
	if err != nil {
		t.Fatal(err)
	}
	if uptime < before-10*time.Millisecond || uptime > after+10*time.Millisecond {
		t.Errorf("/proc/uptime says %v, which is not between %v and %v", uptime, before, after)
	}
}

func TestParseBootID(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name, text, hex, err string
	}{
		{name: "as the kernel writes it", text: "0b8ac2ea-5f0e-4a6d-9f46-3d0f0bb6a1c7\n", hex: "0b8ac2ea5f0e4a6d9f463d0f0bb6a1c7"},
		{name: "without dashes", text: "0b8ac2ea5f0e4a6d9f463d0f0bb6a1c7", hex: "0b8ac2ea5f0e4a6d9f463d0f0bb6a1c7"},
		{name: "empty", text: "", err: `"" is not a UUID`},
		{name: "short", text: "0b8ac2ea", err: `"0b8ac2ea" is not a UUID`},
		{name: "not hexadecimal", text: "zb8ac2ea-5f0e-4a6d-9f46-3d0f0bb6a1c7", err: "invalid byte"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			id, err := parseBootID(tt.text)
			if tt.err != "" {
				if err == nil || !strings.Contains(err.Error(), tt.err) {
					t.Fatalf("got error %v, want one with %q", err, tt.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if got := hex.EncodeToString(id[:]); got != tt.hex {
				t.Errorf("got %s, want %s", got, tt.hex)
			}
		})
	}
}

func TestNewSystemClockWithoutProc(t *testing.T) {
	t.Parallel()
	_, err := newSystemClock(filepath.Join(t.TempDir(), "boot_id"))
	if !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), "mount proc") {
		t.Errorf("got %v, want a missing file and what to do about it", err)
	}
}
