// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* reclaim: how long tasks are held up while they free memory themselves, because the host has none left or their cgroup is at its limit, or while
 * they move pages to make a free block large enough. What kernel threads do ahead of need, such as kswapd and kcompactd, holds up nobody. */
#define IN_FLIGHT_OPERATIONS 3

#include "kernel.bpf.h"
#include "histogram.bpf.h"
#include "cgroup.bpf.h"
#include "in_flight.bpf.h"

enum memory_stall_reason {
	MEMORY_STALL_REASON_RECLAIM,
	MEMORY_STALL_REASON_CGROUP_RECLAIM,
	MEMORY_STALL_REASON_COMPACTION,
};

struct memory_stall_key {
	enum memory_stall_reason reason;
	cgroup_id cgroup;
} __attribute__((packed, aligned(4)));

HISTOGRAM_MAP(memory_stall, struct memory_stall_key, IN_FLIGHT_OPERATIONS);

static __always_inline int handle_begin(enum memory_stall_reason reason)
{
	struct task_struct *task = (struct task_struct *)bpf_get_current_task();

	if (!(BPF_CORE_READ(task, flags) & PF_KTHREAD))
		call_begin(reason, 0);
	return 0;
}

static __always_inline int handle_end(enum memory_stall_reason reason)
{
	struct memory_stall_key key = { .reason = reason }, other = { .reason = reason, .cgroup = CGROUP_OTHER };
	struct call call;
	__u64 now;

	if (call_end(reason, &call) != CALL_ENDED)
		return 0;
	now = bpf_ktime_get_ns();
	if (!ascending(call.start_ns, now))
		return 0;
	key.cgroup = cgroup_id_of(NULL, CGROUP_CURRENT_TASK);
	histogram_observe_cgroup(&memory_stall, &key, &other, NULL, CGROUP_CURRENT_TASK, key.cgroup, now - call.start_ns);
	return 0;
}

/* None of the events' arguments is needed. */
#define TIMED(group, event, handle, reason)  \
	SEC("tp_btf/" #event)                \
	int event##_tp_btf(void *ctx)        \
	{                                    \
		return handle(reason);       \
	}                                    \
	SEC("raw_tp/" #event)                \
	int event##_raw_tp(void *ctx)        \
	{                                    \
		return handle(reason);       \
	}                                    \
	SEC("tracepoint/" #group "/" #event) \
	int event##_tracepoint(void *ctx)    \
	{                                    \
		return handle(reason);       \
	}

TIMED(vmscan, mm_vmscan_direct_reclaim_begin, handle_begin, MEMORY_STALL_REASON_RECLAIM)
TIMED(vmscan, mm_vmscan_direct_reclaim_end, handle_end, MEMORY_STALL_REASON_RECLAIM)
TIMED(vmscan, mm_vmscan_memcg_reclaim_begin, handle_begin, MEMORY_STALL_REASON_CGROUP_RECLAIM)
TIMED(vmscan, mm_vmscan_memcg_reclaim_end, handle_end, MEMORY_STALL_REASON_CGROUP_RECLAIM)
TIMED(compaction, mm_compaction_begin, handle_begin, MEMORY_STALL_REASON_COMPACTION)
TIMED(compaction, mm_compaction_end, handle_end, MEMORY_STALL_REASON_COMPACTION)

char LICENSE[] SEC("license") = "Dual BSD/GPL";
