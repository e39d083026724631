package latency

import (
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Clock tells the present moment.
type Clock interface {
	Now() Instant
}

// SystemClock reads the clocks of this host. It is safe for concurrent use.
type SystemClock struct {
	bootID [16]byte
}

// NewSystemClock reads the boot id, which stays the same for as long as the process can live, and makes sure that CLOCK_BOOTTIME can be read.
func NewSystemClock() (*SystemClock, error) {
	return newSystemClock("/proc/sys/kernel/random/boot_id")
}

func newSystemClock(bootIDFile string) (*SystemClock, error) {
	text, err := os.ReadFile(bootIDFile)
	if err != nil {
		return nil, fmt.Errorf("read boot id: %w (mount proc on /proc)", err)
	}
	id, err := parseBootID(string(text))
	if err != nil {
		return nil, fmt.Errorf("read boot id from %s: %w", bootIDFile, err)
	}
	var boottime unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &boottime); err != nil {
		return nil, fmt.Errorf("read CLOCK_BOOTTIME: %w", err)
	}
	return &SystemClock{bootID: id}, nil
}

// Now returns the present moment. Boottime and Wall are read one right after the other; Wall is in UTC and has no monotonic part.
func (c *SystemClock) Now() Instant {
	var boottime unix.Timespec
	// The call cannot be refused here: NewSystemClock made it once with the same arguments.
	_ = unix.ClockGettime(unix.CLOCK_BOOTTIME, &boottime)
	return Instant{BootID: c.bootID, Boottime: time.Duration(boottime.Nano()), Wall: time.Now().Round(0).UTC()}
}

// Unset reports whether a wall clock shows a moment at which latpush cannot have run: nobody has set it since the power came on.
func Unset(wall time.Time) bool { return wall.Year() < 2025 }

// Synchronized asks the kernel whether something keeps the wall clock right. That changes nothing and needs no privilege. An error means that the
// kernel does not tell.
func Synchronized() (bool, error) {
	var state unix.Timex
	answer, err := unix.Adjtimex(&state)
	if err != nil {
		hint := ""
		if errors.Is(err, unix.EPERM) {
			hint = " (a filter of system calls, such as ProtectClock= of systemd, refuses it)"
		}
		return false, fmt.Errorf("read clock state: adjtimex: %w%s", err, hint)
	}
	return answer != unix.TIME_ERROR && state.Status&unix.STA_UNSYNC == 0, nil
}

// parseBootID decodes the kernel's form of a random UUID: 32 hexadecimal digits in five groups, and a newline.
func parseBootID(text string) (id [16]byte, err error) {
	digits := strings.ReplaceAll(strings.TrimSpace(text), "-", "")
	if len(digits) != hex.EncodedLen(len(id)) {
		return id, fmt.Errorf("%q is not a UUID", text)
	}
	if _, err := hex.Decode(id[:], []byte(digits)); err != nil {
		return id, fmt.Errorf("%q is not a UUID: %w", text, err)
	}
	return id, nil
}
