package guest

import (
	"fmt"
	"path/filepath"
	"time"

	"github.com/prometheus/procfs"
	"github.com/prometheus/procfs/blockdevice"
)

// NFSStats is what the kernel's NFS client has counted for one mount, from /proc/self/mountstats.
type NFSStats struct {
	Requests  map[string]uint64   // RPCs by operation: READ, WRITE, OPEN, GETATTR, COMMIT, ...
	Times     map[string]RPCTimes // of the same
	VFSOpens  uint64              // files and folders opened
	VFSFsyncs uint64
	BytesRead uint64 // by read, not counting O_DIRECT
	Written   uint64 // by write, not counting O_DIRECT
}

// RPCTimes is where the time of the RPCs of one operation went, in whole milliseconds.
type RPCTimes struct {
	Queue   time.Duration // from the call to its first transmission
	Network time.Duration // from there to the answer
	Total   time.Duration // from the call to its end
}

// Mountstats reads the counts of the NFS mount at dir.
func Mountstats(dir string) (NFSStats, error) {
	self, err := procfs.Self()
	if err != nil {
		return NFSStats{}, fmt.Errorf("read mountstats: %w", err)
	}
	mounts, err := self.MountStats()
	if err != nil {
		return NFSStats{}, fmt.Errorf("read mountstats: %w", err)
	}
	for _, mount := range mounts {
		stats, ok := mount.Stats.(*procfs.MountStatsNFS)
		if !ok || mount.Mount != filepath.Clean(dir) {
			continue
		}
		s := NFSStats{
			Requests: map[string]uint64{}, Times: map[string]RPCTimes{}, VFSOpens: stats.Events.VFSOpen, VFSFsyncs: stats.Events.VFSFsync,
			BytesRead: stats.Bytes.Read, Written: stats.Bytes.Write,
		}
		for _, o := range stats.Operations {
			s.Requests[o.Operation] = o.Requests
			s.Times[o.Operation] = RPCTimes{
				Queue: milliseconds(o.CumulativeQueueMilliseconds), Network: milliseconds(o.CumulativeTotalResponseMilliseconds),
				Total: milliseconds(o.CumulativeTotalRequestMilliseconds),
			}
		}
		return s, nil
	}
	return NFSStats{}, fmt.Errorf("read mountstats: no nfs mount at %s", dir)
}

// Sub returns what was counted since an earlier reading of the same mount. Operations that did not happen are left out.
func (s NFSStats) Sub(earlier NFSStats) NFSStats {
	d := NFSStats{
		Requests: map[string]uint64{}, Times: map[string]RPCTimes{}, VFSOpens: s.VFSOpens - earlier.VFSOpens, VFSFsyncs: s.VFSFsyncs - earlier.VFSFsyncs,
		BytesRead: s.BytesRead - earlier.BytesRead, Written: s.Written - earlier.Written,
	}
	for operation, requests := range s.Requests {
		if n := requests - earlier.Requests[operation]; n > 0 {
			now, before := s.Times[operation], earlier.Times[operation]
			d.Requests[operation] = n
			d.Times[operation] = RPCTimes{now.Queue - before.Queue, now.Network - before.Network, now.Total - before.Total}
		}
	}
	return d
}

func milliseconds(n uint64) time.Duration { return time.Duration(n) * time.Millisecond }

// Diskstats reads the kernel's counts of a block device, such as "nullb0", from /proc/diskstats.
func Diskstats(device string) (blockdevice.IOStats, error) {
	proc, err := blockdevice.NewDefaultFS()
	if err != nil {
		return blockdevice.IOStats{}, fmt.Errorf("read diskstats: %w", err)
	}
	disks, err := proc.ProcDiskstats()
	if err != nil {
		return blockdevice.IOStats{}, fmt.Errorf("read diskstats: %w", err)
	}
	for _, disk := range disks {
		if disk.DeviceName == device {
			return disk.IOStats, nil
		}
	}
	return blockdevice.IOStats{}, fmt.Errorf("read diskstats: no device %s", device)
}
