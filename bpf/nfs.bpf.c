// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* nfs: the time the VFS operations of the NFS client take, as the calling task sees them.
 *
 * An open by NFSv3, or by NFSv4 of a file that the client knows, runs the file's open function. NFSv4 opens any other file through the
 * directory's atomic_open, after which the VFS does not call the file's open function. Where an atomic_open leaves the file unopened, or an
 * open function asks the VFS to look the name up again (EOPENSTALE), another of these functions follows for the same open(2): only the last
 * one counts. */
#define IN_FLIGHT_OPERATIONS 5

#include "kernel.bpf.h"
#include "gauge.bpf.h"
#include "histogram.bpf.h"
#include "in_flight.bpf.h"

enum nfs_operation {
	NFS_OPERATION_READ,
	NFS_OPERATION_WRITE,
	NFS_OPERATION_OPEN,
	NFS_OPERATION_GETATTR,
	NFS_OPERATION_FSYNC,
};

struct nfs_key {
	enum nfs_operation operation;
};

HISTOGRAM_MAP(nfs_latency, struct nfs_key, IN_FLIGHT_OPERATIONS);
IN_FLIGHT_MAP(nfs_inflight, struct nfs_key, IN_FLIGHT_OPERATIONS);

static __always_inline int handle_begin(enum nfs_operation operation, const void *file)
{
	call_begin(operation, (__u64)file);
	return 0;
}

static __always_inline void count(enum nfs_operation operation, const struct call *call)
{
	struct nfs_key key = { .operation = operation };
	__u64 now = bpf_ktime_get_ns();

	if (ascending(call->start_ns, now))
		histogram_observe(&nfs_latency, &key, NULL, now - call->start_ns);
}

static __always_inline bool end(enum nfs_operation operation, struct call *call)
{
	enum call_end end = call_end(operation, call);

	if (end == CALL_NOT_STARTED)
		count_loss(no_start);
	return end == CALL_ENDED;
}

static __always_inline int handle_end(enum nfs_operation operation)
{
	struct call call;

	if (end(operation, &call))
		count(operation, &call);
	return 0;
}

static __always_inline int handle_open_end(int result)
{
	struct call call;

	if (end(NFS_OPERATION_OPEN, &call) && result != -EOPENSTALE)
		count(NFS_OPERATION_OPEN, &call);
	return 0;
}

static __always_inline int handle_atomic_open_end(int result)
{
	struct file *file;
	struct call call;

	if (!end(NFS_OPERATION_OPEN, &call))
		return 0;
	file = (struct file *)call.argument;
	if (result == 0 && !(BPF_CORE_READ(file, f_mode) & FMODE_OPENED))
		return 0;
	count(NFS_OPERATION_OPEN, &call);
	return 0;
}

static __always_inline void count_call(struct task_struct *task, enum nfs_operation operation, const struct call *call)
{
	struct nfs_key key = { .operation = operation };

	if (!end_was_lost(task, call))
		in_flight_add(&nfs_inflight, &key, NULL, call->start_ns);
}

COUNT_IN_FLIGHT(count_call)

#define TIMED(function, operation)                    \
	SEC("fentry/" #function)                      \
	int BPF_PROG(function##_fentry)               \
	{                                             \
		return handle_begin(operation, NULL); \
	}                                             \
	SEC("fexit/" #function)                       \
	int BPF_PROG(function##_fexit)                \
	{                                             \
		return handle_end(operation);         \
	}                                             \
	SEC("kprobe/" #function)                      \
	int BPF_KPROBE(function##_kprobe)             \
	{                                             \
		return handle_begin(operation, NULL); \
	}                                             \
	SEC("kretprobe/" #function)                   \
	int BPF_KRETPROBE(function##_kretprobe)       \
	{                                             \
		return handle_end(operation);         \
	}

TIMED(nfs_file_read, NFS_OPERATION_READ)
TIMED(nfs_file_splice_read, NFS_OPERATION_READ)
TIMED(nfs_file_write, NFS_OPERATION_WRITE)
TIMED(nfs_getattr, NFS_OPERATION_GETATTR)
TIMED(nfs_file_fsync, NFS_OPERATION_FSYNC)

#define TIMED_OPEN(function)                                                       \
	SEC("fentry/" #function)                                                   \
	int BPF_PROG(function##_fentry)                                            \
	{                                                                          \
		return handle_begin(NFS_OPERATION_OPEN, NULL);                     \
	}                                                                          \
	SEC("fexit/" #function)                                                    \
	int BPF_PROG(function##_fexit, void *inode, struct file *file, int result) \
	{                                                                          \
		return handle_open_end(result);                                    \
	}                                                                          \
	SEC("kprobe/" #function)                                                   \
	int BPF_KPROBE(function##_kprobe)                                          \
	{                                                                          \
		return handle_begin(NFS_OPERATION_OPEN, NULL);                     \
	}                                                                          \
	SEC("kretprobe/" #function)                                                \
	int BPF_KRETPROBE(function##_kretprobe, int result)                        \
	{                                                                          \
		return handle_open_end(result);                                    \
	}

TIMED_OPEN(nfs_file_open)
TIMED_OPEN(nfs4_file_open)

SEC("fentry/nfs_atomic_open")
int BPF_PROG(nfs_atomic_open_fentry, void *dir, void *dentry, struct file *file)
{
	return handle_begin(NFS_OPERATION_OPEN, file);
}

SEC("fexit/nfs_atomic_open")
int BPF_PROG(nfs_atomic_open_fexit, void *dir, void *dentry, struct file *file, unsigned int flags, unsigned short mode, int result)
{
	return handle_atomic_open_end(result);
}

SEC("kprobe/nfs_atomic_open")
int BPF_KPROBE(nfs_atomic_open_kprobe, void *dir, void *dentry, struct file *file)
{
	return handle_begin(NFS_OPERATION_OPEN, file);
}

SEC("kretprobe/nfs_atomic_open")
int BPF_KRETPROBE(nfs_atomic_open_kretprobe, int result)
{
	return handle_atomic_open_end(result);
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
