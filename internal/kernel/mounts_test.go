package kernel

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"unicode/utf8"
)

func TestParseMount(t *testing.T) {
	for line, want := range map[string]mount{
		"36 35 0:98 / /mnt rw,noatime shared:1 - nfs4 server:/export rw,vers=4.2":            {36, 98, "/mnt", "server:/export"},
		"36 35 0:98 / /mnt rw - nfs 192.0.2.7:/a rw":                                         {36, 98, "/mnt", "192.0.2.7:/a"},
		"4294967295 1 259:1 /sub /a\\040b\\134c rw master:1 - nfs4 [2001:db8::1]:/e\\011 rw": {1<<32 - 1, 259<<20 | 1, "/a b\\c", "[2001:db8::1]:/e\t"},
		"36 35 8:1 / / rw - ext4 /dev/sda1 rw":                                               {},
		"36 35 0:98 / /mnt - rw nfs4 x":                                                      {},
		"36 35 98 / /mnt rw - nfs4 server:/export rw":                                        {},
		"-1 35 0:98 / /mnt rw - nfs4 server:/export rw":                                      {},
		"36 35 0:98 / /mnt rw - nfs4":                                                        {},
		"":                                                                                   {},
	} {
		got, ok := parseMount(line)
		if got != want || ok != (want != mount{}) {
			t.Errorf("%q is %+v, %t, want %+v", line, got, ok, want)
		}
	}
}

func TestServerOf(t *testing.T) {
	for source, want := range map[string]string{
		"server:/export": "server", "192.0.2.7:/": "192.0.2.7", "[2001:db8::1]:/e": "2001:db8::1", "fe80::1:/e": "fe80::1", "server:/a:/b": "server:/a", "odd": "odd",
	} {
		if got := serverOf(source); got != want {
			t.Errorf("server of %s is %s, want %s", source, got, want)
		}
	}
}

func FuzzParseMount(f *testing.F) {
	f.Add("36 35 0:98 / /mnt rw,noatime shared:1 - nfs4 server:/export rw,vers=4.2")
	f.Add("36 35 0:98 / /m\\3 rw - nfs \\400: rw")
	f.Fuzz(func(t *testing.T, line string) {
		m, ok := parseMount(line)
		if !ok && m != (mount{}) {
			t.Errorf("%q is %+v", line, m)
		}
		for _, value := range []string{labelText(m.point), labelText(serverOf(m.source))} {
			if len(value) > maxLabelValue || !utf8.ValidString(value) {
				t.Errorf("label value %q", value)
			}
		}
	})
}

// Mounts are told by their identity, those of other namespaces by their file system, and a number that another mount has now has changed.
func TestMounts(t *testing.T) {
	file := filepath.Join(t.TempDir(), "mountinfo")
	list := func(lines ...string) {
		t.Helper()
		if err := os.WriteFile(file, []byte(strings.Join(lines, "\n")+"\n"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	m := newMounts()
	m.files = []string{filepath.Join(t.TempDir(), "hidden"), file}
	points, servers := mountPoints{m}, mountServers{m}
	number := func(device, id uint64) uint64 { return device<<32 | id }
	check := func(number uint64, point, server string) {
		t.Helper()
		if err := m.learn(map[uint64]bool{number: true}); err != nil {
			t.Fatal(err)
		}
		gotPoint, known := points.name(number)
		gotServer, _ := servers.name(number)
		if gotPoint != point || gotServer != server || !known {
			t.Errorf("mount %x is %s of %s, want %s of %s", number, gotPoint, gotServer, point, server)
		}
	}
	list("36 35 0:98 / /a rw - nfs4 one:/x rw", "37 35 0:98 / /b rw - nfs4 one:/x rw")
	check(number(98, 37), "/b", "one")
	check(number(98, 36), "/a", "one")
	check(number(98, 99), "/a", "one")
	check(number(97, 36), other, other)
	check(mountOther, other, other)
	list("36 35 0:98 / /c rw - nfs4 two:/x rw")
	check(number(98, 37), "/b", "one") // as long as its label set lives
	if err := m.refresh(); err != nil {
		t.Fatal(err)
	}
	if !m.changed(number(98, 36)) || m.changed(number(97, 36)) || m.changed(mountOther) {
		t.Error("what has changed is not seen")
	}
	if err := points.sweep(map[uint64]bool{number(97, 36): true}); err != nil || len(m.known) != 1 {
		t.Errorf("%d mounts are known after the others are not needed any more: %v", len(m.known), err)
	}
	check(number(98, 36), "/c", "two")
	list(strings.Repeat("x", maxMountLine+1))
	if err := m.refresh(); err == nil {
		t.Error("a line of any length is read")
	}
}
