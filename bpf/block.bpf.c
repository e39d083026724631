// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* block: the time a request waits in the I/O scheduler's queue (insert to issue), and the time the device takes (issue to completion).
 *
 * Requests are keyed by their address, which is that of a slot in a preallocated set: one that was merged into another never completes, and
 * its address comes back with another request. A request that is issued without waiting in a queue has no queue time. A request that is
 * issued again, because the driver had no room, is timed from the last issue.
 *
 * Drivers such as md, dm and zram make no requests, but take bios: those are timed from the queueing of the bio to its completion, whatever parts it
 * is split into and whatever other devices those go to. */
#include "kernel.bpf.h"
#include "gauge.bpf.h"
#include "histogram.bpf.h"

/* Bits that enum req_op has had since 4.10; the other operations are rare. */
enum block_operation {
	BLOCK_OPERATION_READ = 0,
	BLOCK_OPERATION_WRITE = 1,
	BLOCK_OPERATION_FLUSH = 2,
	BLOCK_OPERATION_DISCARD = 3,
	BLOCK_OPERATION_OTHER = 4,
};

struct block_key {
	char device[32];
	enum block_operation operation;
};

struct pending_request {
	__u64 insert_ns; /* 0: not inserted */
	__u64 issue_ns;	 /* 0: not issued */
};

struct pending_bio {
	__u64 queue_ns;
	struct gendisk *disk; /* to which it was queued: the driver may send it on to another one */
	enum block_operation operation;
};

/* Set by the loader: position of the request among the arguments of block_rq_issue and block_rq_insert, and of the bio among those of
 * block_bio_queue. */
const volatile __u32 rq_argument;
const volatile __u32 bio_argument;

/* When the first issue was seen: those of requests that were made later are seen, too. 0: none was. */
static volatile __u64 issues_since;

/* What is counted when no label set is free. */
static const struct block_key other_key = { .device = "other", .operation = BLOCK_OPERATION_OTHER };

HISTOGRAM_MAP(block_io_latency, struct block_key, 256);
HISTOGRAM_MAP(block_io_queue, struct block_key, 256);
IN_FLIGHT_MAP(block_io_inflight, struct block_key, 256);
IN_FLIGHT_MAP(block_io_queued, struct block_key, 256);

/* Key: address of the request. Value: its times. As many entries as requests can be under way at once. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 16384);
	__type(key, __u64);
	__type(value, struct pending_request);
} pending_requests SEC(".maps");

/* Key: address of the bio. Value: its time and what it is. As many entries as bios can be under way at once in drivers that take them. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 8192);
	__type(key, __u64);
	__type(value, struct pending_bio);
} pending_bios SEC(".maps");

static __always_inline struct gendisk *request_disk(struct request *rq)
{
	struct request___5_16 *old = (void *)rq;

	if (bpf_core_field_exists(old->rq_disk))
		return BPF_CORE_READ(old, rq_disk);
	return BPF_CORE_READ(rq, q, disk);
}

static __always_inline void request_key(struct request *rq, struct block_key *key)
{
	__u32 operation = BPF_CORE_READ(rq, cmd_flags) & REQ_OP_MASK;
	struct gendisk *disk = request_disk(rq);

	key->operation = operation < BLOCK_OPERATION_OTHER ? operation : BLOCK_OPERATION_OTHER;
	if (disk)
		bpf_probe_read_kernel_str(key->device, sizeof(key->device), &disk->disk_name);
	else
		__builtin_memcpy(key->device, "none", sizeof("none")); /* a command to a controller */
}

static __always_inline void observe(void *map, struct request *rq, __u64 start, __u64 end)
{
	struct block_key key = {}, other = other_key;

	if (!ascending(start, end))
		return;
	request_key(rq, &key);
	histogram_observe(map, &key, &other, end - start);
}

static __always_inline int handle_insert(struct request *rq)
{
	struct pending_request pending = { .insert_ns = bpf_ktime_get_ns() };
	__u64 address = (__u64)rq;

	if (bpf_map_update_elem(&pending_requests, &address, &pending, BPF_ANY))
		count_loss(in_flight_full);
	return 0;
}

static __always_inline int handle_issue(struct request *rq)
{
	struct pending_request *known, pending = { .issue_ns = bpf_ktime_get_ns() };
	__u64 address = (__u64)rq, inserted;

	if (!issues_since)
		issues_since = pending.issue_ns;
	known = bpf_map_lookup_elem(&pending_requests, &address);
	if (!known) {
		if (bpf_map_update_elem(&pending_requests, &address, &pending, BPF_ANY))
			count_loss(in_flight_full);
		return 0;
	}
	inserted = known->insert_ns;
	known->insert_ns = 0;
	known->issue_ns = pending.issue_ns;
	/* An insert before the request was made belongs to one that was merged away. */
	if (inserted && inserted >= BPF_CORE_READ(rq, start_time_ns))
		observe(&block_io_queue, rq, inserted, pending.issue_ns);
	return 0;
}

static __always_inline int handle_complete(struct request *rq, unsigned int bytes)
{
	__u64 address = (__u64)rq, now = bpf_ktime_get_ns(), issued;
	struct pending_request *pending;

	if (bytes < BPF_CORE_READ(rq, __data_len))
		return 0; /* The rest is still under way. */
	pending = bpf_map_lookup_elem(&pending_requests, &address);
	if (!pending || !pending->issue_ns) {
		/* No loss: a flush that ends with the device's own flush and was never issued, a write that ends again, without a byte, when its
		 * flush has, or what may have been issued before issues were seen. */
		if (bytes && BPF_CORE_READ(rq, state) != MQ_RQ_IDLE && issues_since && BPF_CORE_READ(rq, start_time_ns) > issues_since)
			count_loss(no_start);
		return 0;
	}
	issued = pending->issue_ns;
	bpf_map_delete_elem(&pending_requests, &address);
	observe(&block_io_latency, rq, issued, now);
	return 0;
}

/* Counts a request that is under way: at the device from its issue to its completion, else in the queue, to which one also returns that the driver
 * had no room for. What is noted of a request that was merged away, or of the one that had its address before, is older than the request, or there
 * is no request. */
static __always_inline void count_request(struct request *rq, const struct pending_request *pending)
{
	__u64 made = BPF_CORE_READ(rq, start_time_ns), queued = pending->insert_ns ?: pending->issue_ns;
	struct block_key key = {}, other = other_key;
	int references = 0;

	bpf_core_read(&references, sizeof(references), &rq->ref);
	if (!references)
		return;
	request_key(rq, &key);
	if (BPF_CORE_READ(rq, state) == MQ_RQ_IDLE) {
		if (queued && queued >= made)
			in_flight_add(&block_io_queued, &key, &other, queued);
	} else if (pending->issue_ns && pending->issue_ns >= made) {
		in_flight_add(&block_io_inflight, &key, &other, pending->issue_ns);
	}
}

SEC("iter/bpf_map_elem")
int count_in_flight(struct bpf_iter__bpf_map_elem *ctx)
{
	struct pending_request *noted = ctx->value, pending;
	__u64 *address = ctx->key;

	if (!address || !noted)
		return 0;
	pending = *noted;
	count_request((struct request *)*address, &pending);
	return 0;
}

static __always_inline struct gendisk *bio_disk(struct bio *bio)
{
	struct bio___5_11 *old = (void *)bio;

	if (bpf_core_field_exists(old->bi_disk))
		return BPF_CORE_READ(old, bi_disk);
	return BPF_CORE_READ(bio, bi_bdev, bd_disk);
}

static __always_inline enum block_operation bio_operation(struct bio *bio)
{
	__u32 bits = BPF_CORE_READ(bio, bi_opf), operation = bits & REQ_OP_MASK;

	if (operation == BLOCK_OPERATION_WRITE && !BPF_CORE_READ(bio, bi_iter.bi_size) &&
	    (bits & (1U << bpf_core_enum_value(enum req_flag_bits, __REQ_PREFLUSH))))
		return BLOCK_OPERATION_FLUSH; /* a write of nothing */
	return operation < BLOCK_OPERATION_OTHER ? operation : BLOCK_OPERATION_OTHER;
}

static __always_inline int handle_bio_queue(struct bio *bio)
{
	struct gendisk *disk = bio_disk(bio);
	struct pending_bio pending = {};
	__u64 address = (__u64)bio;

	if (BPF_CORE_READ(disk, queue, mq_ops))
		return 0; /* it becomes a part of requests */
	pending.disk = disk;
	pending.operation = bio_operation(bio);
	pending.queue_ns = bpf_ktime_get_ns();
	if (bpf_map_update_elem(&pending_bios, &address, &pending, BPF_ANY))
		count_loss(in_flight_full);
	return 0;
}

static __always_inline int handle_bio_complete(struct bio *bio)
{
	__u64 address = (__u64)bio, now;
	struct block_key key = {}, other = other_key;
	struct pending_bio *pending, ended;

	pending = bpf_map_lookup_elem(&pending_bios, &address);
	if (!pending)
		return 0; /* of a driver of requests, a part of another bio, or queued before latpush attached */
	now = bpf_ktime_get_ns();
	ended = *pending;
	bpf_map_delete_elem(&pending_bios, &address);
	if (!ascending(ended.queue_ns, now))
		return 0;
	key.operation = ended.operation;
	bpf_probe_read_kernel_str(key.device, sizeof(key.device), &ended.disk->disk_name);
	histogram_observe(&block_io_latency, &key, &other, now - ended.queue_ns);
	return 0;
}

SEC("tp_btf/block_bio_queue")
int block_bio_queue_tp_btf(__u64 *ctx)
{
	return handle_bio_queue((struct bio *)(bio_argument ? context_place(ctx, 1) : context_place(ctx, 0)));
}

SEC("raw_tp/block_bio_queue")
int block_bio_queue_raw_tp(__u64 *ctx)
{
	return handle_bio_queue((struct bio *)(bio_argument ? context_place(ctx, 1) : context_place(ctx, 0)));
}

SEC("tp_btf/block_bio_complete")
int BPF_PROG(block_bio_complete_tp_btf, void *queue, struct bio *bio)
{
	return handle_bio_complete(bio);
}

SEC("raw_tp/block_bio_complete")
int BPF_PROG(block_bio_complete_raw_tp, void *queue, struct bio *bio)
{
	return handle_bio_complete(bio);
}

SEC("tp_btf/block_rq_insert")
int block_rq_insert_tp_btf(__u64 *ctx)
{
	return handle_insert((struct request *)(rq_argument ? context_place(ctx, 1) : context_place(ctx, 0)));
}

SEC("tp_btf/block_rq_issue")
int block_rq_issue_tp_btf(__u64 *ctx)
{
	return handle_issue((struct request *)(rq_argument ? context_place(ctx, 1) : context_place(ctx, 0)));
}

SEC("tp_btf/block_rq_complete")
int BPF_PROG(block_rq_complete_tp_btf, struct request *rq, int error, unsigned int bytes)
{
	return handle_complete(rq, bytes);
}

SEC("raw_tp/block_rq_insert")
int block_rq_insert_raw_tp(__u64 *ctx)
{
	return handle_insert((struct request *)(rq_argument ? context_place(ctx, 1) : context_place(ctx, 0)));
}

SEC("raw_tp/block_rq_issue")
int block_rq_issue_raw_tp(__u64 *ctx)
{
	return handle_issue((struct request *)(rq_argument ? context_place(ctx, 1) : context_place(ctx, 0)));
}

SEC("raw_tp/block_rq_complete")
int BPF_PROG(block_rq_complete_raw_tp, struct request *rq, int error, unsigned int bytes)
{
	return handle_complete(rq, bytes);
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
