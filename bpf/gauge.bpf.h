/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* How many operations have begun and not ended, and since when the oldest one is under way. Nothing is counted while operations begin and end:
 * when user space wants to know, it clears these maps and runs the source's iterator, a program named count_in_flight that the kernel calls for
 * each task, or for each element of a map, and that adds each operation it finds. */
#ifndef LATPUSH_GAUGE_BPF_H
#define LATPUSH_GAUGE_BPF_H

#include "kernel.bpf.h"
#include "losses.bpf.h"

struct in_flight {
	__u64 operations;
	__u64 oldest_ns; /* when the oldest of them began; 0: there is none */
};

static const struct in_flight in_flight_zero;

/* Key: a struct whose members become labels. Sized by the caller, or by the loader from max_label_sets. */
#define IN_FLIGHT_MAP(name, key_type, entries)   \
	struct {                                 \
		__uint(type, BPF_MAP_TYPE_HASH); \
		__uint(max_entries, entries);    \
		__type(key, key_type);           \
		__type(value, struct in_flight); \
	} name SEC(".maps")

/* Adds an operation that began at start_ns under key, which is made if it is new. When the map is full it adds it under other, which the loader has
 * made. Only one iterator runs at a time, so nothing has to be atomic. */
static __always_inline void in_flight_add(void *map, const void *key, const void *other, __u64 start_ns)
{
	struct in_flight *in_flight = bpf_map_lookup_elem(map, key);

	if (!in_flight) {
		bpf_map_update_elem(map, key, &in_flight_zero, BPF_NOEXIST);
		in_flight = bpf_map_lookup_elem(map, key);
	}
	if (!in_flight && other)
		in_flight = bpf_map_lookup_elem(map, other);
	if (!in_flight) {
		count_loss(histograms_full);
		return;
	}
	in_flight->operations++;
	if (!in_flight->oldest_ns || start_ns < in_flight->oldest_ns)
		in_flight->oldest_ns = start_ns;
}

#endif
