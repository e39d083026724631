// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* nfs_rpc: where the time of each remote procedure call of the NFS client goes. queue is from the call to its first transmission, network from that
 * to the answer, the server's own time included, and total from the call to its end. The kernel measures them itself, for /proc/self/mountstats,
 * when a call ends. Calls that are still under way are noted from their start on: a call that is transmitted again is the same call, one that the
 * file system starts again after an answer is another one. */
#include "kernel.bpf.h"
#include "gauge.bpf.h"
#include "histogram.bpf.h"

enum nfs_rpc_phase {
	NFS_RPC_PHASE_QUEUE,
	NFS_RPC_PHASE_NETWORK,
	NFS_RPC_PHASE_TOTAL,
};

struct nfs_rpc_key {
	char operation[24]; /* as the kernel names the procedure */
	enum nfs_rpc_phase phase;
};

/* What is counted when no label set is free. */
static const struct nfs_rpc_key other_key = { .operation = "other", .phase = NFS_RPC_PHASE_TOTAL };

/* NFSv3 has 22 procedures, NFSv4.2 some 70. */
HISTOGRAM_MAP(nfs_rpc_latency, struct nfs_rpc_key, 256);

struct nfs_rpc_call_key {
	char operation[24];
};

static const struct nfs_rpc_call_key other_call_key = { .operation = "other" };

IN_FLIGHT_MAP(nfs_rpc_inflight, struct nfs_rpc_call_key, 256);

struct rpc_call {
	__u64 start_ns;
	struct nfs_rpc_call_key key;
};

/* Key: address of the rpc_task, or, for classic tracepoints, its client's and its own number. Value: the call. As many entries as calls can be under
 * way at once. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 4096);
	__type(key, __u64);
	__type(value, struct rpc_call);
} rpc_calls SEC(".maps");

struct rpc_request_record {
	__u64 common;
	__u32 task;
	__u32 client;
	__u32 version;
	__u32 async;
	__u32 program;	 /* where the name is in the record: the lower half is the offset */
	__u32 procedure; /* likewise */
};

struct rpc_task_end_record {
	__u64 common;
	__u32 task;
	__u32 client;
};

struct rpc_stats_latency_record {
	__u64 common;
	__u32 task[4];
	__u32 program;	 /* where the name is in the record: the lower half is the offset */
	__u32 procedure; /* likewise */
	__u64 backlog_us;
	__u64 rtt_us;
	__u64 execute_us;
};

static __always_inline void observe(struct nfs_rpc_key *key, enum nfs_rpc_phase phase, __s64 ns)
{
	struct nfs_rpc_key other = other_key;

	key->phase = other.phase = phase;
	if (possible(ns))
		histogram_observe(&nfs_rpc_latency, key, &other, ns);
}

/* The name of the program is a string of the kernel. Locks, mounts and callbacks are programs of their own. */
static __always_inline bool is_nfs(const void *program)
{
	char name[4] = {};

	bpf_probe_read_kernel(name, sizeof(name), program);
	return name[0] == 'n' && name[1] == 'f' && name[2] == 's' && !name[3];
}

static __always_inline int handle_begin(__u64 id, const void *program, const void *procedure)
{
	struct rpc_call call = { .start_ns = bpf_ktime_get_ns() };

	if (!is_nfs(program))
		return 0;
	bpf_probe_read_kernel_str(call.key.operation, sizeof(call.key.operation), procedure);
	if (bpf_map_update_elem(&rpc_calls, &id, &call, BPF_ANY))
		count_loss(in_flight_full);
	return 0;
}

static __always_inline int handle_end(__u64 id)
{
	bpf_map_delete_elem(&rpc_calls, &id);
	return 0;
}

static __always_inline int handle_call(const void *program, const void *procedure, __s64 queue, __s64 network, __s64 total)
{
	struct nfs_rpc_key key = {};

	if (!is_nfs(program))
		return 0;
	bpf_probe_read_kernel_str(key.operation, sizeof(key.operation), procedure);
	observe(&key, NFS_RPC_PHASE_QUEUE, queue);
	observe(&key, NFS_RPC_PHASE_NETWORK, network);
	observe(&key, NFS_RPC_PHASE_TOTAL, total);
	return 0;
}

static __always_inline const char *program_name(struct rpc_task *task)
{
	return BPF_CORE_READ(task, tk_client, cl_program, name);
}

static __always_inline const char *procedure_name(struct rpc_task *task)
{
	return BPF_CORE_READ(task, tk_msg.rpc_proc, p_name);
}

static __always_inline int handle_task(struct rpc_task *task, __s64 queue, __s64 network, __s64 total)
{
	return handle_call(program_name(task), procedure_name(task), queue, network, total);
}

SEC("tp_btf/rpc_stats_latency")
int BPF_PROG(rpc_stats_latency_tp_btf, struct rpc_task *task, __s64 backlog, __s64 rtt, __s64 execute)
{
	/* Newer verifiers think that a tracepoint of a module may pass nothing. */
	return task ? handle_task(task, backlog, rtt, execute) : 0;
}

SEC("raw_tp/rpc_stats_latency")
int BPF_PROG(rpc_stats_latency_raw_tp, struct rpc_task *task, __s64 backlog, __s64 rtt, __s64 execute)
{
	return handle_task(task, backlog, rtt, execute);
}

/* Before 5.11 modules have no type information. The record has whole microseconds only. */
SEC("tracepoint/sunrpc/rpc_stats_latency")
int rpc_stats_latency_tracepoint(struct rpc_stats_latency_record *record)
{
	const void *program = (void *)record + (record->program & 0xffff), *procedure = (void *)record + (record->procedure & 0xffff);

	return handle_call(program, procedure, record->backlog_us * 1000, record->rtt_us * 1000, record->execute_us * 1000);
}

SEC("iter/bpf_map_elem")
int count_in_flight(struct bpf_iter__bpf_map_elem *ctx)
{
	struct nfs_rpc_call_key other = other_call_key;
	struct rpc_call *noted = ctx->value, call;

	if (!noted)
		return 0;
	call = *noted;
	in_flight_add(&nfs_rpc_inflight, &call.key, &other, call.start_ns);
	return 0;
}

SEC("tp_btf/rpc_request")
int BPF_PROG(rpc_request_tp_btf, struct rpc_task *task)
{
	return task ? handle_begin((__u64)task, program_name(task), procedure_name(task)) : 0;
}

SEC("tp_btf/rpc_task_end")
int BPF_PROG(rpc_task_end_tp_btf, struct rpc_task *task)
{
	return handle_end((__u64)task);
}

SEC("raw_tp/rpc_request")
int BPF_PROG(rpc_request_raw_tp, struct rpc_task *task)
{
	return handle_begin((__u64)task, program_name(task), procedure_name(task));
}

SEC("raw_tp/rpc_task_end")
int BPF_PROG(rpc_task_end_raw_tp, struct rpc_task *task)
{
	return handle_end((__u64)task);
}

SEC("tracepoint/sunrpc/rpc_request")
int rpc_request_tracepoint(struct rpc_request_record *record)
{
	const void *program = (void *)record + (record->program & 0xffff), *procedure = (void *)record + (record->procedure & 0xffff);

	return handle_begin((__u64)record->client << 32 | record->task, program, procedure);
}

SEC("tracepoint/sunrpc/rpc_task_end")
int rpc_task_end_tracepoint(struct rpc_task_end_record *record)
{
	return handle_end((__u64)record->client << 32 | record->task);
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
