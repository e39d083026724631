// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* page_fault: how long a task waits in a page fault that has to wait for a device: a major fault, as the kernel itself counts them.
 *
 * A fault that waits for its page lets go of the address space, returns, and is tried again. All tries together are one fault: it begins with the
 * first and ends with the one that wants no other. It is major if the last try says so, or was told by FAULT_FLAG_TRIED that it is not the first.
 * Nearly all faults are minor: they pay for the noting of a time, and no more where that is in task storage. */
#define IN_FLIGHT_OPERATIONS 1

#include "kernel.bpf.h"
#include "histogram.bpf.h"
#include "cgroup.bpf.h"
#include "in_flight.bpf.h"

#define TO_BE_TRIED_AGAIN (1ULL << 32) /* in the argument of a call, whose lower half has the flags of the fault */

enum page_fault_access {
	PAGE_FAULT_ACCESS_READ,
	PAGE_FAULT_ACCESS_WRITE,
	PAGE_FAULT_ACCESS_EXECUTE,
};

struct page_fault_key {
	enum page_fault_access access;
	cgroup_id cgroup;
} __attribute__((packed, aligned(4)));

HISTOGRAM_MAP(page_fault_latency, struct page_fault_key, 3);

static __always_inline int handle_begin(unsigned int flags)
{
	struct call *call = flags & FAULT_FLAG_TRIED ? current_call(0) : NULL;

	if (call && (call->argument & TO_BE_TRIED_AGAIN))
		call->argument = flags; /* the fault has begun with an earlier try */
	else
		call_begin(0, flags);
	return 0;
}

static __always_inline void observe(const struct call *call)
{
	struct page_fault_key key = { .access = PAGE_FAULT_ACCESS_READ }, other = { .cgroup = CGROUP_OTHER };
	__u64 now = bpf_ktime_get_ns();

	if (call->argument & FAULT_FLAG_WRITE)
		key.access = PAGE_FAULT_ACCESS_WRITE;
	else if (call->argument & FAULT_FLAG_INSTRUCTION)
		key.access = PAGE_FAULT_ACCESS_EXECUTE;
	if (!ascending(call->start_ns, now))
		return;
	key.cgroup = cgroup_id_of(NULL, CGROUP_CURRENT_TASK);
	other.access = key.access;
	histogram_observe_cgroup(&page_fault_latency, &key, &other, NULL, CGROUP_CURRENT_TASK, key.cgroup, now - call->start_ns);
}

static __always_inline int handle_end(bool tried, unsigned int result)
{
	struct call call, *begun;

	if (result & VM_FAULT_RETRY) {
		begun = current_call(0);
		if (begun)
			begun->argument |= TO_BE_TRIED_AGAIN;
		return 0;
	}
	if (in_task_storage && !tried && !(result & VM_FAULT_MAJOR))
		return 0; /* the next fault takes the place of this one */
	if (call_end(0, &call) != CALL_ENDED || (result & VM_FAULT_ERROR))
		return 0;
	if ((result & VM_FAULT_MAJOR) || (call.argument & FAULT_FLAG_TRIED))
		observe(&call);
	return 0;
}

SEC("fentry/handle_mm_fault")
int BPF_PROG(handle_mm_fault_fentry, void *area, unsigned long address, unsigned int flags)
{
	return handle_begin(flags);
}

SEC("fexit/handle_mm_fault")
int BPF_PROG(handle_mm_fault_fexit, void *area, unsigned long address, unsigned int flags, struct pt_regs *regs, unsigned int result)
{
	return handle_end(flags & FAULT_FLAG_TRIED, result);
}

SEC("kprobe/handle_mm_fault")
int BPF_KPROBE(handle_mm_fault_kprobe, void *area, unsigned long address, unsigned int flags)
{
	return handle_begin(flags);
}

SEC("kretprobe/handle_mm_fault")
int BPF_KRETPROBE(handle_mm_fault_kretprobe, unsigned int result)
{
	return handle_end(true, result); /* perhaps: the flags are not at hand */
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
