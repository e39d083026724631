/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The labels mount and server: through which mount a file was reached. Keys hold numbers, which user space looks up in the kernel's list of
 * mounts. */
#ifndef LATPUSH_MOUNT_BPF_H
#define LATPUSH_MOUNT_BPF_H

#include "kernel.bpf.h"
#include "labels.bpf.h"

#define MOUNT_OTHER (~0ULL)

/* Set by the loader: which of the labels there are. */
const volatile bool mount_label;
const volatile bool server_label;

/* Returns the number of a mount: the device of its file system above, its own identity below. A mount that user space does not see, because it is in
 * another namespace, can be told by the device alone. */
static __always_inline __u64 mount_of(const struct vfsmount *mount)
{
	struct mount *whole = (void *)mount - bpf_core_field_offset(struct mount, mnt);
	__u64 device = BPF_CORE_READ(mount, mnt_sb, s_dev);

	return device << 32 | (__u32)BPF_CORE_READ(whole, mnt_id);
}

/* The following return the number of the mount of a path, of an open file, or of a request to read or write one; 0 if mounts are not told apart. */

static __always_inline __u64 mount_of_path(const struct path *path)
{
	return mount_label || server_label ? mount_of(BPF_CORE_READ(path, mnt)) : 0;
}

static __always_inline __u64 mount_of_file(const struct file *file)
{
	return mount_label || server_label ? mount_of(BPF_CORE_READ(file, f_path.mnt)) : 0;
}

static __always_inline __u64 mount_of_request(const struct kiocb *request)
{
	return mount_label || server_label ? mount_of_file(BPF_CORE_READ(request, ki_filp)) : 0;
}

#endif
