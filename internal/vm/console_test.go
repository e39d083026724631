package vm

import (
	"fmt"
	"strings"
	"testing"
)

// lines is a Logger that keeps what it gets.
type lines struct{ text []string }

func (l *lines) Logf(format string, args ...any) {
	l.text = append(l.text, fmt.Sprintf(format, args...))
}

func TestJudge(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		line string
		want fault
	}{
		{"[    3.1] Kernel panic - not syncing: Attempted to kill init! exitcode=0x00000100", crashed},
		{"[    3.1] BUG: kernel NULL pointer dereference, address: 0000000000000000", crashed},
		{"[    3.1] BUG: unable to handle page fault for address: ffff8880", crashed},
		{"[    6.8] Oops: double fault: 0000 [#1] PREEMPT SMP NOPTI", crashed},
		{"[    6.8] traps: PANIC: double fault, error_code: 0x0", crashed},
		{"[    6.8] Oops: 0002 [#1] SMP NOPTI", crashed},
		{"[    6.8] kernel BUG at fs/nfs/inode.c:12!", crashed},
		{"[    1.0] Internal error: Oops: 0000000096000004 [#1] SMP", crashed},
		{"[    1.0] Unable to handle kernel NULL pointer dereference at virtual address 0000000000000010", crashed},
		{"[    1.0] general protection fault, probably for non-canonical address 0xdead: 0000 [#1]", crashed},
		{"[   40.0] watchdog: BUG: soft lockup - CPU#1 stuck for 22s! [program:181]", stalled},
		{"[  240.0] INFO: task program:181 blocked for more than 120 seconds.", stalled},
		{"[   30.0] rcu: INFO: rcu_preempt self-detected stall on CPU", stalled},
		{"[    2.0] WARNING: CPU: 0 PID: 1 at kernel/bpf/verifier.c:12 check+0x1/0x2", warned},
		{"[    2.0] BUG: sleeping function called from invalid context at mm/slab.h:1", warned},
		{"[    2.0] WARNING: fs/nfs/inode.c:12 at nfs_x+0x1/0x2, CPU#0: program/181", warned},
		{"[    2.0] WARNING: possible circular locking dependency detected", warned},
		{"[    2.0] debug: DEBUG: nothing", healthy},
		{"[    0.1] Linux version 6.1.0", healthy},
	} {
		if got := judge(tt.line); got != tt.want {
			t.Errorf("%s: %d, want %d", tt.line, got, tt.want)
		}
	}
}

func TestConsole(t *testing.T) {
	t.Parallel()
	log := &lines{}
	c := newConsole(log)
	var text strings.Builder
	text.WriteString("\x1bc\x1b[?7l\x1b[2J\r\n")
	for i := range 500 {
		fmt.Fprintf(&text, "line %d\r\n", i)
	}
	text.WriteString("[ 1.0] \x1b[31mOops: first\x1b[0m\n[ 2.0] Oops: second\nlast, without an end")
	c.follow(strings.NewReader(text.String()))
	if n := len(log.text); n != 503 || log.text[0] != "console: line 0" {
		t.Errorf("log has %d lines and begins with %q", n, log.text[0])
	}
	if c.first[crashed] != "[ 1.0] Oops: first" {
		t.Errorf("first crash is %q", c.first[crashed])
	}
	last := strings.Split(c.last(), "\n")
	if len(last) != tailLines || last[tailLines-1] != "last, without an end" || last[0] != fmt.Sprintf("line %d", 500-tailLines+3) {
		t.Errorf("the tail has %d lines, from %q to %q", len(last), last[0], last[len(last)-1])
	}
}

func TestEachLineCutsLongLines(t *testing.T) {
	t.Parallel()
	var got []int
	eachLine(strings.NewReader(strings.Repeat("x", maxLine+10)+"\nab\n"), func(line string) { got = append(got, len(line)) })
	if fmt.Sprint(got) != fmt.Sprint([]int{maxLine, 10, 2}) {
		t.Errorf("lines have %d bytes", got)
	}
}
