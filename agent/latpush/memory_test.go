package main

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// residentFile returns how many KiB of files are mapped into memory.
func residentFile(t *testing.T) (kib int) {
	t.Helper()
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(status), "\nRssFile:")
	if _, err := fmt.Sscanf(rest, "%d kB", &kib); err != nil {
		t.Fatalf("read RssFile: %v", err)
	}
	return kib
}

func TestReleaseCode(t *testing.T) {
	if err := eachCode(func(begin, end uintptr) error { return advise(begin, end, unix.MADV_POPULATE_READ) }); err != nil {
		t.Fatal(err)
	}
	before := residentFile(t)
	if err := releaseCode(); err != nil {
		t.Fatal(err)
	}
	// What runs meanwhile comes back at once, with all that the page cache keeps in the same folio: of a program that was just linked, up to 2 MiB each.
	if after := residentFile(t); after > before-512 {
		t.Errorf("%d KiB of the program are in memory, %d were before", after, before)
	}
}
