// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* writeback: how long the kernel's threads take to write dirty pages of files, and how long tasks that make pages dirty are made to wait because too
 * many are.
 *
 * Write-back goes through the dirty inodes of a device in passes, until nothing is left to do for the reason that it was asked for. Each pass is
 * timed, in the thread that makes it. A task that is to wait is told how long, and sleeps so long: that is what is counted. */
#define IN_FLIGHT_OPERATIONS 1

#include "kernel.bpf.h"
#include "histogram.bpf.h"
#include "in_flight.bpf.h"

/* The numbers are latpush's own: the kernel's have changed. */
enum writeback_reason {
	WRITEBACK_REASON_BACKGROUND,
	WRITEBACK_REASON_VMSCAN,
	WRITEBACK_REASON_SYNC,
	WRITEBACK_REASON_PERIODIC,
	WRITEBACK_REASON_FS_FREE_SPACE,
	WRITEBACK_REASON_FORKER_THREAD,
	WRITEBACK_REASON_FOREIGN_FLUSH,
	WRITEBACK_REASON_OTHER,
};

struct writeback_key {
	enum writeback_reason reason;
};

/* Set by the loader: position of the pause among the arguments of balance_dirty_pages, of which there are eight or, in older kernels, twelve, and the
 * length of the kernel's tick. */
const volatile __u32 pause_argument;
const volatile __u64 tick_ns;

HISTOGRAM_MAP(writeback_latency, struct writeback_key, 8);
HISTOGRAM_ARRAY(writeback_throttle, 1);

#define IF_REASON(number, name)                                                                                                              \
	if (bpf_core_enum_value_exists(enum wb_reason, WB_REASON_##name) && number == bpf_core_enum_value(enum wb_reason, WB_REASON_##name)) \
	return WRITEBACK_REASON_##name

static __always_inline enum writeback_reason writeback_reason(struct wb_writeback_work *work)
{
	enum wb_reason reason = BPF_CORE_READ(work, reason);

	IF_REASON(reason, BACKGROUND);
	IF_REASON(reason, VMSCAN);
	IF_REASON(reason, SYNC);
	IF_REASON(reason, PERIODIC);
	IF_REASON(reason, FS_FREE_SPACE);
	IF_REASON(reason, FORKER_THREAD);
	IF_REASON(reason, FOREIGN_FLUSH);
	return WRITEBACK_REASON_OTHER;
}

static __always_inline int handle_written(struct wb_writeback_work *work)
{
	struct writeback_key key = {};
	struct call call;
	__u64 now;

	if (call_end(0, &call) != CALL_ENDED)
		return 0;
	now = bpf_ktime_get_ns();
	if (!ascending(call.start_ns, now))
		return 0;
	key.reason = writeback_reason(work);
	histogram_observe(&writeback_latency, &key, NULL, now - call.start_ns);
	return 0;
}

SEC("tp_btf/writeback_start")
int writeback_start_tp_btf(void *ctx)
{
	call_begin(0, 0);
	return 0;
}

SEC("tp_btf/writeback_written")
int BPF_PROG(writeback_written_tp_btf, void *wb, struct wb_writeback_work *work)
{
	return handle_written(work);
}

SEC("raw_tp/writeback_start")
int writeback_start_raw_tp(void *ctx)
{
	call_begin(0, 0);
	return 0;
}

SEC("raw_tp/writeback_written")
int BPF_PROG(writeback_written_raw_tp, void *wb, struct wb_writeback_work *work)
{
	return handle_written(work);
}

/* The pause is in ticks. */
static __always_inline int handle_pause(__u64 *ctx)
{
	long pause = pause_argument == 6 ? context_place(ctx, 6) : context_place(ctx, 10);
	struct histogram *h;
	__u32 zero = 0;

	if (pause <= 0)
		return 0;
	h = bpf_map_lookup_elem(&writeback_throttle, &zero);
	if (h)
		histogram_add(h, (__u64)pause * tick_ns);
	return 0;
}

SEC("tp_btf/balance_dirty_pages")
int balance_dirty_pages_tp_btf(__u64 *ctx)
{
	return handle_pause(ctx);
}

SEC("raw_tp/balance_dirty_pages")
int balance_dirty_pages_raw_tp(__u64 *ctx)
{
	return handle_pause(ctx);
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
