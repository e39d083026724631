/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* What the programs on sched_switch share. */
#ifndef LATPUSH_SCHEDULER_BPF_H
#define LATPUSH_SCHEDULER_BPF_H

#include "kernel.bpf.h"
#include "task.bpf.h"

struct sched_switch_record {
	__u64 common;
	char prev_comm[16];
	__s32 prev_pid;
	__s32 prev_prio;
	long prev_state;
	char next_comm[16];
	__s32 next_pid;
};

#endif
