// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* softirq: the time from the raise of a soft interrupt to its handler, and the time the handler takes. A soft interrupt runs on the CPU that
 * raised it, and its handler is not interrupted by another one, so per-CPU places are enough. A raise of one that is pending already adds
 * nothing: the wait began with the first. */
#include "kernel.bpf.h"
#include "histogram.bpf.h"

/* The kernel's soft interrupt vectors, in its order. */
enum softirq_vector {
	SOFTIRQ_VECTOR_HI,
	SOFTIRQ_VECTOR_TIMER,
	SOFTIRQ_VECTOR_NET_TX,
	SOFTIRQ_VECTOR_NET_RX,
	SOFTIRQ_VECTOR_BLOCK,
	SOFTIRQ_VECTOR_IRQ_POLL,
	SOFTIRQ_VECTOR_TASKLET,
	SOFTIRQ_VECTOR_SCHED,
	SOFTIRQ_VECTOR_HRTIMER,
	SOFTIRQ_VECTOR_RCU,
};

#define SOFTIRQ_VECTORS 10

struct softirq_key {
	enum softirq_vector softirq;
};

struct softirq_times {
	__u64 raised_ns;  /* 0: not pending */
	__u64 entered_ns; /* 0: not running */
};

HISTOGRAM_MAP(softirq_latency, struct softirq_key, SOFTIRQ_VECTORS);
HISTOGRAM_MAP(softirq_service, struct softirq_key, SOFTIRQ_VECTORS);

/* Key: vector. Value: its times on this CPU. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, SOFTIRQ_VECTORS);
	__type(key, __u32);
	__type(value, struct softirq_times);
} softirq_pending SEC(".maps");

struct softirq_record {
	__u64 common;
	__u32 vector;
};

static __always_inline void observe(void *map, __u32 vector, __u64 start, __u64 end)
{
	struct softirq_key key = { .softirq = vector };

	if (ascending(start, end))
		histogram_observe(map, &key, NULL, end - start);
}

static __always_inline int handle_raise(__u32 vector)
{
	struct softirq_times *times = bpf_map_lookup_elem(&softirq_pending, &vector);

	if (times && !times->raised_ns)
		times->raised_ns = bpf_ktime_get_ns();
	return 0;
}

static __always_inline int handle_entry(__u32 vector)
{
	struct softirq_times *times = bpf_map_lookup_elem(&softirq_pending, &vector);
	__u64 raised;

	if (!times)
		return 0;
	raised = times->raised_ns;
	times->raised_ns = 0;
	times->entered_ns = bpf_ktime_get_ns();
	if (raised)
		observe(&softirq_latency, vector, raised, times->entered_ns);
	return 0;
}

static __always_inline int handle_exit(__u32 vector)
{
	struct softirq_times *times = bpf_map_lookup_elem(&softirq_pending, &vector);

	if (!times || !times->entered_ns)
		return 0;
	observe(&softirq_service, vector, times->entered_ns, bpf_ktime_get_ns());
	times->entered_ns = 0;
	return 0;
}

#define TIMED(event, handle)                                  \
	SEC("tp_btf/" #event)                                 \
	int BPF_PROG(event##_tp_btf, unsigned int vector)     \
	{                                                     \
		return handle(vector);                        \
	}                                                     \
	SEC("raw_tp/" #event)                                 \
	int BPF_PROG(event##_raw_tp, unsigned int vector)     \
	{                                                     \
		return handle(vector);                        \
	}                                                     \
	SEC("tracepoint/irq/" #event)                         \
	int event##_tracepoint(struct softirq_record *record) \
	{                                                     \
		return handle(record->vector);                \
	}

TIMED(softirq_raise, handle_raise)
TIMED(softirq_entry, handle_entry)
TIMED(softirq_exit, handle_exit)

char LICENSE[] SEC("license") = "Dual BSD/GPL";
