/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The label cgroup: the control group of the task that is timed, in a key as a number, beside it in a map its path. The path is read from the
 * kernel's own tree when the group is counted for the first time: when user space reads the numbers the group may be gone, and user space may see
 * the tree neither from the root nor at all.
 *
 * The group is that of the unified hierarchy. On a host that uses only hierarchies of version 1 it is that of the controller which the loader
 * chooses. */
#ifndef LATPUSH_CGROUP_BPF_H
#define LATPUSH_CGROUP_BPF_H

#include "kernel.bpf.h"
#include "histogram.bpf.h"
#include "labels.bpf.h"

#define CGROUP_OTHER	  (~0ULL)
#define CGROUP_UNIFIED	  (~0U)
#define CGROUP_NAME_SIZE  256 /* NAME_MAX, and the zero byte */
#define CGROUP_HALF	  256 /* a power of two */
#define CGROUP_HALF_SIZE  (CGROUP_HALF + CGROUP_NAME_SIZE)
#define CGROUP_MAX_LEVELS 64

/* Set by the loader: whether groups are told apart, and by which controller's hierarchy. */
const volatile bool cgroup_label;
const volatile __u32 cgroup_controller = CGROUP_UNIFIED;

/* The names of a group and of those above it, from the lowest up, each with a zero byte. One half is filled after the other, in turn, so that of a
 * path that does not fit the names above are there: they are those of units and containers. */
struct cgroup_path {
	__u32 complete; /* the names are all there: until then they are being written */
	__u32 upper;	/* which half has the upper names */
	__u32 upper_length;
	__u32 lower_length;
	char names[2][CGROUP_HALF_SIZE];
};

static const struct cgroup_path cgroup_path_empty;

/* Key: cgroup_id. Value: the path. Sized by the loader from max_label_sets. User space removes paths to which no key refers. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1);
	__type(key, cgroup_id);
	__type(value, struct cgroup_path);
} cgroup_paths SEC(".maps");

static __always_inline struct kernfs_node *cgroup_parent(struct kernfs_node *node)
{
	struct kernfs_node___6_14 *old = (void *)node;

	if (bpf_core_field_exists(old->parent))
		return BPF_CORE_READ(old, parent);
	return BPF_CORE_READ(node, __parent);
}

/* Keeps the path of group id, whose node is at address. Returns whether it is kept, now or already: if not, there is no room, or the task has moved
 * to another group since its id was read. It is no inline function, so that the verifier looks at its loop once. */
__noinline int cgroup_noted(__u64 address, cgroup_id id)
{
	struct kernfs_node *node = (void *)address, *parent;
	struct cgroup_path *path;
	__u32 half = 0, length = 0, lower_length = 0;
	long size;
	int level;

	if (bpf_map_lookup_elem(&cgroup_paths, &id))
		return 1;
	if (BPF_CORE_READ(node, id) != id)
		return 0;
	if (bpf_map_update_elem(&cgroup_paths, &id, &cgroup_path_empty, BPF_NOEXIST))
		return bpf_map_lookup_elem(&cgroup_paths, &id) != NULL; /* another CPU is writing it, or there is no room */
	path = bpf_map_lookup_elem(&cgroup_paths, &id);
	if (!path)
		return 0;
	for (level = 0; level < CGROUP_MAX_LEVELS; level++) {
		parent = cgroup_parent(node);
		if (!parent)
			break; /* the root has no name */
		if (length >= CGROUP_HALF) {
			lower_length = length;
			length = 0;
			half ^= 1;
		}
		size = bpf_probe_read_kernel_str(&path->names[half & 1][length & (CGROUP_HALF - 1)], CGROUP_NAME_SIZE, BPF_CORE_READ(node, name));
		if (size < 0)
			break;
		length += size;
		node = parent;
	}
	path->upper = half;
	path->upper_length = length;
	path->lower_length = lower_length;
	barrier();
	path->complete = 1;
	return 1;
}

/* What a program knows of the task that it times. */
enum cgroup_task {
	CGROUP_NO_TASK, /* nothing: a program on a classic tracepoint, which must work without the kernel's type information. It counts as "other" */
	CGROUP_TASK,
	CGROUP_TYPED_TASK,   /* a pointer of which the verifier knows the type */
	CGROUP_CURRENT_TASK, /* that it is the current task, whatever the pointer is */
};

static __always_inline struct task_struct *cgroup_task(struct task_struct *task, enum cgroup_task kind)
{
	return kind == CGROUP_CURRENT_TASK ? (struct task_struct *)bpf_get_current_task() : task;
}

/* Returns the node of a task's group. */
static __always_inline struct kernfs_node *cgroup_of(struct task_struct *task)
{
	struct css_set *groups = BPF_CORE_READ(task, cgroups);
	struct cgroup_subsys_state **states, *state;

	if (cgroup_controller == CGROUP_UNIFIED)
		return BPF_CORE_READ(groups, dfl_cgrp, kn);
	states = __builtin_preserve_access_index(&groups->subsys[0]);
	if (bpf_probe_read_kernel(&state, sizeof(state), states + cgroup_controller))
		return NULL;
	return BPF_CORE_READ(state, cgroup, kn);
}

/* Returns the number of a task's group, 0 if groups are not told apart. */
static __always_inline cgroup_id cgroup_id_of(struct task_struct *task, enum cgroup_task kind)
{
	if (!cgroup_label)
		return 0;
	if (kind == CGROUP_NO_TASK)
		return CGROUP_OTHER;
	if (kind == CGROUP_CURRENT_TASK && cgroup_controller == CGROUP_UNIFIED)
		return bpf_get_current_cgroup_id();
	if (kind == CGROUP_TYPED_TASK && cgroup_controller == CGROUP_UNIFIED)
		return task->cgroups->dfl_cgrp->kn->id; /* without a call for each pointer */
	return BPF_CORE_READ(cgroup_of(cgroup_task(task, kind)), id);
}

/* Counts one event under key, which is of the task's group id. When there is no room for it, it is counted under other, which the loader has made. */
static __always_inline void histogram_observe_cgroup(void *map, const void *key, const void *other, struct task_struct *task, enum cgroup_task kind,
						     cgroup_id id, __u64 ns)
{
	struct histogram *h = bpf_map_lookup_elem(map, key);

	if (!h && (!cgroup_label || (kind != CGROUP_NO_TASK && cgroup_noted((__u64)cgroup_of(cgroup_task(task, kind)), id)))) {
		bpf_map_update_elem(map, key, &histogram_zero, BPF_NOEXIST);
		h = bpf_map_lookup_elem(map, key);
	}
	if (!h)
		h = bpf_map_lookup_elem(map, other);
	if (!h) {
		count_loss(histograms_full);
		return;
	}
	histogram_add(h, ns);
}

#endif
