// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* lock_wait: how long tasks wait for locks of the kernel that others hold, until they have them or give up.
 *
 * Who spins for a lock stays on its CPU, and only an interrupt can make it wait for another one meanwhile: such waits are a small stack on each CPU.
 * Those who sleep are found by task and lock, since a task can wait for one lock while it waits for another: a writer of a per-CPU semaphore
 * waits for the end of an RCU grace period. The programs for those who spin use no map that has locks of its own, which could be the one
 * that is waited for. */
#include "kernel.bpf.h"
#include "histogram.bpf.h"

enum lock_type {
	LOCK_TYPE_MUTEX,
	LOCK_TYPE_RWSEM_READ,
	LOCK_TYPE_RWSEM_WRITE,
	LOCK_TYPE_PERCPU_READ,
	LOCK_TYPE_PERCPU_WRITE,
	LOCK_TYPE_RTMUTEX,
	LOCK_TYPE_SEMAPHORE,
	LOCK_TYPE_SPIN,
	LOCK_TYPE_RWLOCK_READ,
	LOCK_TYPE_RWLOCK_WRITE,
};

#define LOCK_TYPES 10

/* The kernel's flags of contention_begin. */
#define LCB_F_SPIN   1
#define LCB_F_READ   2
#define LCB_F_WRITE  4
#define LCB_F_RT     8
#define LCB_F_PERCPU 16
#define LCB_F_MUTEX  32

struct lock_wait_key {
	enum lock_type type;
};

/* The loader makes all entries. */
HISTOGRAM_MAP(lock_wait, struct lock_wait_key, LOCK_TYPES);

struct spin {
	__u64 lock;
	__u64 since_ns;
	__u64 type;
};

#define SPINS 4 /* a task, a soft interrupt, an interrupt, and one that cannot be masked */

/* Who spins on a CPU. All of it is for one task, which the others have interrupted. */
struct spins {
	__u64 task;
	__u64 depth;
	struct spin of[SPINS];
};

/* Key: always 0. Value: who spins on this CPU. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct spins);
} spinning SEC(".maps");

struct sleeper {
	__u64 task;
	__u64 lock;
};

struct sleep {
	__u64 since_ns;
	__u64 type;
};

/* Key: task and lock. Value: since when it waits. As many entries as tasks can wait at once. The least recently used entry makes room, so that one
 * of which the end was lost does not stay for ever. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 16384);
	__type(key, struct sleeper);
	__type(value, struct sleep);
} sleeping SEC(".maps");

struct contention_begin_record {
	__u64 common;
	__u64 lock;
	__u32 flags;
};

struct contention_end_record {
	__u64 common;
	__u64 lock;
};

/* A real-time kernel's sleeping locks are built on rtmutex, and have its flag beside their own. */
static __always_inline enum lock_type type_of(__u32 flags)
{
	bool read = flags & LCB_F_READ, write = flags & LCB_F_WRITE;

	if (flags & LCB_F_MUTEX)
		return LOCK_TYPE_MUTEX;
	if (flags & LCB_F_SPIN)
		return read ? LOCK_TYPE_RWLOCK_READ : write ? LOCK_TYPE_RWLOCK_WRITE : LOCK_TYPE_SPIN;
	if (flags & LCB_F_PERCPU)
		return write ? LOCK_TYPE_PERCPU_WRITE : LOCK_TYPE_PERCPU_READ;
	if (read || write)
		return read ? LOCK_TYPE_RWSEM_READ : LOCK_TYPE_RWSEM_WRITE;
	return flags & LCB_F_RT ? LOCK_TYPE_RTMUTEX : LOCK_TYPE_SEMAPHORE;
}

static __always_inline void observe(__u64 type, __u64 since)
{
	struct lock_wait_key key = { .type = type };
	struct histogram *h = bpf_map_lookup_elem(&lock_wait, &key);
	__u64 now = bpf_ktime_get_ns();

	if (h && ascending(since, now))
		histogram_add(h, now - since);
}

/* What another task left here when its end was lost is dropped, and a stack that is full of such ends too. */
static __always_inline int begin_spin(__u64 task, __u64 lock, enum lock_type type)
{
	struct spins *spins;
	struct spin *spin;
	__u32 zero = 0;
	__u64 depth;

	spins = bpf_map_lookup_elem(&spinning, &zero);
	if (!spins)
		return 0;
	depth = spins->task == task ? spins->depth : 0;
	if (depth >= SPINS)
		depth = 0;
	spins->task = task;
	spin = &spins->of[depth & (SPINS - 1)];
	spin->lock = lock;
	spin->type = type;
	spin->since_ns = bpf_ktime_get_ns();
	spins->depth = depth + 1;
	return 0;
}

static __always_inline int handle_begin(__u64 lock, __u32 flags)
{
	struct sleeper sleeper = { .task = bpf_get_current_task(), .lock = lock };
	enum lock_type type = type_of(flags);
	struct sleep sleep = { .type = type };

	if (type >= LOCK_TYPE_SPIN)
		return begin_spin(sleeper.task, lock, type);
	/* Who waits for a mutex spins and sleeps by turns, which is one wait. Any other wait begins once. */
	sleep.since_ns = bpf_ktime_get_ns();
	bpf_map_update_elem(&sleeping, &sleeper, &sleep, type == LOCK_TYPE_MUTEX ? BPF_NOEXIST : BPF_ANY);
	return 0;
}

static __always_inline bool end_spin(__u64 task, __u64 lock)
{
	struct spins *spins;
	__u32 zero = 0;
	__u64 depth;
	int i;

	spins = bpf_map_lookup_elem(&spinning, &zero);
	if (!spins || spins->task != task)
		return false;
	depth = spins->depth;
	for (i = 0; i < SPINS; i++) {
		struct spin *spin = &spins->of[(depth - 1) & (SPINS - 1)];

		if (!depth)
			return false;
		depth--;
		if (spin->lock == lock) {
			spins->depth = depth;
			observe(spin->type, spin->since_ns);
			return true;
		}
	}
	return false;
}

static __always_inline int handle_end(__u64 lock)
{
	struct sleeper sleeper = { .task = bpf_get_current_task(), .lock = lock };
	struct sleep *found, sleep;

	if (end_spin(sleeper.task, lock))
		return 0;
	found = bpf_map_lookup_elem(&sleeping, &sleeper);
	if (!found)
		return 0; /* The wait was under way already when latpush was attached. */
	sleep = *found;
	bpf_map_delete_elem(&sleeping, &sleeper);
	observe(sleep.type, sleep.since_ns);
	return 0;
}

SEC("tp_btf/contention_begin")
int BPF_PROG(contention_begin_tp_btf, __u64 lock, __u32 flags)
{
	return handle_begin(lock, flags);
}

SEC("raw_tp/contention_begin")
int BPF_PROG(contention_begin_raw_tp, __u64 lock, __u32 flags)
{
	return handle_begin(lock, flags);
}

SEC("tracepoint/lock/contention_begin")
int contention_begin_tracepoint(struct contention_begin_record *record)
{
	return handle_begin(record->lock, record->flags);
}

SEC("tp_btf/contention_end")
int BPF_PROG(contention_end_tp_btf, __u64 lock)
{
	return handle_end(lock);
}

SEC("raw_tp/contention_end")
int BPF_PROG(contention_end_raw_tp, __u64 lock)
{
	return handle_end(lock);
}

SEC("tracepoint/lock/contention_end")
int contention_end_tracepoint(struct contention_end_record *record)
{
	return handle_end(record->lock);
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
