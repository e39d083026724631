// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* swap_in: how long a task waits for a page of its own memory that is read back from swap. A fault on a page that is still in memory, because it
 * is on its way out or another task has read it, is none: the kernel calls a fault major if the page had to be read.
 *
 * If the page has to be waited for, that is within the call, and the call returns to be tried again: what is left to do then takes no time. */
#define IN_FLIGHT_OPERATIONS 1

#include "kernel.bpf.h"
#include "histogram.bpf.h"
#include "in_flight.bpf.h"

HISTOGRAM_ARRAY(swap_in_latency, 1);

static __always_inline int handle_end(unsigned int result)
{
	struct histogram *h;
	struct call call;
	__u32 zero = 0;
	__u64 now;

	if (call_end(0, &call) != CALL_ENDED || !(result & VM_FAULT_MAJOR) || (result & VM_FAULT_ERROR))
		return 0;
	now = bpf_ktime_get_ns();
	h = bpf_map_lookup_elem(&swap_in_latency, &zero);
	if (h && ascending(call.start_ns, now))
		histogram_add(h, now - call.start_ns);
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
