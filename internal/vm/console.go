package vm

import (
	"bufio"
	"errors"
	"io"
	"regexp"
	"strings"
)

// tailLines is how much of the console goes into an error.
const tailLines = 80

// maxLine bounds one line of a console, in bytes: a guest that prints no newline is cut.
const maxLine = 64 << 10

// fault is what a line of the kernel's console says about the kernel's health.
type fault int

const (
	healthy fault = iota
	warned        // a WARN: the kernel goes on, something is wrong in it
	stalled       // a stall or lockup: the kernel may recover, an emulated one often does
	crashed       // an oops or panic: the guest is over
)

// judge classifies one line of the console.
func judge(line string) fault {
	for _, pattern := range []struct {
		expression string
		fault      fault
	}{
		{`Kernel panic - not syncing|kernel BUG at |\bPANIC: |\bOops: |Internal error: |general protection fault`, crashed},
		{`\bBUG: (kernel NULL pointer|unable to handle) |Unable to handle kernel `, crashed},
		{`\bBUG: soft lockup|hard LOCKUP|blocked for more than |detected stall`, stalled},
		{`\bBUG: |\bWARNING: `, warned},
	} {
		if regexp.MustCompile(pattern.expression).MatchString(line) {
			return pattern.fault
		}
	}
	return healthy
}

// console follows the console of one guest. It is used by one goroutine, and by others only after that one has ended.
type console struct {
	logf  func(format string, args ...any)
	tail  []string // the last lines
	first map[fault]string
}

func newConsole(log Logger) *console {
	return &console{logf: log.Logf, first: map[fault]string{}}
}

// follow reads lines until the guest ends.
func (c *console) follow(r io.Reader) {
	control := regexp.MustCompile(`\x1b(\[[0-9;?]*)?[a-zA-Z]|[\x00-\x08\x0b-\x1f\x7f]`) // the firmware clears the screen
	eachLine(r, func(line string) {
		line = strings.TrimRight(control.ReplaceAllString(line, ""), " ")
		if line == "" {
			return
		}
		c.logf("console: %s", line)
		c.tail = append(c.tail, line)
		if len(c.tail) > 2*tailLines {
			c.tail = append([]string{}, c.tail[len(c.tail)-tailLines:]...)
		}
		if f := judge(line); f != healthy && c.first[f] == "" {
			c.first[f] = line
		}
	})
}

// last returns the end of the console, for an error.
func (c *console) last() string {
	return strings.Join(c.tail[max(0, len(c.tail)-tailLines):], "\n")
}

// eachLine calls f for each line until the reader ends; a line longer than maxLine comes in pieces.
func eachLine(r io.Reader, f func(line string)) {
	lines := bufio.NewReaderSize(r, maxLine)
	for {
		line, err := lines.ReadSlice('\n')
		if len(line) > 0 {
			f(strings.TrimRight(string(line), "\r\n"))
		}
		if err != nil && !errors.Is(err, bufio.ErrBufferFull) {
			return
		}
	}
}
