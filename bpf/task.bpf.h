/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#ifndef LATPUSH_TASK_BPF_H
#define LATPUSH_TASK_BPF_H

#include "kernel.bpf.h"

/* Returns the state of a task: 0 is runnable. */
static __always_inline unsigned int task_state(struct task_struct *task)
{
	struct task_struct___5_13 *old = (void *)task;

	/* In a loop the compiler would find both addresses first, and a kernel without one of the fields would refuse that. */
	if (bpf_core_field_exists(old->state)) {
		barrier_var(old);
		return BPF_CORE_READ(old, state);
	}
	barrier_var(task);
	return BPF_CORE_READ(task, __state);
}

#endif
