/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* What the programs on sched_switch share. */
#ifndef LATPUSH_SCHEDULER_BPF_H
#define LATPUSH_SCHEDULER_BPF_H

#include "kernel.bpf.h"

struct sched_switch_record {
	__u64 common;
	char prev_comm[16];
	__s32 prev_pid;
	__s32 prev_prio;
	long prev_state;
	char next_comm[16];
	__s32 next_pid;
};

/* Returns the state of a task: 0 is runnable. */
static __always_inline unsigned int task_state(struct task_struct *task)
{
	struct task_struct___5_13 *old = (void *)task;

	if (bpf_core_field_exists(old->state))
		return BPF_CORE_READ(old, state);
	return BPF_CORE_READ(task, __state);
}

#endif
