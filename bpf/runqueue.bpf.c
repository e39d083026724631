// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* runqueue: the time a runnable task waits for a CPU, from its wake-up, its creation or its preemption to its next turn.
 *
 * A wake-up that finds the task still on its CPU ends no sleep, and one that finds it queued already (preempted between announcing a sleep
 * and sleeping) must not shorten the wait: the first start counts, and a task that goes to sleep has none. */
#include "kernel.bpf.h"
#include "histogram.bpf.h"
#include "cgroup.bpf.h"
#include "scheduler.bpf.h"

HISTOGRAM_ARRAY(run_queue_latency, 1);

struct run_queue_key {
	cgroup_id cgroup;
};

HISTOGRAM_MAP(run_queue_latency_by_cgroup, struct run_queue_key, 1);

/* Set by the loader: whether start times live in task storage. Only where task storage does not allocate from the slab in the ordinary way: the
 * scheduler's hooks hold the run queue's lock (6.4, 08a7ce384e33). */
const volatile bool in_task_storage;

/* Key: the task. Value: since when it waits, ns, 0 if it does not. Sized by the kernel, freed with the task. */
struct {
	__uint(type, BPF_MAP_TYPE_TASK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, __u64);
} task_waits SEC(".maps");

/* Key: thread id. Value: since when it waits, ns. As many entries as tasks can wait at once. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 16384);
	__type(key, __u32);
	__type(value, __u64);
} hash_waits SEC(".maps");

struct sched_wakeup_record {
	__u64 common;
	char comm[16];
	__s32 pid;
};

/* Counts the wait of next. */
static __always_inline void count(__u64 since, __u64 now, struct task_struct *next, enum cgroup_task kind)
{
	struct run_queue_key key = {}, other = { .cgroup = CGROUP_OTHER };
	struct histogram *h;
	__u32 zero = 0;

	if (!ascending(since, now))
		return;
	if (cgroup_label) {
		key.cgroup = cgroup_id_of(next, kind);
		histogram_observe_cgroup(&run_queue_latency_by_cgroup, &key, &other, next, kind, key.cgroup, now - since);
		return;
	}
	h = bpf_map_lookup_elem(&run_queue_latency, &zero);
	if (h)
		histogram_add_alone(h, now - since); /* the run queue's lock is held and interrupts are off */
}

static __always_inline void hash_wait(__u32 pid, __u64 now, __u64 flags)
{
	int err = bpf_map_update_elem(&hash_waits, &pid, &now, flags); /* before 6.4 (d7ba4cc900bf) the upper half is noise */

	if (err && err != -EEXIST) /* or it waits already */
		count_loss(in_flight_full);
}

static __always_inline void hash_run(__u32 pid, __u64 now, struct task_struct *next, enum cgroup_task kind)
{
	__u64 *since = bpf_map_lookup_elem(&hash_waits, &pid);

	if (!since)
		return;
	count(*since, now, next, kind);
	bpf_map_delete_elem(&hash_waits, &pid);
}

static __always_inline bool task_on_cpu(struct task_struct *task)
{
	return bpf_core_field_exists(task->on_cpu) && BPF_CORE_READ(task, on_cpu);
}

/* With typed pointers, where task storage can be used. */

static __always_inline int handle_wakeup_typed(struct task_struct *task)
{
	__u64 *since;

	if (task->on_cpu)
		return 0;
	since = bpf_task_storage_get(&task_waits, task, 0, BPF_LOCAL_STORAGE_GET_F_CREATE);
	if (!since)
		count_loss(in_flight_full);
	else if (!*since)
		*since = bpf_ktime_get_ns();
	return 0;
}

static __always_inline int handle_switch_typed(bool preempt, struct task_struct *prev, struct task_struct *next)
{
	__u64 now = bpf_ktime_get_ns(), *since;

	if (prev->pid && (preempt || !task_state(prev))) {
		since = bpf_task_storage_get(&task_waits, prev, 0, BPF_LOCAL_STORAGE_GET_F_CREATE);
		if (since)
			*since = now;
		else
			count_loss(in_flight_full);
	}
	if (!next->pid)
		return 0;
	since = bpf_task_storage_get(&task_waits, next, 0, 0);
	if (since && *since) {
		count(*since, now, next, CGROUP_TYPED_TASK);
		*since = 0;
	}
	return 0;
}

/* With pointers or thread ids alone. */

static __always_inline int handle_wakeup(struct task_struct *task)
{
	if (!task_on_cpu(task))
		hash_wait(BPF_CORE_READ(task, pid), bpf_ktime_get_ns(), BPF_NOEXIST);
	return 0;
}

static __always_inline int handle_switch(bool preempt, struct task_struct *prev, struct task_struct *next)
{
	__u32 prev_pid = BPF_CORE_READ(prev, pid), next_pid = BPF_CORE_READ(next, pid);
	__u64 now = bpf_ktime_get_ns();

	if (prev_pid && (preempt || !task_state(prev)))
		hash_wait(prev_pid, now, BPF_ANY);
	if (next_pid)
		hash_run(next_pid, now, next, CGROUP_TASK);
	return 0;
}

SEC("tp_btf/sched_wakeup")
int BPF_PROG(sched_wakeup_tp_btf, struct task_struct *task)
{
	return in_task_storage ? handle_wakeup_typed(task) : handle_wakeup(task);
}

SEC("tp_btf/sched_wakeup_new")
int BPF_PROG(sched_wakeup_new_tp_btf, struct task_struct *task)
{
	return in_task_storage ? handle_wakeup_typed(task) : handle_wakeup(task);
}

SEC("tp_btf/sched_switch")
int BPF_PROG(sched_switch_tp_btf, bool preempt, struct task_struct *prev, struct task_struct *next)
{
	return in_task_storage ? handle_switch_typed(preempt, prev, next) : handle_switch(preempt, prev, next);
}

SEC("raw_tp/sched_wakeup")
int BPF_PROG(sched_wakeup_raw_tp, struct task_struct *task)
{
	return handle_wakeup(task);
}

SEC("raw_tp/sched_wakeup_new")
int BPF_PROG(sched_wakeup_new_raw_tp, struct task_struct *task)
{
	return handle_wakeup(task);
}

SEC("raw_tp/sched_switch")
int BPF_PROG(sched_switch_raw_tp, bool preempt, struct task_struct *prev, struct task_struct *next)
{
	return handle_switch(preempt, prev, next);
}

SEC("tracepoint/sched/sched_wakeup")
int sched_wakeup_tracepoint(struct sched_wakeup_record *record)
{
	hash_wait(record->pid, bpf_ktime_get_ns(), BPF_NOEXIST);
	return 0;
}

SEC("tracepoint/sched/sched_wakeup_new")
int sched_wakeup_new_tracepoint(struct sched_wakeup_record *record)
{
	hash_wait(record->pid, bpf_ktime_get_ns(), BPF_NOEXIST);
	return 0;
}

/* The record does not tell whether a task that was woken was on its CPU: the start that such a wake-up left ends when the task sleeps. */
SEC("tracepoint/sched/sched_switch")
int sched_switch_tracepoint(struct sched_switch_record *record)
{
	__u64 now = bpf_ktime_get_ns(), runnable = record->prev_state & 0xff;
	__u32 prev_pid = record->prev_pid;

	/* A preempted task has the bit above the reported states, a runnable one no bit at all. */
	if (prev_pid && runnable == 0)
		hash_wait(prev_pid, now, BPF_ANY);
	else if (prev_pid)
		bpf_map_delete_elem(&hash_waits, &prev_pid);
	if (record->next_pid)
		hash_run(record->next_pid, now, NULL, CGROUP_NO_TASK);
	return 0;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
