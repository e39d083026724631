/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Start times of calls that are under way in a task. They live in task storage, which follows the task over CPUs and is freed with it, or in a
 * hash map where the kernel has no task storage for tracing programs (before 5.12) or none that works. Noting a call and its end takes task
 * storage a third of the time, 110 ns beside 340 in `make bench`, so it is worth having both. A task has one place for each operation, so that
 * operations can nest: a synchronous NFS write runs an fsync.
 *
 * A file defines IN_FLIGHT_OPERATIONS before it includes this. */
#ifndef LATPUSH_IN_FLIGHT_BPF_H
#define LATPUSH_IN_FLIGHT_BPF_H

#include "kernel.bpf.h"
#include "losses.bpf.h"
#include "task.bpf.h"

struct call {
	__u64 start_ns; /* 0: not under way */
	__u64 argument; /* what the end of the call needs and cannot see itself */
	/* Of an outermost call: where on the task's stack it is, and the function that is called. */
	__u32 frame;
	__u32 function;
};

struct calls {
	struct call of[IN_FLIGHT_OPERATIONS];
};

struct call_key {
	__u64 task; /* thread group and thread id */
	__u64 operation;
};

/* Set by the loader: which of the two maps is used. The other one is made with one entry. */
const volatile bool in_task_storage;

/* Key: the task. Value: its calls. Sized by the kernel, freed with the task. */
struct {
	__uint(type, BPF_MAP_TYPE_TASK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct calls);
} task_calls SEC(".maps");

/* Key: task and operation. Value: the call. As many entries as calls can be under way at once. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 16384);
	__type(key, struct call_key);
	__type(value, struct call);
} hash_calls SEC(".maps");

/* Notes in task storage that task has begun operation now. */
static __always_inline void storage_call_begin(struct task_struct *task, __u32 operation, __u64 argument)
{
	struct calls *calls = bpf_task_storage_get(&task_calls, task, 0, BPF_LOCAL_STORAGE_GET_F_CREATE);

	if (!calls) {
		count_loss(in_flight_full);
		return;
	}
	calls->of[operation].argument = argument;
	calls->of[operation].start_ns = bpf_ktime_get_ns();
}

/* Notes that the current task has begun operation now. */
static __always_inline void call_begin(__u32 operation, __u64 argument)
{
	struct call_key key = {};
	struct call call = {};

	if (in_task_storage) {
		storage_call_begin(bpf_get_current_task_btf(), operation, argument);
		return;
	}
	key.task = bpf_get_current_pid_tgid();
	key.operation = operation;
	call.argument = argument;
	call.start_ns = bpf_ktime_get_ns();
	if (bpf_map_update_elem(&hash_calls, &key, &call, BPF_ANY))
		count_loss(in_flight_full);
}

/* Returns what is noted of operation of the current task, which may have ended; NULL if nothing is. */
static __always_inline struct call *current_call(__u32 operation)
{
	struct call_key key = {};
	struct calls *calls;

	if (in_task_storage) {
		calls = bpf_task_storage_get(&task_calls, bpf_get_current_task_btf(), 0, 0);
		return calls ? &calls->of[operation] : NULL;
	}
	key.task = bpf_get_current_pid_tgid();
	key.operation = operation;
	return bpf_map_lookup_elem(&hash_calls, &key);
}

enum call_end {
	CALL_ENDED,
	CALL_NOT_STARTED, /* the task has begun calls before, but not this one */
	CALL_UNKNOWN,	  /* nothing is known: perhaps the call was under way when latpush was attached */
	CALL_WITHIN,	  /* it was part of an outer call of the operation, which is still under way */
};

/* Ends operation of the current task. */
static __always_inline enum call_end call_end(__u32 operation, struct call *ended)
{
	struct call_key key = {};
	struct calls *calls;
	struct call *call;

	if (in_task_storage) {
		calls = bpf_task_storage_get(&task_calls, bpf_get_current_task_btf(), 0, 0);
		if (!calls)
			return CALL_UNKNOWN;
		*ended = calls->of[operation];
		if (!ended->start_ns)
			return CALL_NOT_STARTED;
		calls->of[operation].start_ns = 0;
		return CALL_ENDED;
	}
	key.task = bpf_get_current_pid_tgid();
	key.operation = operation;
	call = bpf_map_lookup_elem(&hash_calls, &key);
	if (!call)
		return CALL_UNKNOWN;
	*ended = *call;
	bpf_map_delete_elem(&hash_calls, &key);
	return CALL_ENDED;
}

/* An age after which a task that sleeps interruptibly is no longer believed to be in a call: the waits within the calls of most file systems
 * cannot be ended by any signal, or are short. An end that the kernel did not let the programs see must not look like a call that hangs. */
#define LOST_END_NS (60 * 1000000000ULL)

/* Returns whether a task has left a call, of a kind that does not sleep interruptibly for long, without its end having been seen. */
static __always_inline bool end_was_lost(struct task_struct *task, const struct call *call)
{
	return (task_state(task) & TASK_INTERRUPTIBLE) && bpf_ktime_get_ns() - call->start_ns > LOST_END_NS;
}

/* Returns what is noted of an operation of a task, NULL if nothing is. */
static __always_inline struct call *noted_call(struct task_struct *task, struct calls *calls, __u32 operation)
{
	struct call_key key = {};

	if (in_task_storage)
		return calls ? &calls->of[operation] : NULL;
	key.task = (__u64)task->tgid << 32 | (__u32)task->pid;
	key.operation = operation;
	return bpf_map_lookup_elem(&hash_calls, &key);
}

/* The iterator of a source: runs count(task, operation, call) for each call that is under way. Tasks are walked, and not the hash, in which the
 * calls of tasks that died within them stay: what is not the task's own has begun before it. */
#define COUNT_IN_FLIGHT(count)                                                       \
	SEC("iter/task")                                                             \
	int count_in_flight(struct bpf_iter__task *ctx)                              \
	{                                                                            \
		struct task_struct *task = ctx->task;                                \
		struct calls *calls = NULL;                                          \
		struct call *noted, call;                                            \
		__u32 operation;                                                     \
                                                                                     \
		if (!task)                                                           \
			return 0;                                                    \
		if (in_task_storage) {                                               \
			calls = bpf_task_storage_get(&task_calls, task, 0, 0);       \
			if (!calls)                                                  \
				return 0;                                            \
		}                                                                    \
		for (operation = 0; operation < IN_FLIGHT_OPERATIONS; operation++) { \
			noted = noted_call(task, calls, operation);                  \
			if (!noted)                                                  \
				continue;                                            \
			call = *noted;                                               \
			if (call.start_ns && call.start_ns >= task->start_time)      \
				count(task, operation, &call);                       \
		}                                                                    \
		return 0;                                                            \
	}

/* Calls of an operation that can contain calls of the same operation: a file system that is stacked on itself. A task has one place for them
 * all, which belongs to the outermost one. Who is within whom tells the stack, which grows downwards: what is called within a call lies lower
 * than that call, and where something lies as high or higher, the call has returned, whether its end was seen or not. So it has when a function is
 * called that never is within itself: a call whose end the kernel did not let the programs see must not hide those that come after it. */

/* Returns where on its task's stack the call is that a program of fentry or fexit was run for: the trampoline, which runs both, keeps the
 * arguments there. The lower half of the address is enough, and unlike the whole it is no pointer. */
static __always_inline __u32 trampoline_frame(const void *ctx)
{
	__u32 frame;

	asm volatile("%[frame] = %[ctx]" : [frame] "=w"(frame) : [ctx] "w"((__u32)(__u64)ctx));
	return frame;
}

/* At the return of a function its return address is off the stack, in programs of kretprobes. */
#define RETURN_ADDRESS 8

/* Returns whether a call lies within one that was noted before. */
static __always_inline bool within(const struct call *inner, const struct call *outer)
{
	return inner->frame < outer->frame && (!inner->function || inner->function != outer->function);
}

/* Notes that the current task has begun operation now, unless that is within another call of it. A function that can be within itself is 0. */
static __always_inline void outermost_call_begin(__u32 operation, __u64 argument, __u32 frame, __u32 function)
{
	struct call begun = { .start_ns = bpf_ktime_get_ns(), .argument = argument, .frame = frame, .function = function };
	struct call_key key = {};
	struct calls *calls;
	struct call *call;

	if (in_task_storage) {
		calls = bpf_task_storage_get(&task_calls, bpf_get_current_task_btf(), 0, BPF_LOCAL_STORAGE_GET_F_CREATE);
		if (!calls)
			count_loss(in_flight_full);
		else if (!calls->of[operation].start_ns || !within(&begun, &calls->of[operation]))
			calls->of[operation] = begun;
		return;
	}
	key.task = bpf_get_current_pid_tgid();
	key.operation = operation;
	call = bpf_map_lookup_elem(&hash_calls, &key);
	if (call && within(&begun, call))
		return;
	if (bpf_map_update_elem(&hash_calls, &key, &begun, BPF_ANY))
		count_loss(in_flight_full);
}

/* Ends operation of the current task, unless it is within another call of it. */
static __always_inline enum call_end outermost_call_end(__u32 operation, __u32 frame, struct call *ended)
{
	struct call_key key = {};
	struct calls *calls;
	struct call *call;

	if (in_task_storage) {
		calls = bpf_task_storage_get(&task_calls, bpf_get_current_task_btf(), 0, 0);
		if (!calls)
			return CALL_UNKNOWN;
		call = &calls->of[operation];
		if (!call->start_ns)
			return CALL_NOT_STARTED;
	} else {
		key.task = bpf_get_current_pid_tgid();
		key.operation = operation;
		call = bpf_map_lookup_elem(&hash_calls, &key);
		if (!call)
			return CALL_UNKNOWN;
	}
	if (frame < call->frame)
		return CALL_WITHIN;
	*ended = *call;
	if (in_task_storage)
		call->start_ns = 0;
	else
		bpf_map_delete_elem(&hash_calls, &key);
	return frame - ended->frame <= RETURN_ADDRESS ? CALL_ENDED : CALL_NOT_STARTED;
}

#endif
