package main

import (
	"bufio"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// releaseCode gives back the pages of this program's own file that were mapped while it started: most of it is code that runs once. What is needed
// again comes back from the page cache.
func releaseCode() error { return adviseCode(unix.MADV_DONTNEED) }

// adviseCode gives the kernel an advice on every mapping of this program's own file that cannot be written to.
func adviseCode(advice uintptr) error {
	file, err := os.Open("/proc/self/maps")
	if err != nil {
		return fmt.Errorf("read own memory map: %w", err)
	}
	defer func() { _ = file.Close() }()
	path, err := os.Readlink("/proc/self/exe")
	if err != nil {
		return fmt.Errorf("find own program: %w", err)
	}
	scanner := bufio.NewScanner(file)
	for scanner.Scan() {
		var begin, end uintptr
		var rights string
		if _, err := fmt.Sscanf(scanner.Text(), "%x-%x %s", &begin, &end, &rights); err != nil {
			return fmt.Errorf("read own memory map: %q: %w", scanner.Text(), err)
		}
		if !strings.HasSuffix(scanner.Text(), path) || strings.Contains(rights, "w") {
			continue
		}
		if _, _, errno := unix.Syscall(unix.SYS_MADVISE, begin, end-begin, advice); errno != 0 {
			return fmt.Errorf("advise on pages %x-%x of own program: %w", begin, end, errno)
		}
	}
	return scanner.Err()
}
