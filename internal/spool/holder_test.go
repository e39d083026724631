package spool

import (
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

func TestHolder(t *testing.T) {
	t.Parallel()
	directory := t.TempDir()
	if pid, err := Holder(directory); err != nil || pid != 0 {
		t.Errorf("of an empty folder: %d, %v", pid, err)
	}
	if pid, err := Holder(filepath.Join(directory, "missing")); err != nil || pid != 0 {
		t.Errorf("of no folder: %d, %v", pid, err)
	}
	s, err := Open(Options{Directory: directory}, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	if pid, err := Holder(directory); err != nil || pid != os.Getpid() {
		t.Errorf("while it is open: %d, %v, want %d", pid, err, os.Getpid())
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if pid, err := Holder(directory); err != nil || pid != 0 {
		t.Errorf("after it was closed: %d, %v", pid, err)
	}
}

func TestHolderIn(t *testing.T) {
	t.Parallel()
	const device, inode = 0xfe01, 4711
	for _, tt := range []struct {
		name, list string
		want       int
	}{
		{"none", "", 0},
		{"the lock", "1: FLOCK  ADVISORY  WRITE 20684 fe:01:4711 0 EOF\n", 20684},
		{"another file", "1: FLOCK  ADVISORY  WRITE 20684 fe:01:14711 0 EOF\n", 0},
		{"one that waits", "1: -> FLOCK  ADVISORY  WRITE 20733 fe:01:4711 0 EOF\n", 0},
		{"a lock of another kind", "1: POSIX  ADVISORY  WRITE 20684 fe:01:4711 0 EOF\n", 0},
		{"a shared lock", "1: FLOCK  ADVISORY  READ 20684 fe:01:4711 0 EOF\n", 0},
		{"of nobody that is seen here", "1: FLOCK  ADVISORY  WRITE 0 fe:01:4711 0 EOF\n", 0},
		{"a file system that says another device", "1: FLOCK  ADVISORY  WRITE 9 00:2a:4711 0 EOF\n", 9},
		{"the right one of two", "1: FLOCK  ADVISORY  WRITE 8 fe:01:4711 0 EOF\n2: FLOCK  ADVISORY  WRITE 9 00:2a:4711 0 EOF\n", 8},
		{"garbage", "\x00\n1: FLOCK\n", 0},
	} {
		if got := holderIn([]byte(tt.list), unix.Mkdev(device>>8, device&0xff), inode); got != tt.want {
			t.Errorf("%s: %d, want %d", tt.name, got, tt.want)
		}
	}
}
