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
#include "cgroup.bpf.h"
#include "mount.bpf.h"

enum nfs_operation {
	NFS_OPERATION_READ,
	NFS_OPERATION_WRITE,
	NFS_OPERATION_OPEN,
	NFS_OPERATION_GETATTR,
	NFS_OPERATION_FSYNC,
};

struct nfs_key {
	enum nfs_operation operation;
	cgroup_id cgroup;
	mount_id mount;
	mount_server server;
} __attribute__((packed, aligned(4)));

struct nfs_inflight_key {
	enum nfs_operation operation;
};

/* Set by the loader: whether the path is the second argument of nfs_getattr (since 5.12, 549c7297717c) and not the first. */
const volatile bool getattr_path_second;

HISTOGRAM_MAP(nfs_latency, struct nfs_key, IN_FLIGHT_OPERATIONS);
IN_FLIGHT_MAP(nfs_inflight, struct nfs_inflight_key, IN_FLIGHT_OPERATIONS);

/* The argument is the number of the mount, or, where that cannot be known yet, the file. */
static __always_inline int handle_begin(enum nfs_operation operation, __u64 argument)
{
	call_begin(operation, argument);
	return 0;
}

static __always_inline void count(enum nfs_operation operation, const struct call *call, __u64 mount)
{
	struct nfs_key key = { .operation = operation }, other = { .operation = operation };
	__u64 now = bpf_ktime_get_ns();

	if (!ascending(call->start_ns, now))
		return;
	if (cgroup_label) {
		key.cgroup = cgroup_id_of(NULL, CGROUP_CURRENT_TASK);
		other.cgroup = CGROUP_OTHER;
	}
	if (mount_label) {
		key.mount = mount;
		other.mount = MOUNT_OTHER;
	}
	if (server_label) {
		key.server = mount;
		other.server = MOUNT_OTHER;
	}
	histogram_observe_cgroup(&nfs_latency, &key, &other, NULL, CGROUP_CURRENT_TASK, key.cgroup, now - call->start_ns);
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
		count(operation, &call, call.argument);
	return 0;
}

static __always_inline int handle_open_end(int result)
{
	struct call call;

	if (end(NFS_OPERATION_OPEN, &call) && result != -EOPENSTALE)
		count(NFS_OPERATION_OPEN, &call, call.argument);
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
	count(NFS_OPERATION_OPEN, &call, mount_of_file(file));
	return 0;
}

static __always_inline void count_call(struct task_struct *task, enum nfs_operation operation, const struct call *call)
{
	struct nfs_inflight_key key = { .operation = operation };

	if (!end_was_lost(task, call))
		in_flight_add(&nfs_inflight, &key, NULL, call->start_ns);
}

COUNT_IN_FLIGHT(count_call)

#define TIMED(function, operation, type, mount)        \
	SEC("fentry/" #function)                       \
	int BPF_PROG(function##_fentry, type *from)    \
	{                                              \
		return handle_begin(operation, mount); \
	}                                              \
	SEC("fexit/" #function)                        \
	int BPF_PROG(function##_fexit)                 \
	{                                              \
		return handle_end(operation);          \
	}                                              \
	SEC("kprobe/" #function)                       \
	int BPF_KPROBE(function##_kprobe, type *from)  \
	{                                              \
		return handle_begin(operation, mount); \
	}                                              \
	SEC("kretprobe/" #function)                    \
	int BPF_KRETPROBE(function##_kretprobe)        \
	{                                              \
		return handle_end(operation);          \
	}

TIMED(nfs_file_read, NFS_OPERATION_READ, struct kiocb, mount_of_request(from))
TIMED(nfs_file_splice_read, NFS_OPERATION_READ, struct file, mount_of_file(from))
TIMED(nfs_file_write, NFS_OPERATION_WRITE, struct kiocb, mount_of_request(from))
TIMED(nfs_file_fsync, NFS_OPERATION_FSYNC, struct file, mount_of_file(from))

SEC("fentry/nfs_getattr")
int BPF_PROG(nfs_getattr_fentry, struct path *first, struct path *second)
{
	return handle_begin(NFS_OPERATION_GETATTR, mount_of_path(getattr_path_second ? second : first));
}

SEC("fexit/nfs_getattr")
int BPF_PROG(nfs_getattr_fexit)
{
	return handle_end(NFS_OPERATION_GETATTR);
}

SEC("kprobe/nfs_getattr")
int BPF_KPROBE(nfs_getattr_kprobe, struct path *first, struct path *second)
{
	return handle_begin(NFS_OPERATION_GETATTR, mount_of_path(getattr_path_second ? second : first));
}

SEC("kretprobe/nfs_getattr")
int BPF_KRETPROBE(nfs_getattr_kretprobe)
{
	return handle_end(NFS_OPERATION_GETATTR);
}

#define TIMED_OPEN(function)                                                       \
	SEC("fentry/" #function)                                                   \
	int BPF_PROG(function##_fentry, void *inode, struct file *file)            \
	{                                                                          \
		return handle_begin(NFS_OPERATION_OPEN, mount_of_file(file));      \
	}                                                                          \
	SEC("fexit/" #function)                                                    \
	int BPF_PROG(function##_fexit, void *inode, struct file *file, int result) \
	{                                                                          \
		return handle_open_end(result);                                    \
	}                                                                          \
	SEC("kprobe/" #function)                                                   \
	int BPF_KPROBE(function##_kprobe, void *inode, struct file *file)          \
	{                                                                          \
		return handle_begin(NFS_OPERATION_OPEN, mount_of_file(file));      \
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
	return handle_begin(NFS_OPERATION_OPEN, (__u64)file);
}

SEC("fexit/nfs_atomic_open")
int BPF_PROG(nfs_atomic_open_fexit, void *dir, void *dentry, struct file *file, unsigned int flags, unsigned short mode, int result)
{
	return handle_atomic_open_end(result);
}

SEC("kprobe/nfs_atomic_open")
int BPF_KPROBE(nfs_atomic_open_kprobe, void *dir, void *dentry, struct file *file)
{
	return handle_begin(NFS_OPERATION_OPEN, (__u64)file);
}

SEC("kretprobe/nfs_atomic_open")
int BPF_KRETPROBE(nfs_atomic_open_kretprobe, int result)
{
	return handle_atomic_open_end(result);
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
