// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* syscalls: the time from the entry of a system call to its exit. Only calls on the allow list are timed; others cost a table look-up. Calls
 * of 32-bit programs have other numbers and are not timed. A call that never returns leaves a start that goes with its task. */
#define IN_FLIGHT_OPERATIONS 1

#include "kernel.bpf.h"
#include "histogram.bpf.h"
#include "cgroup.bpf.h"
#include "in_flight.bpf.h"

#define SYSCALL_NUMBERS 1024

/* Set by the loader: one more than the place of a system call in the histogram array, 0 if it is not timed. */
const volatile __u16 syscall_place[SYSCALL_NUMBERS];

/* Key: place on the allow list. */
HISTOGRAM_ARRAY(syscall_latency, 1);

struct syscall_key {
	__u32 place;
	cgroup_id cgroup;
} __attribute__((packed, aligned(4)));

HISTOGRAM_MAP(syscall_latency_by_cgroup, struct syscall_key, 1);

struct sys_enter_record {
	__u64 common;
	long id;
};

/* What tells a 32-bit call, by architecture, and the number of the call that regs belong to. */
#ifdef __TARGET_ARCH_x86
#define COMPAT_FLAGS	  thread_info.status
#define COMPAT		  0x0002 /* TS_COMPAT */
#define CALL_NUMBER(regs) ((regs)->orig_ax)
#else
#define COMPAT_FLAGS	  thread_info.flags
#define COMPAT		  (1UL << 22) /* TIF_32BIT */
#define CALL_NUMBER(regs) ((unsigned long)(regs)->syscallno)
#endif

static __always_inline __u16 place_of(unsigned long id)
{
	return id < SYSCALL_NUMBERS ? syscall_place[id] : 0;
}

static __always_inline int handle_enter(unsigned long id)
{
	__u16 place = place_of(id);
	struct task_struct *task;

	if (!place)
		return 0;
	if (in_task_storage) {
		task = bpf_get_current_task_btf();
		if (!(task->COMPAT_FLAGS & COMPAT))
			storage_call_begin(task, 0, place - 1);
		return 0;
	}
	task = (struct task_struct *)bpf_get_current_task();
	if (!(BPF_CORE_READ(task, COMPAT_FLAGS) & COMPAT))
		call_begin(0, place - 1);
	return 0;
}

static __always_inline int handle_exit(enum cgroup_task kind)
{
	struct syscall_key key = {}, other = { .cgroup = CGROUP_OTHER };
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
	if (cgroup_label) {
		key.place = other.place = place;
		key.cgroup = cgroup_id_of(NULL, kind);
		histogram_observe_cgroup(&syscall_latency_by_cgroup, &key, &other, NULL, kind, key.cgroup, now - call.start_ns);
		return 0;
	}
	h = bpf_map_lookup_elem(&syscall_latency, &place);
	if (h)
		histogram_add_alone(h, now - call.start_ns); /* only a task leaves a system call, and not while another does on its CPU */
	return 0;
}

SEC("tp_btf/sys_enter")
int BPF_PROG(sys_enter_tp_btf, struct pt_regs *regs, unsigned long id)
{
	return handle_enter(id);
}

/* The number is read again only to leave early: a call on the list has kept its own. */
SEC("tp_btf/sys_exit")
int BPF_PROG(sys_exit_tp_btf, struct pt_regs *regs)
{
	return place_of(CALL_NUMBER(regs)) ? handle_exit(CGROUP_CURRENT_TASK) : 0;
}

SEC("raw_tp/sys_enter")
int BPF_PROG(sys_enter_raw_tp, struct pt_regs *regs, unsigned long id)
{
	return handle_enter(id);
}

SEC("raw_tp/sys_exit")
int BPF_PROG(sys_exit_raw_tp)
{
	return handle_exit(CGROUP_CURRENT_TASK);
}

/* The classic records are there without the kernel's type information: here 32-bit calls cannot be told. */
SEC("tracepoint/raw_syscalls/sys_enter")
int sys_enter_tracepoint(struct sys_enter_record *record)
{
	__u16 place = place_of(record->id);

	if (place)
		call_begin(0, place - 1);
	return 0;
}

SEC("tracepoint/raw_syscalls/sys_exit")
int sys_exit_tracepoint(void *record)
{
	return handle_exit(CGROUP_NO_TASK);
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
