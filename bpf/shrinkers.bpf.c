// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* shrinkers: how long the kernel's caches take to give back memory when they are asked to, each time, by the function that does it: by a task that is
 * held up by it, by kswapd, or by a write to drop_caches.
 *
 * A shrinker may allocate, which may start other shrinkers in the same task, and even the same one: then the inner call is a part of the outer. */
#include "kernel.bpf.h"
#include "histogram.bpf.h"
#include "labels.bpf.h"

struct shrinker_key {
	kernel_function shrinker;
};

struct shrinking_key {
	__u64 task; /* thread group and thread id */
	__u64 shrinker;
};

struct shrinking {
	__u64 start_ns;
	__u64 depth; /* calls of this shrinker within the call */
};

/* What is counted when no label set is free. */
static const struct shrinker_key other_key = { .shrinker = 0 };

HISTOGRAM_MAP(shrinker_latency, struct shrinker_key, 256);

/* Key: task and address of the shrinker. Value: the call. As many entries as calls can be under way at once. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1024);
	__type(key, struct shrinking_key);
	__type(value, struct shrinking);
} shrinking SEC(".maps");

static __always_inline int handle_start(struct shrinker *shrinker)
{
	struct shrinking_key key = { .task = bpf_get_current_pid_tgid(), .shrinker = (__u64)shrinker };
	struct shrinking *outer, call = {};

	outer = bpf_map_lookup_elem(&shrinking, &key);
	if (outer) {
		outer->depth++;
		return 0;
	}
	call.start_ns = bpf_ktime_get_ns();
	if (bpf_map_update_elem(&shrinking, &key, &call, BPF_ANY))
		count_loss(in_flight_full);
	return 0;
}

static __always_inline int handle_end(struct shrinker *shrinker)
{
	struct shrinking_key key = { .task = bpf_get_current_pid_tgid(), .shrinker = (__u64)shrinker };
	struct shrinker_key label = {}, other = other_key;
	__u64 now = bpf_ktime_get_ns(), start;
	struct shrinking *call;

	call = bpf_map_lookup_elem(&shrinking, &key);
	if (!call)
		return 0; /* under way when latpush was attached */
	if (call->depth) {
		call->depth--;
		return 0;
	}
	start = call->start_ns;
	bpf_map_delete_elem(&shrinking, &key);
	if (!ascending(start, now))
		return 0;
	label.shrinker = (__u64)BPF_CORE_READ(shrinker, scan_objects);
	histogram_observe(&shrinker_latency, &label, &other, now - start);
	return 0;
}

#define TIMED(way, suffix)                                                     \
	SEC(way "/mm_shrink_slab_start")                                       \
	int BPF_PROG(mm_shrink_slab_start_##suffix, struct shrinker *shrinker) \
	{                                                                      \
		return handle_start(shrinker);                                 \
	}                                                                      \
	SEC(way "/mm_shrink_slab_end")                                         \
	int BPF_PROG(mm_shrink_slab_end_##suffix, struct shrinker *shrinker)   \
	{                                                                      \
		return handle_end(shrinker);                                   \
	}

TIMED("tp_btf", tp_btf)
TIMED("raw_tp", raw_tp)

SEC("tracepoint/vmscan/mm_shrink_slab_start")
int mm_shrink_slab_start_tracepoint(struct trace_event_raw_mm_shrink_slab_start *record)
{
	return handle_start(record->shr);
}

SEC("tracepoint/vmscan/mm_shrink_slab_end")
int mm_shrink_slab_end_tracepoint(struct trace_event_raw_mm_shrink_slab_end *record)
{
	return handle_end(record->shr);
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
