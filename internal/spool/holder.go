package spool

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"
)

// locksFile lists the locks of all processes that this one can see: number, kind, mode, access, process, device and inode, and a range of bytes.
const locksFile = "/proc/locks"

// Holder returns the process that has the spool open, 0 if none has, or none that this process can see: one in another container, say. It reads the
// kernel's list and takes no lock itself, so that it is never in the way of an agent that starts.
func Holder(directory string) (pid int, err error) {
	var lock unix.Stat_t
	err = unix.Stat(filepath.Join(directory, lockName), &lock)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("find holder of spool %s: %w", directory, err)
	}
	list, err := os.ReadFile(locksFile)
	if err != nil {
		return 0, fmt.Errorf("find holder of spool %s: %w", directory, err)
	}
	return holderIn(list, lock.Dev, lock.Ino), nil
}

// holderIn looks for the lock of a file. Some file systems (btrfs, overlay) tell programs another device than the list has, so the device only
// decides between several.
func holderIn(list []byte, device, inode uint64) (pid int) {
	exact := fmt.Sprintf("%02x:%02x:%d", unix.Major(device), unix.Minor(device), inode)
	suffix := fmt.Sprintf(":%d", inode)
	for line := range bytes.Lines(list) {
		fields := bytes.Fields(line)
		if len(fields) < 6 || string(fields[1]) != "FLOCK" || string(fields[3]) != "WRITE" || !bytes.HasSuffix(fields[5], []byte(suffix)) {
			continue
		}
		owner, err := strconv.Atoi(string(fields[4]))
		if err != nil || owner <= 0 {
			continue
		}
		if string(fields[5]) == exact {
			return owner
		}
		pid = owner
	}
	return pid
}
