// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* oncpu: how long a task has a CPU each time it gets one, from the switch to it to the switch away from it. Only one task at a time has a
 * CPU, so one time per CPU is enough, and nothing is kept for tasks. */
#include "kernel.bpf.h"
#include "histogram.bpf.h"
#include "scheduler.bpf.h"

HISTOGRAM_ARRAY(task_on_cpu, 1);

/* Key: always 0. Value: when this CPU last switched between tasks, ns, 0 before the first time. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u64);
} switched SEC(".maps");

static __always_inline int handle_switch(bool idle)
{
	__u64 now = bpf_ktime_get_ns(), since, *last;
	struct histogram *h;
	__u32 zero = 0;

	last = bpf_map_lookup_elem(&switched, &zero);
	if (!last)
		return 0;
	since = *last;
	*last = now;
	if (idle || !since || !ascending(since, now))
		return 0;
	h = bpf_map_lookup_elem(&task_on_cpu, &zero);
	if (h)
		histogram_add_alone(h, now - since); /* the run queue's lock is held and interrupts are off */
	return 0;
}

SEC("tp_btf/sched_switch")
int BPF_PROG(sched_switch_tp_btf, bool preempt, struct task_struct *prev)
{
	return handle_switch(!prev->pid);
}

SEC("raw_tp/sched_switch")
int BPF_PROG(sched_switch_raw_tp, bool preempt, struct task_struct *prev)
{
	return handle_switch(!BPF_CORE_READ(prev, pid));
}

SEC("tracepoint/sched/sched_switch")
int sched_switch_tracepoint(struct sched_switch_record *record)
{
	return handle_switch(!record->prev_pid);
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
