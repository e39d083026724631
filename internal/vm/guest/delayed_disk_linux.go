package guest

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// deviceMapper is the control device of the device mapper: misc device 236.
const deviceMapper = "/dev/mapper/control"

// DelayedDiskOptions of a disk that passes what it is asked to another one, later.
type DelayedDiskOptions struct {
	Lower string        // path of the disk below
	Read  time.Duration // whole milliseconds that each read waits; the kernel's timer makes it a tick less or more
	Write time.Duration // the same for writes
	Parts int           // parts of which the disk consists; what crosses their border is split in two; default 1
}

// DelayedDisk is a disk of the device mapper, whose driver takes bios and makes no requests.
type DelayedDisk struct {
	Name string // as in /proc/diskstats: dm-0
	Path string // /dev/dm-0

	name string // the device mapper's own
}

// NewDelayedDisk makes a disk of the device mapper's target "delay".
func NewDelayedDisk(o DelayedDiskOptions) (*DelayedDisk, error) {
	if err := LoadModule("dm-delay"); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(filepath.Dir(deviceMapper), 0o755); err != nil {
		return nil, fmt.Errorf("make delayed disk: %w", err)
	}
	if err := unix.Mknod(deviceMapper, unix.S_IFCHR|0o600, int(unix.Mkdev(10, 236))); err != nil && !errors.Is(err, unix.EEXIST) {
		return nil, fmt.Errorf("make delayed disk: make node of the device mapper: %w", err)
	}
	table, err := o.table()
	if err != nil {
		return nil, fmt.Errorf("make delayed disk: %w", err)
	}
	d := &DelayedDisk{name: "delayed-" + filepath.Base(o.Lower)}
	number, err := d.control(unix.DM_DEV_CREATE, 0, nil)
	if err != nil {
		return nil, err
	}
	d.Name = "dm-" + strconv.FormatUint(number&0xff|number>>12&^0xff, 10)
	d.Path = "/dev/" + d.Name
	if _, err := d.control(unix.DM_TABLE_LOAD, max(o.Parts, 1), table); err != nil {
		return nil, errors.Join(err, d.Close())
	}
	if _, err := d.control(unix.DM_DEV_SUSPEND, 0, nil); err != nil { // without the flag that suspends, it resumes
		return nil, errors.Join(err, d.Close())
	}
	return d, nil
}

// table returns the targets of which the disk consists, as the device mapper wants them: a description and its parameters as text, one after another.
func (o DelayedDiskOptions) table() ([]byte, error) {
	text, err := os.ReadFile("/sys/class/block/" + filepath.Base(o.Lower) + "/size")
	if err != nil {
		return nil, err
	}
	sectors, err := strconv.ParseUint(strings.TrimSpace(string(text)), 10, 64)
	if err != nil {
		return nil, fmt.Errorf("read size of %s: %w", o.Lower, err)
	}
	var table bytes.Buffer
	parts := uint64(max(o.Parts, 1))
	length := sectors / parts &^ 7
	for part := range parts {
		start := part * length
		parameters := fmt.Sprintf("%s %d %d %s %d %d", o.Lower, start, o.Read.Milliseconds(), o.Lower, start, o.Write.Milliseconds())
		size := (int(unsafe.Sizeof(unix.DmTargetSpec{})) + len(parameters) + 8) &^ 7 // with a zero byte at least
		spec := unix.DmTargetSpec{Sector_start: start, Length: length, Next: uint32(size)}
		copy(spec.Target_type[:], "delay")
		if err := binary.Write(&table, binary.NativeEndian, spec); err != nil {
			return nil, err
		}
		table.WriteString(parameters)
		table.Write(make([]byte, size-int(unsafe.Sizeof(spec))-len(parameters)))
	}
	return table.Bytes(), nil
}

// control asks the device mapper for something, and returns the number of the disk as it has it.
func (d *DelayedDisk) control(command uintptr, targets int, table []byte) (uint64, error) {
	file, err := os.OpenFile(deviceMapper, os.O_RDWR, 0)
	if err != nil {
		return 0, fmt.Errorf("open device mapper: %w", err)
	}
	defer func() { _ = file.Close() }()
	head := unix.DmIoctl{Version: [3]uint32{4, 0, 0}, Data_start: uint32(unsafe.Sizeof(unix.DmIoctl{})), Target_count: uint32(targets)}
	copy(head.Name[:], d.name)
	request := make([]byte, int(head.Data_start)+max(len(table), 64))
	head.Data_size = uint32(len(request))
	if _, err := binary.Encode(request, binary.NativeEndian, head); err != nil {
		return 0, fmt.Errorf("ask device mapper: %w", err)
	}
	copy(request[head.Data_start:], table)
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, file.Fd(), command, uintptr(unsafe.Pointer(&request[0]))); errno != 0 {
		return 0, fmt.Errorf("ask device mapper for %#x of %s: %w", command, d.name, errno)
	}
	if _, err := binary.Decode(request, binary.NativeEndian, &head); err != nil {
		return 0, fmt.Errorf("ask device mapper: %w", err)
	}
	return head.Dev, nil
}

// Close takes the disk away. Nothing may have it open.
func (d *DelayedDisk) Close() error {
	_, err := d.control(unix.DM_DEV_REMOVE, 0, nil)
	return err
}

// MemoryDisk makes a disk of the given size in memory, whose driver does what it is asked before it returns. It stays: there is only one.
func MemoryDisk(mib int) (path string, err error) {
	if ModuleLoaded("brd") {
		return "/dev/ram0", nil
	}
	return "/dev/ram0", LoadModule("brd", "rd_nr=1", "rd_size="+strconv.Itoa(mib<<10))
}
