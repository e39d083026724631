// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* swap_in: how long a task waits for a page of its own memory that is read back from swap. A fault on a page that is still in memory, because it
 * is on its way out or another task has read it, is none: the kernel calls a fault major if the page had to be read.
 *
 * If the page has to be waited for, that is within the call, and the call returns to be tried again: what is left to do then takes no time. */
#define IN_FLIGHT_OPERATIONS 1

#include "kernel.bpf.h"
#include "histogram.bpf.h"
#include "cgroup.bpf.h"
#include "in_flight.bpf.h"

HISTOGRAM_ARRAY(swap_in_latency, 1);

struct swap_in_key {
	cgroup_id cgroup;
};

HISTOGRAM_MAP(swap_in_latency_by_cgroup, struct swap_in_key, 1);

static __always_inline void count(__u64 ns)
{
	struct swap_in_key key = {}, other = { .cgroup = CGROUP_OTHER };
	struct histogram *h;
	__u32 zero = 0;

	if (cgroup_label) {
		key.cgroup = cgroup_id_of(NULL, CGROUP_CURRENT_TASK);
		histogram_observe_cgroup(&swap_in_latency_by_cgroup, &key, &other, NULL, CGROUP_CURRENT_TASK, key.cgroup, ns);
		return;
	}
	h = bpf_map_lookup_elem(&swap_in_latency, &zero);
	if (h)
		histogram_add(h, ns);
}

static __always_inline int handle_end(unsigned int result)
{
	struct call call;
	__u64 now;

	if (call_end(0, &call) != CALL_ENDED || !(result & VM_FAULT_MAJOR) || (result & VM_FAULT_ERROR))
		return 0;
	now = bpf_ktime_get_ns();
	if (ascending(call.start_ns, now))
		count(now - call.start_ns);
	return 0;
}

SEC("fentry/do_swap_page")
int BPF_PROG(do_swap_page_fentry)
{
	call_begin(0, 0);
	return 0;
}

SEC("fexit/do_swap_page")
int BPF_PROG(do_swap_page_fexit, void *fault, unsigned int result)
{
	return handle_end(result);
}

SEC("kprobe/do_swap_page")
int BPF_KPROBE(do_swap_page_kprobe)
{
	call_begin(0, 0);
	return 0;
}

SEC("kretprobe/do_swap_page")
int BPF_KRETPROBE(do_swap_page_kretprobe, unsigned int result)
{
	return handle_end(result);
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
