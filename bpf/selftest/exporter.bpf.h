/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* How exporters count: start times in a hash, one map entry for each bucket, one more for the sum, microseconds. */
#ifndef LATPUSH_EXPORTER_BPF_H
#define LATPUSH_EXPORTER_BPF_H

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

static __always_inline void exporter_begin(__u64 id)
{
	struct start start = { .ns = bpf_ktime_get_ns(), .id = id };
	__u64 task = bpf_get_current_pid_tgid();

	bpf_map_update_elem(&starts, &task, &start, BPF_ANY);
}

static __always_inline void exporter_end(void)
{
	__u64 task = bpf_get_current_pid_tgid(), us;
	struct bucket_key key = {};
	struct start *start;

	start = bpf_map_lookup_elem(&starts, &task);
	if (!start)
		return;
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
}

#endif
