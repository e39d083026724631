// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* workqueue: how long a work item waits from being queued to its start, and how long it runs, by the name of its workqueue. A delayed item is
 * queued when its delay is over.
 *
 * A waiting item is keyed by its address. It may queue itself again while it runs, and its memory may be freed and used for another one, so
 * a running item is keyed by the worker, which runs one at a time. */
#include "kernel.bpf.h"
#include "histogram.bpf.h"

struct workqueue_key {
	char workqueue[32];
};

struct work {
	__u64 since_ns;
	struct workqueue_key key;
};

/* What is counted when no label set is free. */
static const struct workqueue_key other_key = { .workqueue = "other" };

HISTOGRAM_MAP(workqueue_latency, struct workqueue_key, 256);
HISTOGRAM_MAP(workqueue_service, struct workqueue_key, 256);

/* Key: address of the work item. Value: since when it waits. As many entries as items can wait at once. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 16384);
	__type(key, __u64);
	__type(value, struct work);
} queued_works SEC(".maps");

/* Key: thread id of the worker. Value: since when its item runs. As many entries as workers can be busy at once. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 4096);
	__type(key, __u32);
	__type(value, struct work);
} running_works SEC(".maps");

/* The name of the workqueue as the kernel keeps it. */
static __always_inline const void *name_of(struct pool_workqueue *pwq)
{
	struct workqueue_struct *wq = BPF_CORE_READ(pwq, wq);

	return wq->name;
}

static __always_inline int handle_queue(__u64 address, const void *name)
{
	struct work work = {};

	bpf_probe_read_kernel_str(work.key.workqueue, sizeof(work.key.workqueue), name);
	work.since_ns = bpf_ktime_get_ns();
	if (bpf_map_update_elem(&queued_works, &address, &work, BPF_ANY))
		count_loss(in_flight_full);
	return 0;
}

static __always_inline int handle_start(__u64 address)
{
	__u32 worker = bpf_get_current_pid_tgid();
	struct workqueue_key other = other_key;
	struct work *queued, work;
	__u64 now;

	queued = bpf_map_lookup_elem(&queued_works, &address);
	if (!queued)
		return 0; /* It waited already when latpush was attached. */
	work = *queued;
	bpf_map_delete_elem(&queued_works, &address);
	now = bpf_ktime_get_ns();
	if (ascending(work.since_ns, now))
		histogram_observe(&workqueue_latency, &work.key, &other, now - work.since_ns);
	work.since_ns = now;
	if (bpf_map_update_elem(&running_works, &worker, &work, BPF_ANY))
		count_loss(in_flight_full);
	return 0;
}

static __always_inline int handle_end(void)
{
	__u32 worker = bpf_get_current_pid_tgid();
	struct workqueue_key other = other_key;
	__u64 now = bpf_ktime_get_ns();
	struct work *running;

	running = bpf_map_lookup_elem(&running_works, &worker);
	if (!running)
		return 0;
	if (ascending(running->since_ns, now))
		histogram_observe(&workqueue_service, &running->key, &other, now - running->since_ns);
	bpf_map_delete_elem(&running_works, &worker);
	return 0;
}

SEC("tp_btf/workqueue_queue_work")
int BPF_PROG(workqueue_queue_work_tp_btf, int req_cpu, struct pool_workqueue *pwq, __u64 work)
{
	return handle_queue(work, name_of(pwq));
}

SEC("raw_tp/workqueue_queue_work")
int BPF_PROG(workqueue_queue_work_raw_tp, int req_cpu, struct pool_workqueue *pwq, __u64 work)
{
	return handle_queue(work, name_of(pwq));
}

SEC("tp_btf/workqueue_execute_start")
int BPF_PROG(workqueue_execute_start_tp_btf, __u64 work)
{
	return handle_start(work);
}

SEC("raw_tp/workqueue_execute_start")
int BPF_PROG(workqueue_execute_start_raw_tp, __u64 work)
{
	return handle_start(work);
}

SEC("tp_btf/workqueue_execute_end")
int workqueue_execute_end_tp_btf(void *ctx)
{
	return handle_end();
}

SEC("raw_tp/workqueue_execute_end")
int workqueue_execute_end_raw_tp(void *ctx)
{
	return handle_end();
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
