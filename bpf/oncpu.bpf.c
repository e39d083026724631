// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* oncpu: how long a task has a CPU each time it gets one, from the switch to it to the switch away from it. Only one task at a time has a
 * CPU, so one time per CPU is enough, and nothing is kept for tasks. */
#include "kernel.bpf.h"
#include "histogram.bpf.h"
#include "cgroup.bpf.h"
#include "scheduler.bpf.h"

HISTOGRAM_ARRAY(task_on_cpu, 1);

struct task_on_cpu_key {
	cgroup_id cgroup;
};

HISTOGRAM_MAP(task_on_cpu_by_cgroup, struct task_on_cpu_key, 1);

/* Key: always 0. Value: when this CPU last switched between tasks, ns, 0 before the first time. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u64);
} switched SEC(".maps");

/* The task that had the CPU is the current one still. */
static __always_inline void count(__u64 ns, enum cgroup_task kind)
{
	struct task_on_cpu_key key = {}, other = { .cgroup = CGROUP_OTHER };
	struct histogram *h;
	__u32 zero = 0;

	if (cgroup_label) {
		key.cgroup = cgroup_id_of(NULL, kind);
		histogram_observe_cgroup(&task_on_cpu_by_cgroup, &key, &other, NULL, kind, key.cgroup, ns);
		return;
	}
	h = bpf_map_lookup_elem(&task_on_cpu, &zero);
	if (h)
		histogram_add_alone(h, ns); /* the run queue's lock is held and interrupts are off */
}

static __always_inline int handle_switch(bool idle, enum cgroup_task kind)
{
	__u64 now = bpf_ktime_get_ns(), since, *last;
	__u32 zero = 0;

	last = bpf_map_lookup_elem(&switched, &zero);
	if (!last)
		return 0;
	since = *last;
	*last = now;
	if (!idle && since && ascending(since, now))
		count(now - since, kind);
	return 0;
}

SEC("tp_btf/sched_switch")
int BPF_PROG(sched_switch_tp_btf, bool preempt, struct task_struct *prev)
{
	return handle_switch(!prev->pid, CGROUP_CURRENT_TASK);
}

SEC("raw_tp/sched_switch")
int BPF_PROG(sched_switch_raw_tp, bool preempt, struct task_struct *prev)
{
	return handle_switch(!BPF_CORE_READ(prev, pid), CGROUP_CURRENT_TASK);
}

SEC("tracepoint/sched/sched_switch")
int sched_switch_tracepoint(struct sched_switch_record *record)
{
	return handle_switch(!record->prev_pid, CGROUP_NO_TASK);
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
