// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
//go:build ignore

/* For the benchmark alone: what latpush's programs are measured against, on the system call hooks. "clock" reads the clock twice. "entries"
 * works as exporters do: start times in a hash, one map entry for each bucket, one more for the sum, microseconds. */
#include "kernel.bpf.h"

#define TOP_BUCKET 27

struct bucket_key {
	__u32 id;
	__u32 bucket;
};

struct start {
	__u64 ns;
	__u64 id;
};

/* Key: thread group and thread id. Value: when the call began and its number. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 10240);
	__type(key, __u64);
	__type(value, struct start);
} starts SEC(".maps");

/* Key: system call and bucket; the bucket after the top one holds the sum. Value: events, or microseconds. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_HASH);
	__uint(max_entries, 16384);
	__type(key, struct bucket_key);
	__type(value, __u64);
} entries SEC(".maps");

static __always_inline void entry_add(struct bucket_key *key, __u64 by)
{
	__u64 zero = 0, *value = bpf_map_lookup_elem(&entries, key);

	if (!value) {
		bpf_map_update_elem(&entries, key, &zero, BPF_NOEXIST);
		value = bpf_map_lookup_elem(&entries, key);
	}
	if (value)
		*value += by;
}

static __always_inline __u32 log2_up(__u64 us)
{
	__u32 shift, high = us >> 32 ? 32 : 0, low = us >> high, bit;

	bit = (low > 0xffff) << 4;
	low >>= bit;
	shift = (low > 0xff) << 3;
	low >>= shift;
	bit |= shift;
	shift = (low > 0xf) << 2;
	low >>= shift;
	bit |= shift;
	shift = (low > 0x3) << 1;
	low >>= shift;
	bit |= shift | (low >> 1);
	bit += high;
	return us > 1ULL << bit ? bit + 1 : bit;
}

SEC("tp_btf/sys_enter")
int empty_enter(void *ctx)
{
	return 0;
}

SEC("tp_btf/sys_exit")
int empty_exit(void *ctx)
{
	return 0;
}

SEC("tp_btf/sys_enter")
int clock_enter(void *ctx)
{
	bpf_ktime_get_ns();
	return 0;
}

SEC("tp_btf/sys_exit")
int clock_exit(void *ctx)
{
	bpf_ktime_get_ns();
	return 0;
}

SEC("tp_btf/sys_enter")
int BPF_PROG(entries_enter, struct pt_regs *regs, long id)
{
	struct start start = { .ns = bpf_ktime_get_ns(), .id = id };
	__u64 task = bpf_get_current_pid_tgid();

	bpf_map_update_elem(&starts, &task, &start, BPF_ANY);
	return 0;
}

SEC("tp_btf/sys_exit")
int entries_exit(void *ctx)
{
	__u64 task = bpf_get_current_pid_tgid(), us;
	struct bucket_key key = {};
	struct start *start;

	start = bpf_map_lookup_elem(&starts, &task);
	if (!start)
		return 0;
	us = (bpf_ktime_get_ns() - start->ns) / 1000;
	key.id = start->id;
	bpf_map_delete_elem(&starts, &task);
	key.bucket = log2_up(us);
	if (key.bucket > TOP_BUCKET)
		key.bucket = TOP_BUCKET;
	entry_add(&key, 1);
	key.bucket = TOP_BUCKET + 1;
	if (us)
		entry_add(&key, us);
	return 0;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
