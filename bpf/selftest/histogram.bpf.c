// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
//go:build ignore

/* For tests alone: counts its argument as one event, so that a test can feed the histogram header any value. */
#include "kernel.bpf.h"
#include "histogram.bpf.h"

struct probe_key {
	__u32 label;
};

HISTOGRAM_MAP(probe, struct probe_key, 4);
HISTOGRAM_ARRAY(probe_alone, 1);

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

char LICENSE[] SEC("license") = "Dual BSD/GPL";
