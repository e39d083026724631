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
func releaseCode() error {
	return eachCode(func(begin, end uintptr) error { return advise(begin, end, unix.MADV_DONTNEED) })
}

// eachCode calls f with each mapping of this program's own file that cannot be written to and that nothing was written to, as a dynamic linker does.
func eachCode(f func(begin, end uintptr) error) error {
	file, err := os.Open("/proc/self/smaps")
	if err != nil {
		return fmt.Errorf("read own memory map: %w", err)
	}
	defer func() { _ = file.Close() }()
	path, err := os.Readlink("/proc/self/exe")
	if err != nil {
		return fmt.Errorf("find own program: %w", err)
	}
	var begin, end uintptr
	var rights string
	isCode := false
	scanner := bufio.NewScanner(file)
	for scanner.Scan() {
		line := scanner.Text()
		if !strings.Contains(strings.Fields(line + " -")[0], ":") { // a mapping; its properties follow
			if _, err := fmt.Sscanf(line, "%x-%x %s", &begin, &end, &rights); err != nil {
				return fmt.Errorf("read own memory map: %q: %w", line, err)
			}
			isCode = strings.HasSuffix(line, path) && !strings.Contains(rights, "w")
			continue
		}
		if written, found := strings.CutPrefix(line, "Anonymous:"); found && isCode && strings.TrimSpace(written) == "0 kB" {
			if err := f(begin, end); err != nil {
				return err
			}
		}
	}
	return scanner.Err()
}

func advise(begin, end, advice uintptr) error {
	if _, _, errno := unix.Syscall(unix.SYS_MADVISE, begin, end-begin, advice); errno != 0 {
		return fmt.Errorf("advise on pages %x-%x of own program: %w", begin, end, errno)
	}
	return nil
}
