// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* filesystem: the time the VFS operations of file systems take, as the calling task sees them.
 *
 * The functions are those in the file systems' tables of operations, which the VFS calls through pointers: they are there whatever the compiler
 * does with the rest. A file system that is stacked on another one calls it in the same task, and each counts its own. One that is stacked on
 * itself, and a function that calls another one of the same operation, count once, as what the task has called.
 *
 * A read or write that returns before it has begun (EAGAIN) or that ends later in another context (EIOCBQUEUED) is not counted: its time is
 * not that of the operation. */
#define IN_FLIGHT_OPERATIONS 30

#include "kernel.bpf.h"
#include "gauge.bpf.h"
#include "histogram.bpf.h"
#include "in_flight.bpf.h"
#include "cgroup.bpf.h"

enum filesystem {
	FILESYSTEM_EXT4,
	FILESYSTEM_XFS,
	FILESYSTEM_BTRFS,
	FILESYSTEM_F2FS,
	FILESYSTEM_FUSE,
	FILESYSTEM_OVERLAY,
};

enum filesystem_operation {
	FILESYSTEM_OPERATION_READ,
	FILESYSTEM_OPERATION_WRITE,
	FILESYSTEM_OPERATION_OPEN,
	FILESYSTEM_OPERATION_FSYNC,
	FILESYSTEM_OPERATION_GETATTR,
};

struct filesystem_key {
	enum filesystem filesystem;
	enum filesystem_operation operation;
	cgroup_id cgroup;
} __attribute__((packed, aligned(4)));

struct filesystem_inflight_key {
	enum filesystem filesystem;
	enum filesystem_operation operation;
};

HISTOGRAM_MAP(filesystem_latency, struct filesystem_key, IN_FLIGHT_OPERATIONS);
IN_FLIGHT_MAP(filesystem_inflight, struct filesystem_inflight_key, IN_FLIGHT_OPERATIONS);

/* The place of an operation of a file system among a task's calls. */
#define PLACE(filesystem, operation) (FILESYSTEM_##filesystem * 5 + FILESYSTEM_OPERATION_##operation)

/* A number for the function that is timed where this stands. Only overlays call themselves. */
#define FUNCTION(place) ((place) / 5 == FILESYSTEM_OVERLAY ? 0 : __LINE__)

/* The handlers are functions of their own, and not a part of each of the many programs. */
static __noinline int handle_begin(__u32 place, const void *file, __u32 frame, __u32 function)
{
	outermost_call_begin(place, (__u64)file, frame, function);
	return 0;
}

static __always_inline void count(__u32 place, const struct call *call)
{
	struct filesystem_key key = { .filesystem = place / 5, .operation = place % 5 }, other = key;
	__u64 now = bpf_ktime_get_ns();

	if (!ascending(call->start_ns, now))
		return;
	key.cgroup = cgroup_id_of(NULL, CGROUP_CURRENT_TASK);
	other.cgroup = CGROUP_OTHER;
	histogram_observe_cgroup(&filesystem_latency, &key, &other, NULL, CGROUP_CURRENT_TASK, key.cgroup, now - call->start_ns);
}

static __always_inline bool end(__u32 place, __u32 frame, struct call *call)
{
	enum call_end end = outermost_call_end(place, frame, call);

	if (end == CALL_NOT_STARTED)
		count_loss(no_start);
	return end == CALL_ENDED;
}

static __noinline int handle_end(__u32 place, __u32 frame)
{
	struct call call;

	if (end(place, frame, &call))
		count(place, &call);
	return 0;
}

static __noinline int handle_transfer_end(__u32 place, __u32 frame, long result)
{
	struct call call;

	if (end(place, frame, &call) && result != -EAGAIN && result != -EIOCBQUEUED)
		count(place, &call);
	return 0;
}

/* The function serves every file system that has no function of its own for it. */
static __always_inline int handle_filemap_splice_begin(struct file *file, __u32 frame)
{
	if (BPF_CORE_READ(file, f_inode, i_sb, s_magic) == BTRFS_SUPER_MAGIC)
		outermost_call_begin(PLACE(BTRFS, READ), 0, frame, FUNCTION(PLACE(BTRFS, READ)));
	return 0;
}

static __always_inline int handle_filemap_splice_end(__u32 frame, long result)
{
	struct call call;

	if (outermost_call_end(PLACE(BTRFS, READ), frame, &call) == CALL_ENDED && result != -EAGAIN)
		count(PLACE(BTRFS, READ), &call);
	return 0;
}

/* An atomic_open that leaves the file unopened, because nothing was to be created, is followed by the file's open function. */
static __always_inline int handle_atomic_open_end(__u32 place, __u32 frame, int result)
{
	struct file *file;
	struct call call;

	if (!end(place, frame, &call))
		return 0;
	file = (struct file *)call.argument;
	if (result || BPF_CORE_READ(file, f_mode) & FMODE_OPENED)
		count(place, &call);
	return 0;
}

/* A task that waits for a FUSE server does so interruptibly, for as long as the server takes. */
static __always_inline void count_call(struct task_struct *task, __u32 place, const struct call *call)
{
	struct filesystem_inflight_key key = { .filesystem = place / 5, .operation = place % 5 };

	if (key.filesystem == FILESYSTEM_FUSE || key.filesystem == FILESYSTEM_OVERLAY || !end_was_lost(task, call))
		in_flight_add(&filesystem_inflight, &key, NULL, call->start_ns);
}

COUNT_IN_FLIGHT(count_call)

#define BEGINS(function, place)                                                           \
	SEC("fentry/" #function)                                                          \
	int BPF_PROG(function##_fentry)                                                   \
	{                                                                                 \
		return handle_begin(place, NULL, trampoline_frame(ctx), FUNCTION(place)); \
	}                                                                                 \
	SEC("kprobe/" #function)                                                          \
	int BPF_KPROBE(function##_kprobe)                                                 \
	{                                                                                 \
		return handle_begin(place, NULL, PT_REGS_SP(ctx), FUNCTION(place));       \
	}

#define TIMED(function, place)                                   \
	BEGINS(function, place)                                  \
	SEC("fexit/" #function)                                  \
	int BPF_PROG(function##_fexit)                           \
	{                                                        \
		return handle_end(place, trampoline_frame(ctx)); \
	}                                                        \
	SEC("kretprobe/" #function)                              \
	int BPF_KRETPROBE(function##_kretprobe)                  \
	{                                                        \
		return handle_end(place, PT_REGS_SP(ctx));       \
	}

/* What follows place are the function's parameters. */
#define TIMED_TRANSFER(function, place, ...)                                      \
	BEGINS(function, place)                                                   \
	SEC("fexit/" #function)                                                   \
	int BPF_PROG(function##_fexit, __VA_ARGS__, long result)                  \
	{                                                                         \
		return handle_transfer_end(place, trampoline_frame(ctx), result); \
	}                                                                         \
	SEC("kretprobe/" #function)                                               \
	int BPF_KRETPROBE(function##_kretprobe, long result)                      \
	{                                                                         \
		return handle_transfer_end(place, PT_REGS_SP(ctx), result);       \
	}

#define TIMED_ITER(function, place)   TIMED_TRANSFER(function, place, void *iocb, void *iter)
#define TIMED_SPLICE(function, place) TIMED_TRANSFER(function, place, void *from, void *to, void *position, unsigned long size, unsigned int flags)

TIMED_ITER(ext4_file_read_iter, PLACE(EXT4, READ))
TIMED_SPLICE(ext4_file_splice_read, PLACE(EXT4, READ))
TIMED_ITER(ext4_file_write_iter, PLACE(EXT4, WRITE))
TIMED(ext4_file_open, PLACE(EXT4, OPEN))
TIMED(ext4_dir_open, PLACE(EXT4, OPEN))
TIMED(ext4_sync_file, PLACE(EXT4, FSYNC))
TIMED(ext4_getattr, PLACE(EXT4, GETATTR))

TIMED_ITER(xfs_file_read_iter, PLACE(XFS, READ))
TIMED_SPLICE(xfs_file_splice_read, PLACE(XFS, READ))
TIMED_ITER(xfs_file_write_iter, PLACE(XFS, WRITE))
TIMED(xfs_file_open, PLACE(XFS, OPEN))
TIMED(xfs_dir_open, PLACE(XFS, OPEN))
TIMED(xfs_file_fsync, PLACE(XFS, FSYNC))
TIMED(xfs_dir_fsync, PLACE(XFS, FSYNC))
TIMED(xfs_vn_getattr, PLACE(XFS, GETATTR))

TIMED_ITER(btrfs_file_read_iter, PLACE(BTRFS, READ))
TIMED_SPLICE(btrfs_file_splice_read, PLACE(BTRFS, READ))
TIMED_ITER(btrfs_file_write_iter, PLACE(BTRFS, WRITE))
TIMED(btrfs_file_open, PLACE(BTRFS, OPEN))
TIMED(btrfs_opendir, PLACE(BTRFS, OPEN))
TIMED(btrfs_sync_file, PLACE(BTRFS, FSYNC))
TIMED(btrfs_getattr, PLACE(BTRFS, GETATTR))

TIMED_ITER(f2fs_file_read_iter, PLACE(F2FS, READ))
TIMED_SPLICE(f2fs_file_splice_read, PLACE(F2FS, READ))
TIMED_ITER(f2fs_file_write_iter, PLACE(F2FS, WRITE))
TIMED(f2fs_file_open, PLACE(F2FS, OPEN))
TIMED(f2fs_dir_open, PLACE(F2FS, OPEN))
TIMED(f2fs_sync_file, PLACE(F2FS, FSYNC))
TIMED(f2fs_getattr, PLACE(F2FS, GETATTR))

TIMED_ITER(fuse_file_read_iter, PLACE(FUSE, READ))
TIMED_SPLICE(fuse_splice_read, PLACE(FUSE, READ))
TIMED_ITER(fuse_file_write_iter, PLACE(FUSE, WRITE))
TIMED_SPLICE(fuse_splice_write, PLACE(FUSE, WRITE))
TIMED(fuse_open, PLACE(FUSE, OPEN))
TIMED(fuse_dir_open, PLACE(FUSE, OPEN))
TIMED(fuse_fsync, PLACE(FUSE, FSYNC))
TIMED(fuse_dir_fsync, PLACE(FUSE, FSYNC))
TIMED(fuse_getattr, PLACE(FUSE, GETATTR))

TIMED_ITER(ovl_read_iter, PLACE(OVERLAY, READ))
TIMED_SPLICE(ovl_splice_read, PLACE(OVERLAY, READ))
TIMED_ITER(ovl_write_iter, PLACE(OVERLAY, WRITE))
TIMED_SPLICE(ovl_splice_write, PLACE(OVERLAY, WRITE))
TIMED(ovl_open, PLACE(OVERLAY, OPEN))
TIMED(ovl_dir_open, PLACE(OVERLAY, OPEN))
TIMED(ovl_fsync, PLACE(OVERLAY, FSYNC))
TIMED(ovl_dir_fsync, PLACE(OVERLAY, FSYNC))
TIMED(ovl_getattr, PLACE(OVERLAY, GETATTR))

SEC("fentry/filemap_splice_read")
int BPF_PROG(filemap_splice_read_fentry, struct file *file)
{
	return handle_filemap_splice_begin(file, trampoline_frame(ctx));
}

SEC("fexit/filemap_splice_read")
int BPF_PROG(filemap_splice_read_fexit, void *from, void *position, void *to, unsigned long size, unsigned int flags, long result)
{
	return handle_filemap_splice_end(trampoline_frame(ctx), result);
}

SEC("kprobe/filemap_splice_read")
int BPF_KPROBE(filemap_splice_read_kprobe, struct file *file)
{
	return handle_filemap_splice_begin(file, PT_REGS_SP(ctx));
}

SEC("kretprobe/filemap_splice_read")
int BPF_KRETPROBE(filemap_splice_read_kretprobe, long result)
{
	return handle_filemap_splice_end(PT_REGS_SP(ctx), result);
}

SEC("fentry/fuse_atomic_open")
int BPF_PROG(fuse_atomic_open_fentry, void *dir, void *dentry, struct file *file)
{
	return handle_begin(PLACE(FUSE, OPEN), file, trampoline_frame(ctx), FUNCTION(PLACE(FUSE, OPEN)));
}

SEC("fexit/fuse_atomic_open")
int BPF_PROG(fuse_atomic_open_fexit, void *dir, void *dentry, struct file *file, unsigned int flags, unsigned short mode, int result)
{
	return handle_atomic_open_end(PLACE(FUSE, OPEN), trampoline_frame(ctx), result);
}

SEC("kprobe/fuse_atomic_open")
int BPF_KPROBE(fuse_atomic_open_kprobe, void *dir, void *dentry, struct file *file)
{
	return handle_begin(PLACE(FUSE, OPEN), file, PT_REGS_SP(ctx), FUNCTION(PLACE(FUSE, OPEN)));
}

SEC("kretprobe/fuse_atomic_open")
int BPF_KRETPROBE(fuse_atomic_open_kretprobe, int result)
{
	return handle_atomic_open_end(PLACE(FUSE, OPEN), PT_REGS_SP(ctx), result);
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
