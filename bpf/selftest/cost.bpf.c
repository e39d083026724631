// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
//go:build ignore

/* For the benchmark alone: what latpush's programs are measured against, on the system call hooks and on a function of the NFS client. "clock" reads
 * the clock twice, "entries" works as exporters do. */
#include "kernel.bpf.h"
#include "exporter.bpf.h"

SEC("tp_btf/sys_enter")
int empty_enter(void *ctx)
{
	return 0;
}

SEC("tp_btf/sys_exit")
int empty_exit(void *ctx)
{
	return 0;
}

SEC("tp_btf/sys_enter")
int clock_enter(void *ctx)
{
	bpf_ktime_get_ns();
	return 0;
}

SEC("tp_btf/sys_exit")
int clock_exit(void *ctx)
{
	bpf_ktime_get_ns();
	return 0;
}

SEC("tp_btf/sys_enter")
int BPF_PROG(entries_enter, struct pt_regs *regs, long id)
{
	exporter_begin(id);
	return 0;
}

SEC("tp_btf/sys_exit")
int entries_exit(void *ctx)
{
	exporter_end();
	return 0;
}

SEC("kprobe/nfs_getattr")
int entries_kprobe(void *ctx)
{
	exporter_begin(0);
	return 0;
}

SEC("kretprobe/nfs_getattr")
int entries_kretprobe(void *ctx)
{
	exporter_end();
	return 0;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
