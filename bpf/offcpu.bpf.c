// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* offcpu: how long a task is without a CPU, from the switch away from it to the switch to it, the wait in the run queue included. As the kernel
 * counts in the task's own numbers of switches, one is voluntary when the task went to sleep, and involuntary when it was still runnable. */
#include "kernel.bpf.h"
#include "histogram.bpf.h"
#include "cgroup.bpf.h"
#include "scheduler.bpf.h"

#define VOLUNTARY   0
#define INVOLUNTARY 1

/* Key: VOLUNTARY or INVOLUNTARY. */
HISTOGRAM_ARRAY(task_off_cpu, 2);

struct task_off_cpu_key {
	__u32 place; /* VOLUNTARY or INVOLUNTARY */
	cgroup_id cgroup;
} __attribute__((packed, aligned(4)));

HISTOGRAM_MAP(task_off_cpu_by_cgroup, struct task_off_cpu_key, 1);

struct absence {
	__u64 since_ns; /* 0: not away */
	__u64 involuntary;
};

/* Set by the loader: whether start times live in task storage. Only where task storage does not allocate from the slab in the ordinary way: the
 * scheduler's hooks hold the run queue's lock (6.4, 08a7ce384e33). */
const volatile bool in_task_storage;

/* Key: the task. Value: its absence. Sized by the kernel, freed with the task. */
struct {
	__uint(type, BPF_MAP_TYPE_TASK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct absence);
} task_absences SEC(".maps");

/* Key: thread id. Value: its absence. As many entries as tasks can be without a CPU at once. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 32768);
	__type(key, __u32);
	__type(value, struct absence);
} hash_absences SEC(".maps");

/* Counts the absence of next. */
static __always_inline void count(const struct absence *absence, __u64 now, struct task_struct *next, enum cgroup_task kind)
{
	struct task_off_cpu_key key = {}, other = { .cgroup = CGROUP_OTHER };
	__u32 place = absence->involuntary ? INVOLUNTARY : VOLUNTARY;
	struct histogram *h;

	if (!ascending(absence->since_ns, now))
		return;
	if (cgroup_label) {
		key.place = other.place = place;
		key.cgroup = cgroup_id_of(next, kind);
		histogram_observe_cgroup(&task_off_cpu_by_cgroup, &key, &other, next, kind, key.cgroup, now - absence->since_ns);
		return;
	}
	h = bpf_map_lookup_elem(&task_off_cpu, &place);
	if (h)
		histogram_add_alone(h, now - absence->since_ns); /* the run queue's lock is held and interrupts are off */
}

static __always_inline void leave(struct task_struct *prev, bool involuntary, __u64 now)
{
	struct absence *absence = bpf_task_storage_get(&task_absences, prev, 0, BPF_LOCAL_STORAGE_GET_F_CREATE);

	if (!absence) {
		count_loss(in_flight_full);
		return;
	}
	absence->since_ns = now;
	absence->involuntary = involuntary;
}

static __always_inline void come(struct task_struct *next, __u64 now)
{
	struct absence *absence = bpf_task_storage_get(&task_absences, next, 0, 0);

	if (!absence || !absence->since_ns)
		return;
	count(absence, now, next, CGROUP_TYPED_TASK);
	absence->since_ns = 0;
}

static __always_inline void hash_leave(__u32 pid, bool involuntary, __u64 now)
{
	struct absence absence = { .since_ns = now, .involuntary = involuntary };

	if (bpf_map_update_elem(&hash_absences, &pid, &absence, BPF_ANY))
		count_loss(in_flight_full);
}

static __always_inline void hash_come(__u32 pid, __u64 now, struct task_struct *next, enum cgroup_task kind)
{
	struct absence *absence = bpf_map_lookup_elem(&hash_absences, &pid);

	if (!absence)
		return;
	count(absence, now, next, kind);
	bpf_map_delete_elem(&hash_absences, &pid);
}

/* A task that has died does not come back. */
static __always_inline int handle_switch_typed(bool preempt, struct task_struct *prev, struct task_struct *next)
{
	unsigned int state = task_state(prev);
	__u64 now = bpf_ktime_get_ns();

	if (prev->pid && !(state & TASK_DEAD))
		leave(prev, preempt || !state, now);
	if (next->pid)
		come(next, now);
	return 0;
}

static __always_inline int handle_switch(bool preempt, struct task_struct *prev, struct task_struct *next)
{
	__u32 prev_pid = BPF_CORE_READ(prev, pid), next_pid = BPF_CORE_READ(next, pid);
	unsigned int state = task_state(prev);
	__u64 now = bpf_ktime_get_ns();

	if (prev_pid && !(state & TASK_DEAD))
		hash_leave(prev_pid, preempt || !state, now);
	if (next_pid)
		hash_come(next_pid, now, next, CGROUP_TASK);
	return 0;
}

SEC("tp_btf/sched_switch")
int BPF_PROG(sched_switch_tp_btf, bool preempt, struct task_struct *prev, struct task_struct *next)
{
	return in_task_storage ? handle_switch_typed(preempt, prev, next) : handle_switch(preempt, prev, next);
}

SEC("raw_tp/sched_switch")
int BPF_PROG(sched_switch_raw_tp, bool preempt, struct task_struct *prev, struct task_struct *next)
{
	return handle_switch(preempt, prev, next);
}

SEC("tracepoint/sched/sched_switch")
int sched_switch_tracepoint(struct sched_switch_record *record)
{
	__u64 now = bpf_ktime_get_ns(), state = record->prev_state;

	/* A preempted task has the bit above the reported states, a runnable one no bit at all. */
	if (record->prev_pid && !(state & REPORTED_DEAD))
		hash_leave(record->prev_pid, (state & 0xff) == 0, now);
	if (record->next_pid)
		hash_come(record->next_pid, now, NULL, CGROUP_NO_TASK);
	return 0;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
