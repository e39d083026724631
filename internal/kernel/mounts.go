package kernel

import (
	"bufio"
	"cmp"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"
)

// The types, in bpf/labels.bpf.h, of the members that are the number of a mount.
const (
	mountType  = "mount_id"
	serverType = "mount_server"
)

// mountOther is the number, MOUNT_OTHER, of the mounts that have no place.
const mountOther = ^uint64(0)

// Bounds of what is read of the kernel's list of mounts. A path of 4 KiB has up to four characters for each byte, and a line has two of them.
const (
	maxMountLine = 64 << 10
	maxMountList = 16 << 20
)

// mount is what the kernel says of an NFS mount.
type mount struct {
	id     uint32
	device uint64
	point  string // where it is mounted
	source string // what is mounted, such as "server:/export"
}

// mounts knows the NFS mounts of a source's keys.
type mounts struct {
	files []string         // the lists of mounts, in the order of preference
	list  []mount          // what they said last
	known map[uint64]mount // what label sets are named after; the zero mount for "other"
}

// newMounts prefers the mounts of the first process to the agent's own, which may be copies of them.
func newMounts() *mounts {
	return &mounts{files: []string{"/proc/1/mountinfo", "/proc/self/mountinfo"}, known: map[uint64]mount{}}
}

// refresh reads the lists of mounts. One is enough: that of the first process may be hidden.
func (m *mounts) refresh() error {
	m.list = m.list[:0]
	var errs []error
	for _, name := range m.files {
		found, err := listMounts(name)
		errs = append(errs, err)
		m.list = append(m.list, found...)
	}
	if slices.Contains(errs, nil) {
		return nil
	}
	return errors.Join(errs...)
}

// find looks for a mount by its identity, or, for one of another namespace, for the first mount of the same file system.
func (m *mounts) find(number uint64) (mount, bool) {
	same := func(m mount) bool { return m.device == number>>32 && m.id == uint32(number) }
	i := slices.IndexFunc(m.list, same)
	if i < 0 {
		i = slices.IndexFunc(m.list, func(m mount) bool { return m.device == number>>32 })
	}
	if i < 0 {
		return mount{}, false
	}
	return m.list[i], true
}

// learn looks up mounts. One that is in no list is "other".
func (m *mounts) learn(numbers map[uint64]bool) error {
	fresh := false
	for number := range numbers {
		if _, ok := m.known[number]; ok {
			continue
		}
		found, ok := m.find(number)
		if !ok && !fresh && number != mountOther {
			if err := m.refresh(); err != nil {
				return err
			}
			found, _ = m.find(number)
			fresh = true
		}
		m.known[number] = found
	}
	return nil
}

// changed returns whether another mount has a number now.
func (m *mounts) changed(number uint64) bool {
	known, was := m.known[number]
	found, is := m.find(number)
	return was && is && (known.point != found.point || known.source != found.source)
}

// forget forgets the mounts to which no key refers.
func (m *mounts) forget(used map[uint64]bool) {
	maps.DeleteFunc(m.known, func(number uint64, _ mount) bool { return !used[number] })
}

// mountPoints names mounts by where they are mounted.
type mountPoints struct{ *mounts }

func (m mountPoints) name(number uint64) (string, bool) {
	known, ok := m.known[number]
	return cmp.Or(labelText(known.point), other), ok
}

func (m mountPoints) sweep(used map[uint64]bool) error {
	m.forget(used)
	return nil
}

// mountServers names mounts by the server.
type mountServers struct{ *mounts }

func (m mountServers) name(number uint64) (string, bool) {
	known, ok := m.known[number]
	return cmp.Or(labelText(serverOf(known.source)), other), ok
}

func (m mountServers) sweep(used map[uint64]bool) error {
	m.forget(used)
	return nil
}

// serverOf returns the server of what is mounted: of "server:/export" or "[address]:/export".
func serverOf(source string) string {
	server := source
	if i := strings.LastIndex(source, ":/"); i >= 0 {
		server = source[:i]
	}
	return strings.TrimSuffix(strings.TrimPrefix(server, "["), "]")
}

// listMounts reads the NFS mounts of a list of the kernel.
func listMounts(name string) ([]mount, error) {
	file, err := os.Open(name)
	if err != nil {
		return nil, fmt.Errorf("list mounts: %w", err)
	}
	defer func() { _ = file.Close() }()
	var list []mount
	lines := bufio.NewScanner(io.LimitReader(file, maxMountList))
	lines.Buffer(nil, maxMountLine)
	for lines.Scan() {
		if m, ok := parseMount(lines.Text()); ok {
			list = append(list, m)
		}
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("list mounts of %s: %w", name, err)
	}
	return list, nil
}

// parseMount decodes a line such as "36 35 0:98 / /mnt rw,noatime shared:1 - nfs4 server:/export rw,vers=4.2", false if it is of no NFS mount.
func parseMount(line string) (mount, bool) {
	const idField, deviceField, pointField = 0, 2, 4
	before, after, _ := strings.Cut(line, " - ")
	fields, kind := strings.Fields(before), strings.Fields(after)
	if len(fields) <= pointField || len(kind) < 2 || kind[0] != "nfs" && kind[0] != "nfs4" {
		return mount{}, false
	}
	majorText, minorText, _ := strings.Cut(fields[deviceField], ":")
	id, err := strconv.ParseUint(fields[idField], 10, 32)
	major, majorErr := strconv.ParseUint(majorText, 10, 12)
	minor, minorErr := strconv.ParseUint(minorText, 10, 20)
	if errors.Join(err, majorErr, minorErr) != nil {
		return mount{}, false
	}
	return mount{id: uint32(id), device: major<<20 | minor, point: unescape(fields[pointField]), source: unescape(kind[1])}, true
}

// unescape decodes the octal numbers that stand for blanks, newlines and backslashes in the kernel's lists.
func unescape(text string) string {
	var plain strings.Builder
	for i := 0; i < len(text); i++ {
		if text[i] == '\\' && i+4 <= len(text) {
			if number, err := strconv.ParseUint(text[i+1:i+4], 8, 8); err == nil {
				plain.WriteByte(byte(number))
				i += 3
				continue
			}
		}
		plain.WriteByte(text[i])
	}
	return plain.String()
}
