// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
//go:build ignore

/* For tests alone: a test begins and ends calls of its own threads, and counts those that are under way. For the benchmark, system calls are noted, and
 * nothing else is done with them. */
#define IN_FLIGHT_OPERATIONS 2

#include "kernel.bpf.h"
#include "gauge.bpf.h"
#include "in_flight.bpf.h"

enum probe_operation {
	PROBE_OPERATION_DEAF, /* does not sleep interruptibly */
	PROBE_OPERATION_ALERT,
};

struct probe_key {
	enum probe_operation operation;
};

struct argument_key {
	char argument[8];
};

IN_FLIGHT_MAP(probe_inflight, struct probe_key, IN_FLIGHT_OPERATIONS);
IN_FLIGHT_MAP(argument_inflight, struct argument_key, 3);

static __always_inline void count_call(struct task_struct *task, enum probe_operation operation, const struct call *call)
{
	struct argument_key argument = {}, other = { .argument = "other" };
	struct probe_key key = { .operation = operation };

	if (operation == PROBE_OPERATION_DEAF && end_was_lost(task, call))
		return;
	in_flight_add(&probe_inflight, &key, NULL, call->start_ns);
	__builtin_memcpy(argument.argument, &call->argument, sizeof(argument.argument));
	in_flight_add(&argument_inflight, &argument, &other, call->start_ns);
}

COUNT_IN_FLIGHT(count_call)

/* The arguments are the operation and the call's argument. */
SEC("raw_tp")
int begin(__u64 *ctx)
{
	__u64 operation = ctx[0], argument = ctx[1];

	call_begin(operation & 1, argument);
	return 0;
}

SEC("raw_tp")
int end(__u64 *ctx)
{
	struct call call;

	return call_end(ctx[0] & 1, &call);
}

/* The arguments are the place on the stack and the function. */
SEC("raw_tp")
int begin_outermost(__u64 *ctx)
{
	outermost_call_begin(PROBE_OPERATION_DEAF, 0, ctx[0], ctx[1]);
	return 0;
}

SEC("raw_tp")
int end_outermost(__u64 *ctx)
{
	struct call call;

	return outermost_call_end(PROBE_OPERATION_DEAF, ctx[0], &call);
}

SEC("tp_btf/sys_enter")
int calls_enter(void *ctx)
{
	call_begin(0, 0);
	return 0;
}

SEC("tp_btf/sys_exit")
int calls_exit(void *ctx)
{
	struct call call;

	call_end(0, &call);
	return 0;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
