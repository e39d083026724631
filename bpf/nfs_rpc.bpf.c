// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* nfs_rpc: where the time of each remote procedure call of the NFS client goes. queue is from the call to its first transmission, network from that
 * to the answer, the server's own time included, and total from the call to its end. The kernel measures them itself, for /proc/self/mountstats,
 * when a call ends; calls that are still under way are in none of them. */
#include "kernel.bpf.h"
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

/* The names of program and procedure are strings of the kernel. Locks, mounts and callbacks are programs of their own. */
static __always_inline int handle_call(const void *program, const void *procedure, __s64 queue, __s64 network, __s64 total)
{
	struct nfs_rpc_key key = {};
	char name[4] = {};

	bpf_probe_read_kernel(name, sizeof(name), program);
	if (name[0] != 'n' || name[1] != 'f' || name[2] != 's' || name[3])
		return 0;
	bpf_probe_read_kernel_str(key.operation, sizeof(key.operation), procedure);
	observe(&key, NFS_RPC_PHASE_QUEUE, queue);
	observe(&key, NFS_RPC_PHASE_NETWORK, network);
	observe(&key, NFS_RPC_PHASE_TOTAL, total);
	return 0;
}

static __always_inline int handle_task(struct rpc_task *task, __s64 queue, __s64 network, __s64 total)
{
	return handle_call(BPF_CORE_READ(task, tk_client, cl_program, name), BPF_CORE_READ(task, tk_msg.rpc_proc, p_name), queue, network, total);
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

char LICENSE[] SEC("license") = "Dual BSD/GPL";
