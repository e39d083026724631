/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Every event that could not be counted in a histogram is counted here. The loader takes the reasons' names from this struct. */
#ifndef LATPUSH_LOSSES_BPF_H
#define LATPUSH_LOSSES_BPF_H

#include "kernel.bpf.h"

struct losses {
	__u64 in_flight_full;  /* no room or memory for a start time */
	__u64 histograms_full; /* no room for a label set, not even for "other" */
	__u64 no_start;	       /* an end whose start was never seen */
	__u64 backwards;       /* an end before its start */
	__u64 absurd;	       /* a start before the programs were loaded, or a duration longer than the machine has been up */
};

/* Set by the loader: when it loaded the programs, CLOCK_MONOTONIC. They have seen nothing before. */
const volatile __u64 loaded_ns;

/* Key: always 0. Value: struct losses, per CPU. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct losses);
} losses SEC(".maps");

#define count_loss(reason)                                              \
	({                                                              \
		__u32 zero = 0;                                         \
		struct losses *l = bpf_map_lookup_elem(&losses, &zero); \
		if (l)                                                  \
			__sync_fetch_and_add(&l->reason, 1);            \
	})

#endif
