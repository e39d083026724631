package guest

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

const nullBlockFolder = "/sys/kernel/config/nullb"

// NullBlockOptions of a block device that stores nothing.
type NullBlockOptions struct {
	Completion   time.Duration // how long each request takes in the device; 0 completes it at once
	SubmitQueues int           // default 1
	Depth        int           // requests that a queue takes at a time; default 64
	BlockSize    int           // bytes; default 512
	SizeMiB      int           // default 1024
	MemoryBacked bool          // keep what is written, so that a file system can be made on it
	CacheMiB     int           // size of a volatile write cache, which makes flushes real; needs MemoryBacked; default none
}

func (o NullBlockOptions) settings() map[string]int {
	flag := map[bool]int{true: 1}
	mode := 1 // complete in the softirq of the submitting processor
	if o.Completion > 0 {
		mode = 2 // complete by a timer
	}
	return map[string]int{
		"queue_mode":      2, // blk-mq, which is what reports requests to the tracepoints
		"irqmode":         mode,
		"completion_nsec": int(o.Completion.Nanoseconds()),
		"submit_queues":   max(o.SubmitQueues, 1),
		"hw_queue_depth":  orDefault(o.Depth, 64),
		"blocksize":       orDefault(o.BlockSize, 512),
		"size":            orDefault(o.SizeMiB, 1024),
		"memory_backed":   flag[o.MemoryBacked],
		"cache_size":      o.CacheMiB,
	}
}

func orDefault(value, standard int) int {
	if value == 0 {
		return standard
	}
	return value
}

// NullBlockDevice is a block device of known latency.
type NullBlockDevice struct {
	Name string // as in /proc/diskstats: nullb0
	Path string // /dev/nullb0

	folder string
}

// NullBlock makes a block device whose requests take a known time in the device.
func NullBlock(o NullBlockOptions) (*NullBlockDevice, error) {
	if !ModuleLoaded("null_blk") {
		if err := LoadModule("null_blk", "nr_devices=0"); err != nil {
			return nil, err
		}
	}
	if err := unix.Mount("configfs", "/sys/kernel/config", "configfs", 0, ""); err != nil && !errors.Is(err, unix.EBUSY) {
		return nil, fmt.Errorf("mount configfs: %w", err)
	}
	d, err := newNullBlock()
	if err != nil {
		return nil, err
	}
	for name, value := range o.settings() {
		if err := d.set(name, value); err != nil {
			return nil, errors.Join(err, os.Remove(d.folder))
		}
	}
	if err := d.power(); err != nil {
		return nil, errors.Join(err, d.Close())
	}
	return d, nil
}

// newNullBlock takes the first free number. Newer kernels call the disk like the folder, older ones nullb and the first free number: this way both
// give the same name.
func newNullBlock() (*NullBlockDevice, error) {
	for number := 0; ; number++ {
		d := &NullBlockDevice{Name: "nullb" + strconv.Itoa(number)}
		d.Path, d.folder = filepath.Join("/dev", d.Name), filepath.Join(nullBlockFolder, d.Name)
		switch err := os.Mkdir(d.folder, 0o755); {
		case errors.Is(err, fs.ErrExist):
			continue
		case err != nil:
			return nil, fmt.Errorf("make null block device: %w", err)
		}
		return d, nil
	}
}

func (d *NullBlockDevice) power() error {
	if err := d.set("power", 1); err != nil {
		return err
	}
	if _, err := os.Stat(d.Path); err != nil {
		return fmt.Errorf("make null block device: %w (the kernel gave it another name)", err)
	}
	return nil
}

func (d *NullBlockDevice) set(name string, value int) error {
	if err := os.WriteFile(filepath.Join(d.folder, name), []byte(strconv.Itoa(value)), 0); err != nil {
		return fmt.Errorf("set up null block device: %w", err)
	}
	return nil
}

// Close takes the device away. Nothing may have it open.
func (d *NullBlockDevice) Close() error {
	if err := d.set("power", 0); err != nil {
		return err
	}
	if err := os.Remove(d.folder); err != nil {
		return fmt.Errorf("remove null block device: %w", err)
	}
	return nil
}
