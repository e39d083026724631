// Package bench holds the measurements that `make bench` prints: what latpush's programs add to an event beside empty ones and to a system call
// beside other ways to do the same, what a tick costs, how much memory the agent takes, what it takes to deliver a day's spool, and how many
// bytes the spool writes. Machines are noisy, so what is compared is measured in turn, in one run.
package bench
