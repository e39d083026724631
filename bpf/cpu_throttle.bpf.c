// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* cpu_throttle: how long the tasks of a control group are held on a CPU because the group has used up its CPU quota. The kernel notes the time itself, for
 * cpu.stat, when it lets them run again: that is the moment which is watched, and the sum here is the one there. */
#include "kernel.bpf.h"
#include "histogram.bpf.h"
#include "cgroup.bpf.h"

struct cpu_throttle_key {
	cgroup_id cgroup;
};

/* What is counted when no label set is free. */
static const struct cpu_throttle_key other_key = { .cgroup = CGROUP_OTHER };

HISTOGRAM_MAP(cpu_throttle, struct cpu_throttle_key, 256);

struct release {
	__u64 run_queue; /* 0: none is under way */
	__u64 held_since;
};

/* Key: always 0. Value: the release that is under way on this CPU, which has interrupts off meanwhile. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct release);
} releases SEC(".maps");

static __always_inline int handle_begin(struct cfs_rq *cfs_rq)
{
	__u32 zero = 0;
	struct release *release = bpf_map_lookup_elem(&releases, &zero);

	if (!release)
		return 0;
	release->run_queue = (__u64)cfs_rq;
	release->held_since = BPF_CORE_READ(cfs_rq, throttled_clock);
	return 0;
}

/* A group that has no runtime again by now stays throttled. One that had no task to hold, where the kernel notes that (6.5), has held none. */
static __always_inline int handle_end(void)
{
	struct cpu_throttle_key key = {}, other = other_key;
	struct kernfs_node *node;
	struct release *release;
	struct cfs_rq *cfs_rq;
	__u64 since, now;
	__u32 zero = 0;

	release = bpf_map_lookup_elem(&releases, &zero);
	if (!release || !release->run_queue)
		return 0;
	cfs_rq = (struct cfs_rq *)release->run_queue;
	since = release->held_since;
	release->run_queue = 0;
	if (!since || BPF_CORE_READ_BITFIELD_PROBED(cfs_rq, throttled))
		return 0;
	now = BPF_CORE_READ(cfs_rq, rq, clock);
	if (!possible(now - since)) /* of the run queue's own clock */
		return 0;
	node = BPF_CORE_READ(cfs_rq, tg, css.cgroup, kn);
	key.cgroup = BPF_CORE_READ(node, id);
	if (bpf_map_lookup_elem(&cpu_throttle, &key) || cgroup_noted((__u64)node, key.cgroup))
		histogram_observe(&cpu_throttle, &key, &other, now - since);
	else
		histogram_observe(&cpu_throttle, &other, NULL, now - since);
	return 0;
}

SEC("fentry/unthrottle_cfs_rq")
int BPF_PROG(unthrottle_cfs_rq_fentry, struct cfs_rq *cfs_rq)
{
	return handle_begin(cfs_rq);
}

SEC("fexit/unthrottle_cfs_rq")
int unthrottle_cfs_rq_fexit(void *ctx)
{
	return handle_end();
}

SEC("kprobe/unthrottle_cfs_rq")
int BPF_KPROBE(unthrottle_cfs_rq_kprobe, struct cfs_rq *cfs_rq)
{
	return handle_begin(cfs_rq);
}

SEC("kretprobe/unthrottle_cfs_rq")
int unthrottle_cfs_rq_kretprobe(void *ctx)
{
	return handle_end();
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
