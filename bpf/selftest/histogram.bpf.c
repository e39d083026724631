// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
//go:build ignore

/* For tests alone: counts its argument as one event, so that a test can feed the headers of histograms and of counters any value. */
#include "kernel.bpf.h"
#include "counter.bpf.h"
#include "histogram.bpf.h"
#include "labels.bpf.h"

struct probe_key {
	__u32 label;
};

HISTOGRAM_MAP(probe, struct probe_key, 4);
HISTOGRAM_ARRAY(probe_alone, 1);

struct function_key {
	kernel_function function;
};

COUNTER_MAP(probe_events, struct function_key, 4);

SEC("raw_tp")
int observe(__u64 *ctx)
{
	struct probe_key key = { .label = ctx[1] }, other = { .label = 1000 };
	struct histogram *h;
	__u32 zero = 0;

	histogram_observe(&probe, &key, &other, ctx[0]);
	h = bpf_map_lookup_elem(&probe_alone, &zero);
	if (h)
		histogram_add_alone(h, ctx[0]);
	return 0;
}

/* Counts as many events as its first argument says, for the function at the address in its second one. */
SEC("raw_tp")
int count(__u64 *ctx)
{
	struct function_key key = { .function = ctx[1] }, other = {};

	counter_add(&probe_events, &key, &other, ctx[0]);
	return 0;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
