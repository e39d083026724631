/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The kernel's types, cut down to the fields that latpush reads. Offsets are relocated to the running kernel when a program is loaded
 * (CO-RE), so only names and types matter here. A field that was renamed or moved has its old home in a ___flavour.
 *
 * What changed over the years, and where the change is handled:
 *   task_struct.state became __state in 5.14 (2f064a59a11f)                     task_state()
 *   kernfs_node.parent became __parent in 6.15 (633488947ef6)                   cgroup_noted()
 *   task_struct.on_cpu shrank from an int to a byte by 7.2                      task_struct below
 *   request.ref became an atomic_t in 5.16 (0a467d0fdd95)                       struct request below
 *   request.rq_disk moved to request_queue.disk in 5.17 (f3fa33acca9f)          request_disk()
 *   bio.bi_disk became bi_bdev in 5.12 (309dca309fc3)                           bio_disk()
 *   block_bio_queue lost its request_queue argument in 5.11 (e8a676d61c07)      block.bpf.c, bio_argument
 *   block_rq_issue and block_rq_insert lost their request_queue argument
 *   in 5.11 (a54895fa057c), backported to 5.10.137                              block.bpf.c, rq_argument */
#ifndef LATPUSH_KERNEL_BPF_H
#define LATPUSH_KERNEL_BPF_H

#include <stdbool.h>
#include <linux/types.h>
#include <linux/bpf.h>

#define __VMLINUX_H__ /* bpf_tracing.h: pt_regs has the kernel's field names */

enum mq_rq_state {
	MQ_RQ_IDLE,
};

/* The kernel's numbers are others: they are relocated too. */
enum req_flag_bits {
	__REQ_PREFLUSH,
};

enum wb_reason {
	WB_REASON_BACKGROUND,
	WB_REASON_VMSCAN,
	WB_REASON_SYNC,
	WB_REASON_PERIODIC,
	WB_REASON_FS_FREE_SPACE,
	WB_REASON_FORKER_THREAD,
	WB_REASON_FOREIGN_FLUSH,
};

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)

#ifdef __TARGET_ARCH_x86
struct pt_regs {
	unsigned long di;
	unsigned long si;
	unsigned long dx;
	unsigned long cx;
	unsigned long r8;
	unsigned long r9;
	unsigned long ax;
	unsigned long orig_ax;
	unsigned long sp;
};

struct thread_info {
	__u32 status;
};
#endif

#ifdef __TARGET_ARCH_arm64
struct user_pt_regs {
	__u64 regs[31];
	__u64 sp;
};

struct pt_regs {
	int syscallno;
};

struct thread_info {
	unsigned long flags;
};
#endif

struct kernfs_node {
	struct kernfs_node *__parent;
	const char *name;
	__u64 id; /* since 5.5 the same as the inode number of the directory */
};

struct kernfs_node___6_14 {
	struct kernfs_node *parent;
};

struct cgroup {
	struct kernfs_node *kn;
};

struct cgroup_subsys_state {
	struct cgroup *cgroup;
};

struct css_set {
	struct cgroup_subsys_state *subsys[1]; /* one for each controller that the kernel has */
	struct cgroup *dfl_cgrp;
};

struct task_struct {
	struct thread_info thread_info;
	unsigned int __state;
	unsigned int flags;
	unsigned char on_cpu; /* an int before, of which the lowest byte is enough */
	int pid;
	int tgid;
	__u64 start_time; /* CLOCK_MONOTONIC, ns */
	struct css_set *cgroups;
};

struct task_struct___5_13 {
	volatile long state;
};

/* What the programs of iterators are called with. The last call of a run has no task, or no element. */
struct seq_file;

struct bpf_iter_meta {
	struct seq_file *seq;
};

struct bpf_iter__task {
	struct bpf_iter_meta *meta;
	struct task_struct *task;
};

struct bpf_iter__bpf_map_elem {
	struct bpf_iter_meta *meta;
	struct bpf_map *map;
	void *key;
	void *value;
};

struct workqueue_struct {
	char name[32];
};

struct pool_workqueue {
	struct workqueue_struct *wq;
};

struct sock_common {
	__u16 skc_dport;
	__u16 skc_num;
	unsigned short skc_family;
	volatile unsigned char skc_state;
};

struct sock {
	struct sock_common __sk_common;
	__u16 sk_protocol; /* since 5.6 (bf9765145b85) */
};

struct tcp_sock {
	__u32 srtt_us;
};

/* What TCP keeps in the control block of a packet. */
struct tcp_skb_cb {
	__u16 tcp_gso_segs;
};

struct proto_accept_arg {
	int flags;
};

struct net;

typedef struct {
	struct net *net;
} possible_net_t;

struct net_device {
	possible_net_t nd_net;
};

struct sk_buff {
	struct net_device *dev;
	struct sock *sk;
	unsigned char cb[48];
	unsigned int len;
	unsigned int data_len;
	__u16 protocol;
	__u16 network_header;
	unsigned char *head;
	unsigned char *data;
};

struct task_group {
	struct cgroup_subsys_state css;
};

struct rq {
	__u64 clock;
};

struct cfs_rq {
	struct rq *rq;
	struct task_group *tg;
	__u64 throttled_clock;
	int throttled; /* a bit of a byte since 6.18 */
};

struct rpc_procinfo {
	const char *p_name;
};

struct rpc_message {
	const struct rpc_procinfo *rpc_proc;
};

struct rpc_program {
	const char *name;
};

struct rpc_clnt {
	const struct rpc_program *cl_program;
};

struct rpc_task {
	struct rpc_message tk_msg;
	struct rpc_clnt *tk_client;
};

struct irqaction {
	const char *name;
};

struct super_block {
	__u32 s_dev;
	unsigned long s_magic;
};

struct vfsmount {
	struct super_block *mnt_sb;
};

struct mount {
	struct vfsmount mnt;
	int mnt_id;
};

struct path {
	struct vfsmount *mnt;
};

struct inode {
	struct super_block *i_sb;
};

struct file {
	unsigned int f_mode;
	struct path f_path;
	struct inode *f_inode;
};

struct kiocb {
	struct file *ki_filp;
};

struct request_queue;

struct gendisk {
	char disk_name[32];
	struct request_queue *queue;
};

struct blk_mq_ops;

struct request_queue {
	struct gendisk *disk;
	const struct blk_mq_ops *mq_ops;
};

struct block_device {
	struct gendisk *bd_disk;
};

struct bvec_iter {
	unsigned int bi_size;
};

struct bio {
	struct block_device *bi_bdev;
	unsigned int bi_opf;
	struct bvec_iter bi_iter;
};

struct bio___5_11 {
	struct gendisk *bi_disk;
};

/* Also stands for refcount_t, which request.ref was before 5.16 (0a467d0fdd95): only its place is relocated. */
typedef struct {
	int counter;
} atomic_t;

struct request {
	struct request_queue *q;
	enum mq_rq_state state;
	atomic_t ref;
	unsigned int cmd_flags;
	unsigned int __data_len;
	__u64 start_time_ns;
};

struct request___5_16 {
	struct gendisk *rq_disk;
};

struct shrink_control;

struct shrinker {
	unsigned long (*scan_objects)(struct shrinker *, struct shrink_control *);
};

struct trace_event_raw_mm_shrink_slab_start {
	struct shrinker *shr;
};

struct trace_event_raw_mm_shrink_slab_end {
	struct shrinker *shr;
};

struct wb_writeback_work {
	enum wb_reason reason;
};

#pragma clang attribute pop

/* The states of a TCP socket in which connections come about. */
enum {
	TCP_ESTABLISHED = 1,
	TCP_SYN_SENT = 2,
	TCP_SYN_RECV = 3,
	TCP_LISTEN = 10,
};

#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_tracing.h>

/* Reads a place of the context. The compiler would make one load of two, with an offset that the verifier does not take. */
#define context_place(ctx, place)                                                                             \
	({                                                                                                    \
		__u64 value;                                                                                  \
		asm volatile("%0 = *(u64 *)(%1 + %2)" : "=r"(value) : "r"(ctx), "i"(8 * (place)) : "memory"); \
		value;                                                                                        \
	})

/* Values that the kernel does not put into its type information. */
#define AF_INET		  2
#define AF_INET6	  10
#define BTRFS_SUPER_MAGIC 0x9123683e
#define EAGAIN		  11
#define EEXIST		  17
#define ETH_P_IP	  0x0800
#define ETH_P_IPV6	  0x86dd
#define FMODE_OPENED	  0x80000 /* since 4.19 */
#define EOPENSTALE	  518
#define EIOCBQUEUED	  529
#define PF_KTHREAD	  0x00200000
#define REQ_OP_MASK	  0xff
#define IPPROTO_TCP	  6
#define IPPROTO_UDP	  17
#define TASK_DEAD	  0x80

/* Sleeping in a way that any signal ends. */
#define TASK_INTERRUPTIBLE 0x1

/* Flags of a page fault, which were no enumeration before 5.14, and of its result. */
#define FAULT_FLAG_WRITE       0x01
#define FAULT_FLAG_TRIED       0x20
#define FAULT_FLAG_INSTRUCTION 0x100
#define VM_FAULT_MAJOR	       0x4
#define VM_FAULT_RETRY	       0x400
#define VM_FAULT_ERROR	       0x873 /* out of memory, SIGBUS, SIGSEGV, bad memory, or a huge page that is to be split */

/* EXIT_DEAD and EXIT_ZOMBIE, as which the record of sched_switch reports a task that has died. */
#define REPORTED_DEAD 0x30

#endif
