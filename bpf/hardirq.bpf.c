// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* hardirq: how long the handlers of hardware interrupts take. A handler is not interrupted by another one on its CPU, so one place per CPU is
 * enough. On a line that devices share, the kernel asks one handler after the other; those that say the interrupt was not theirs do not count. */
#include "kernel.bpf.h"
#include "histogram.bpf.h"

#define IRQ_NONE 0

struct hardirq_key {
	char irq[32]; /* the name that the driver gave, as in /proc/interrupts */
};

struct running_handler {
	__u64 entered_ns; /* 0: none is running */
	struct hardirq_key key;
};

/* What is counted when no label set is free. */
static const struct hardirq_key other_key = { .irq = "other" };

HISTOGRAM_MAP(hardirq_service, struct hardirq_key, 256);

/* Key: always 0. Value: the handler that is running on this CPU. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct running_handler);
} running_handlers SEC(".maps");

struct irq_handler_entry_record {
	__u64 common;
	__s32 irq;
	__u32 name; /* where it is in the record: the lower half is the offset */
};

struct irq_handler_exit_record {
	__u64 common;
	__s32 irq;
	__s32 ret;
};

static __always_inline int handle_entry(const void *name)
{
	struct running_handler *running;
	__u32 zero = 0;

	running = bpf_map_lookup_elem(&running_handlers, &zero);
	if (!running)
		return 0;
	/* A key is compared whole, so nothing of a longer name may be left. */
	__builtin_memset(&running->key, 0, sizeof(running->key));
	bpf_probe_read_kernel_str(running->key.irq, sizeof(running->key.irq), name);
	running->entered_ns = bpf_ktime_get_ns();
	return 0;
}

static __always_inline int handle_exit(int ret)
{
	struct hardirq_key other = other_key;
	__u64 now = bpf_ktime_get_ns();
	struct running_handler *running;
	__u32 zero = 0;

	running = bpf_map_lookup_elem(&running_handlers, &zero);
	if (!running || !running->entered_ns)
		return 0;
	if (ret != IRQ_NONE && ascending(running->entered_ns, now))
		histogram_observe(&hardirq_service, &running->key, &other, now - running->entered_ns);
	running->entered_ns = 0;
	return 0;
}

SEC("tp_btf/irq_handler_entry")
int BPF_PROG(irq_handler_entry_tp_btf, int irq, struct irqaction *action)
{
	return handle_entry(action->name);
}

SEC("raw_tp/irq_handler_entry")
int BPF_PROG(irq_handler_entry_raw_tp, int irq, struct irqaction *action)
{
	return handle_entry(BPF_CORE_READ(action, name));
}

SEC("tracepoint/irq/irq_handler_entry")
int irq_handler_entry_tracepoint(struct irq_handler_entry_record *record)
{
	return handle_entry((void *)record + (record->name & 0xffff));
}

SEC("tp_btf/irq_handler_exit")
int BPF_PROG(irq_handler_exit_tp_btf, int irq, struct irqaction *action, int ret)
{
	return handle_exit(ret);
}

SEC("raw_tp/irq_handler_exit")
int BPF_PROG(irq_handler_exit_raw_tp, int irq, struct irqaction *action, int ret)
{
	return handle_exit(ret);
}

SEC("tracepoint/irq/irq_handler_exit")
int irq_handler_exit_tracepoint(struct irq_handler_exit_record *record)
{
	return handle_exit(record->ret);
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
