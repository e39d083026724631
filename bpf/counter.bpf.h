/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Plain counts of events that have no duration, in map values of their own. They only ever grow, and are never cleared from user space. */
#ifndef LATPUSH_COUNTER_BPF_H
#define LATPUSH_COUNTER_BPF_H

#include "kernel.bpf.h"
#include "losses.bpf.h"

struct counter {
	__u64 events;
};

static const struct counter counter_zero;

/* A map of counters. Key: a struct whose members become labels. Sized by the caller, or by the loader from max_label_sets. */
#define COUNTER_MAP(name, key_type, entries)            \
	struct {                                        \
		__uint(type, BPF_MAP_TYPE_PERCPU_HASH); \
		__uint(max_entries, entries);           \
		__type(key, key_type);                  \
		__type(value, struct counter);          \
	} name SEC(".maps")

/* Counts events under key, which is made if it is new. When the map is full it counts under other, which the loader has made. */
static __always_inline void counter_add(void *map, const void *key, const void *other, __u64 events)
{
	struct counter *c = bpf_map_lookup_elem(map, key);

	if (!c) {
		bpf_map_update_elem(map, key, &counter_zero, BPF_NOEXIST);
		c = bpf_map_lookup_elem(map, key);
	}
	if (!c && other)
		c = bpf_map_lookup_elem(map, other);
	if (!c) {
		count_loss(histograms_full);
		return;
	}
	__sync_fetch_and_add(&c->events, events);
}

#endif
