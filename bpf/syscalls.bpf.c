// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* syscalls: the time from the entry of a system call to its exit. Only calls on the allow list are timed; others cost a table look-up. Calls
 * of 32-bit programs have other numbers and are not timed. A call that never returns leaves a start that goes with its task. */
#define IN_FLIGHT_OPERATIONS 1

#include "kernel.bpf.h"
#include "histogram.bpf.h"
#include "in_flight.bpf.h"

#define SYSCALL_NUMBERS 1024

/* Set by the loader: one more than the place of a system call in the histogram array, 0 if it is not timed. */
const volatile __u16 syscall_place[SYSCALL_NUMBERS];

/* Key: place on the allow list. */
HISTOGRAM_ARRAY(syscall_latency, 1);

struct sys_enter_record {
	__u64 common;
	long id;
};

/* Whether the current task is in a 32-bit call. */
static __always_inline bool compat_call(void)
{
#ifdef __TARGET_ARCH_x86
	struct task_struct *task = (void *)bpf_get_current_task();

	return BPF_CORE_READ(task, thread_info.status) & 0x0002; /* TS_COMPAT */
#else
	struct task_struct *task = (void *)bpf_get_current_task();

	return BPF_CORE_READ(task, thread_info.flags) & (1 << 22); /* TIF_32BIT */
#endif
}

static __always_inline int handle_enter(unsigned long id)
{
	__u16 place;

	if (id >= SYSCALL_NUMBERS)
		return 0;
	place = syscall_place[id];
	if (place)
		call_begin(0, place - 1);
	return 0;
}

static __always_inline int handle_exit(void)
{
	struct histogram *h;
	struct call call;
	__u64 now;
	__u32 place;

	if (call_end(0, &call) != CALL_ENDED)
		return 0;
	now = bpf_ktime_get_ns();
	if (!ascending(call.start_ns, now))
		return 0;
	place = call.argument;
	h = bpf_map_lookup_elem(&syscall_latency, &place);
	if (h)
		histogram_add_alone(h, now - call.start_ns); /* only a task leaves a system call, and not while another does on its CPU */
	return 0;
}

SEC("tp_btf/sys_enter")
int BPF_PROG(sys_enter_tp_btf, struct pt_regs *regs, long id)
{
	return compat_call() ? 0 : handle_enter(id);
}

SEC("tp_btf/sys_exit")
int BPF_PROG(sys_exit_tp_btf)
{
	return handle_exit();
}

SEC("raw_tp/sys_enter")
int BPF_PROG(sys_enter_raw_tp, struct pt_regs *regs, long id)
{
	return compat_call() ? 0 : handle_enter(id);
}

SEC("raw_tp/sys_exit")
int BPF_PROG(sys_exit_raw_tp)
{
	return handle_exit();
}

SEC("tracepoint/raw_syscalls/sys_enter")
int sys_enter_tracepoint(struct sys_enter_record *record)
{
	return handle_enter(record->id);
}

SEC("tracepoint/raw_syscalls/sys_exit")
int sys_exit_tracepoint(void *record)
{
	return handle_exit();
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
