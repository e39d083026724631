/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Whole latency histograms in map values: the only slot arithmetic there is.
 *
 * All values are nanoseconds. Slot i holds the events with bound[i-1] < value <= bound[i], the slot after the last bound those above
 * every bound. Slots and sum are u64, only ever grow, and are never cleared from user space. */
#ifndef LATPUSH_HISTOGRAM_BPF_H
#define LATPUSH_HISTOGRAM_BPF_H

#include "kernel.bpf.h"
#include "losses.bpf.h"

#define HISTOGRAM_MAX_BOUNDS 512
#define HISTOGRAM_TABLE	     (2 * HISTOGRAM_MAX_BOUNDS) /* the search below may look this far */

/* The loader cuts buckets, here and in the maps' value size, to one more than the configured bounds. */
struct histogram {
	__u64 sum_ns;
	__u64 buckets[HISTOGRAM_MAX_BOUNDS + 1];
};

/* Set by the loader. The verifier knows them as constants, so the search is unrolled to what the bounds need. */
const volatile __u64 histogram_bounds[HISTOGRAM_TABLE]; /* ns, ascending, the rest is U64_MAX */
const volatile __u16 histogram_first[64];		/* first slot that a value with this most significant bit can have */
const volatile __u32 histogram_step;			/* half the power of two that covers the slots of any one bit, 0 if one does */
const volatile __u32 histogram_last;			/* slot of the values above every bound */

static const struct histogram histogram_zero;

/* A map of histograms. Key: a struct whose members become labels. Sized by the caller, or by the loader from max_label_sets. */
#define HISTOGRAM_MAP(name, key_type, entries)          \
	struct {                                        \
		__uint(type, BPF_MAP_TYPE_PERCPU_HASH); \
		__uint(max_entries, entries);           \
		__type(key, key_type);                  \
		__type(value, struct histogram);        \
	} name SEC(".maps")

/* The same for a fixed list of label sets on a hot path. Key: the index in that list. Sized by the loader. */
#define HISTOGRAM_ARRAY(name, entries)                   \
	struct {                                         \
		__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY); \
		__uint(max_entries, entries);            \
		__type(key, __u32);                      \
		__type(value, struct histogram);         \
	} name SEC(".maps")

/* Position of the most significant bit; 0 for 0 and 1. Free of branches: the bits below the highest are filled up, and a de Bruijn
 * sequence turns the result into a position (BPF has no instruction to count zeros). */
static const __u8 msb_table[64] = {
	0,  47, 1,  56, 48, 27, 2,  60, 57, 49, 41, 37, 28, 16, 3,  61, 54, 58, 35, 52, 50, 42, 21, 44, 38, 32, 29, 23, 17, 11, 4, 62,
	46, 55, 26, 59, 40, 36, 15, 53, 34, 51, 20, 43, 31, 22, 10, 45, 25, 39, 14, 33, 19, 30, 9,  24, 13, 18, 8,  12, 7,  6,	5, 63,
};

static __always_inline __u32 msb(__u64 value)
{
	value |= value >> 1;
	value |= value >> 2;
	value |= value >> 4;
	value |= value >> 8;
	value |= value >> 16;
	value |= value >> 32;
	return msb_table[(value * 0x03f79d71b4cb0a89ULL) >> 58];
}

static __always_inline __u32 histogram_slot(__u64 ns)
{
	__u32 slot = histogram_first[msb(ns) & 63];
	__u32 step;

	for (step = histogram_step; step; step >>= 1)
		if (ns > histogram_bounds[(slot + step - 1) & (HISTOGRAM_TABLE - 1)])
			slot += step;
	return slot;
}

/* Counts one event. Atomic, because a program of another hook can count into the same slot while this one is interrupted. */
static __always_inline void histogram_add(struct histogram *h, __u64 ns)
{
	__u32 slot = histogram_slot(ns);

	if (slot > histogram_last)
		slot = histogram_last;
	__sync_fetch_and_add(&h->sum_ns, ns);
	__sync_fetch_and_add(&h->buckets[slot], 1);
}

/* Counts one event without atomic instructions: for hooks that cannot be interrupted by a program that counts into the same map. */
static __always_inline void histogram_add_alone(struct histogram *h, __u64 ns)
{
	__u32 slot = histogram_slot(ns);

	if (slot > histogram_last)
		slot = histogram_last;
	h->sum_ns += ns;
	h->buckets[slot]++;
}

/* Counts one event under key, which is made if it is new. When the map is full it counts under other, which the loader has made. */
static __always_inline void histogram_observe(void *map, const void *key, const void *other, __u64 ns)
{
	struct histogram *h = bpf_map_lookup_elem(map, key);

	if (!h) {
		bpf_map_update_elem(map, key, &histogram_zero, BPF_NOEXIST);
		h = bpf_map_lookup_elem(map, key);
	}
	if (!h && other)
		h = bpf_map_lookup_elem(map, other);
	if (!h) {
		count_loss(histograms_full);
		return;
	}
	histogram_add(h, ns);
}

/* Returns whether start, which a program has noted, and end follow each other as they must, and counts the loss if not. */
static __always_inline bool ascending(__u64 start, __u64 end)
{
	if (end < start) {
		count_loss(backwards);
		return false;
	}
	if (start < loaded_ns) {
		count_loss(absurd);
		return false;
	}
	return true;
}

/* The same for a duration that the kernel has measured: it may have begun before the programs were loaded. */
static __always_inline bool possible(__s64 ns)
{
	if (ns < 0) {
		count_loss(backwards);
		return false;
	}
	if ((__u64)ns > bpf_ktime_get_ns()) {
		count_loss(absurd);
		return false;
	}
	return true;
}

#endif
