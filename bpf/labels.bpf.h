/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Types of label members whose numbers user space turns into names. It knows them by the names of these types. */
#ifndef LATPUSH_LABELS_BPF_H
#define LATPUSH_LABELS_BPF_H

#include "kernel.bpf.h"

typedef __u64 cgroup_id;       /* of a control group whose path cgroup_noted() has kept; CGROUP_OTHER is "other" */
typedef __u64 mount_id;	       /* of a mount, as mount_of() makes it: named by its mount point */
typedef __u64 mount_server;    /* the same, named by the server */
typedef __u64 kernel_function; /* the address of a function of the kernel or of a module; 0 is "other" */

#endif
