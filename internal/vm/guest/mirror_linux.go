package guest

import (
	"errors"
	"fmt"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Requests that the driver md takes, of linux/raid/md_u.h.
const (
	mdAddNewDisk   = 0x40140921
	mdSetArrayInfo = 0x40480923
	mdRunArray     = 0x400c0930
	mdStopArray    = 0x932
)

// mdArrayInfo is mdu_array_info_t.
type mdArrayInfo struct {
	Major, Minor, Patch int32
	Ctime               uint32
	Level, Size         int32
	Disks, RaidDisks    int32
	Number              int32
	NotPersistent       int32
	Utime               uint32
	State               int32
	Active, Working     int32
	Failed, Spare       int32
	Layout, ChunkSize   int32
}

// mdDiskInfo is mdu_disk_info_t.
type mdDiskInfo struct{ Number, Major, Minor, RaidDisk, State int32 }

// Mirror is a disk of the driver md with a copy of everything on each of the disks below. Its driver takes bios and makes no requests.
type Mirror struct {
	Name string // as in /proc/diskstats
	Path string
}

// NewMirror makes a mirror of disks of one size whose contents are equal. Nothing is written to them for it.
func NewMirror(name string, lower ...string) (*Mirror, error) {
	if err := LoadModule("raid1"); err != nil {
		return nil, err
	}
	m := &Mirror{Name: "md_" + name, Path: "/dev/md_" + name}
	if err := os.WriteFile("/sys/module/md_mod/parameters/new_array", []byte(m.Name), 0); err != nil {
		return nil, fmt.Errorf("make mirror: %w", err)
	}
	const clean, inSync = 1, 6
	n := int32(len(lower))
	info := mdArrayInfo{Minor: 90, Level: 1, Disks: n, RaidDisks: n, NotPersistent: 1, State: clean, Active: n, Working: n}
	if err := m.control(mdSetArrayInfo, unsafe.Pointer(&info)); err != nil {
		return nil, err
	}
	for i, path := range lower {
		var status unix.Stat_t
		if err := unix.Stat(path, &status); err != nil {
			return nil, errors.Join(fmt.Errorf("make mirror of %s: %w", path, err), m.Close())
		}
		disk := mdDiskInfo{Number: int32(i), Major: int32(unix.Major(status.Rdev)), Minor: int32(unix.Minor(status.Rdev)), RaidDisk: int32(i), State: inSync}
		if err := m.control(mdAddNewDisk, unsafe.Pointer(&disk)); err != nil {
			return nil, errors.Join(err, m.Close())
		}
	}
	if err := m.control(mdRunArray, nil); err != nil {
		return nil, errors.Join(err, m.Close())
	}
	return m, nil
}

// control asks the driver for something.
func (m *Mirror) control(request uintptr, argument unsafe.Pointer) error {
	file, err := os.OpenFile(m.Path, os.O_RDWR, 0)
	if err != nil {
		return fmt.Errorf("open mirror: %w", err)
	}
	defer func() { _ = file.Close() }()
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, file.Fd(), request, uintptr(argument)); errno != 0 {
		return fmt.Errorf("ask md for %#x of %s: %w", request, m.Name, errno)
	}
	return nil
}

// Close takes the disk away. Nothing may have it open.
func (m *Mirror) Close() error { return m.control(mdStopArray, nil) }
