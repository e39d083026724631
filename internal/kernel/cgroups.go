package kernel

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/cilium/ebpf"
)

// What bpf/cgroup.bpf.h calls the map with the paths of the control groups that keys refer to, the type of the keys' member, and the number of the
// groups that have no place.
const (
	cgroupPathsMap = "cgroup_paths"
	cgroupType     = "cgroup_id"
	cgroupOther    = ^uint64(0)
)

// cgroups names the control groups of a source's keys.
type cgroups struct {
	paths  *ebpf.Map
	parser *cgroupNames
	known  map[uint64]string // label values
	unused map[uint64]bool   // the groups with a path to which no key referred when the last sweep looked
	buffer []byte
}

// newCgroups makes cgroups that can be used when their map is there.
func newCgroups() *cgroups { return &cgroups{parser: newCgroupNames(), known: map[uint64]string{}} }

// use reads paths from a map.
func (c *cgroups) use(paths *ebpf.Map) { c.paths, c.buffer = paths, make([]byte, paths.ValueSize()) }

// learn looks up the names of groups. Those that have none are "other"; those whose path is being written stay unknown.
func (c *cgroups) learn(numbers map[uint64]bool) error {
	for number := range numbers {
		if c.known[number] != "" {
			continue
		}
		err := c.paths.Lookup(number, c.buffer)
		switch {
		case number == cgroupOther || errors.Is(err, ebpf.ErrKeyNotExist):
			c.known[number] = other
		case err != nil:
			return fmt.Errorf("read path of cgroup %d: %w", number, err)
		default:
			if names, complete := parseCgroupPath(c.buffer); complete {
				c.known[number] = c.parser.label(names)
			}
		}
	}
	return nil
}

// name returns the label value of a group, false if it is not known yet.
func (c *cgroups) name(number uint64) (string, bool) {
	name := c.known[number]
	return name, name != ""
}

// changed returns false: the numbers of groups are not used again.
func (c *cgroups) changed(uint64) bool { return false }

// refresh has nothing to do.
func (c *cgroups) refresh() error { return nil }

// sweep removes the paths to which no key refers now or referred at the last sweep, and forgets names one sweep later: a program may be about to
// count under a key for which it has found the path.
func (c *cgroups) sweep(used map[uint64]bool) error {
	unused, kept := map[uint64]bool{}, map[uint64]bool{}
	numbers, err := c.numbers()
	if err != nil {
		return err
	}
	for _, number := range numbers {
		kept[number] = true
		switch {
		case used[number]:
		case !c.unused[number]:
			unused[number] = true
		default:
			if err := c.paths.Delete(number); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
				return fmt.Errorf("remove path of cgroup %d: %w", number, err)
			}
		}
	}
	for number := range c.known {
		if !used[number] && !kept[number] {
			delete(c.known, number)
		}
	}
	c.unused = unused
	return nil
}

// numbers lists the groups that have a path.
func (c *cgroups) numbers() ([]uint64, error) {
	var numbers []uint64
	var number uint64
	err := c.paths.NextKey(nil, &number)
	for ; err == nil; err = c.paths.NextKey(number, &number) {
		numbers = append(numbers, number)
	}
	if !errors.Is(err, ebpf.ErrKeyNotExist) {
		return nil, fmt.Errorf("list paths of cgroups: %w", err)
	}
	return numbers, nil
}

// parseCgroupPath decodes struct cgroup_path into the names from below the root down; false if they are being written.
func parseCgroupPath(raw []byte) (names []string, complete bool) {
	const header, words = 16, 4
	var head [words]uint32
	if len(raw) < header {
		return nil, false
	}
	for i := range head {
		head[i] = binary.NativeEndian.Uint32(raw[4*i:])
	}
	size := (len(raw) - header) / 2
	half := func(i, length uint32) []byte {
		from := raw[header+int(i&1)*size:][:size]
		return from[:min(uint64(length), uint64(size))]
	}
	for _, part := range [][]byte{half(head[1]^1, head[3]), half(head[1], head[2])} {
		for len(part) > 0 {
			name, rest, _ := bytes.Cut(part, []byte{0})
			names, part = append(names, strings.ToValidUTF8(string(name), "\ufffd")), rest
		}
	}
	slices.Reverse(names)
	return names, head[0] != 0
}
