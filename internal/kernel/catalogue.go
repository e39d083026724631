package kernel

import (
	"slices"
	"strings"

	"github.com/cilium/ebpf"
)

// catalogue lists all sources by name.
func catalogue() []source {
	return []source{
		{
			name: "block", standard: true,
			metrics: []metric{
				{name: "block_io_latency_seconds", help: "Time from the issue of a block request to a device to its completion, or of a bio where there are no requests."},
				{name: "block_io_queue_seconds", help: "Time from the insertion of a block request into the I/O scheduler's queue to its issue."},
			},
			inFlight: &inFlight{elementsOf: "pending_requests", gauges: []gauge{
				{
					"block_io_inflight", "Block requests that were issued to a device and have not completed.",
					"Time since the issue of the oldest block request that has not completed, 0 without one.",
				},
				{
					"block_io_queued", "Block requests that wait to be issued to a device.",
					"Time that the oldest of the block requests that wait to be issued to a device has waited, 0 without one.",
				},
			}},
			hooks: []hook{
				tracepoints("block_rq", false, "block_rq_complete", "block_rq_issue", "block_rq_insert"),
				tracepoints("block_bio", false, "block_bio_complete", "block_bio_queue"),
			},
			openLabels: true,
			configure:  configureBlock,
			label:      func(value string) string { return strings.ReplaceAll(value, "!", "/") }, // as devtmpfs names the device
		},
		{
			name: "cpu_throttle", standard: true,
			metrics: []metric{
				{name: "cpu_throttle_seconds", help: "Time the tasks of a control group are held on a CPU because its quota is used up."},
			},
			hooks:      []hook{function("", "unthrottle_cfs_rq", "")},
			openLabels: true,
			configure:  configureLabelSets("cpu_throttle"),
		},
		{
			name: "dns",
			metrics: []metric{
				{name: "dns_latency_seconds", help: "Time from a query to a name server by UDP to its answer, or to the time when resolvers give up."},
			},
			hooks: []hook{tracepoints("packets", false, "netif_receive_skb", "net_dev_queue")},
		},
		{
			name: "filesystem", labels: []string{labelCgroup},
			metrics: []metric{
				{name: "filesystem_latency_seconds", help: "Time the operations of a file system take, as the calling task sees them."},
			},
			inFlight: &inFlight{gauges: []gauge{{
				"filesystem_inflight", "Operations of a file system that have begun and not ended.",
				"Time since the beginning of the oldest operation of a file system that has not ended, 0 without one.",
			}}},
			hooks:     fileSystemHooks(),
			mounts:    true,
			configure: configureInFlight,
		},
		{
			name: "hardirq", standard: true,
			metrics: []metric{
				{name: "hardirq_service_seconds", help: "Time the handler of a hardware interrupt takes."},
			},
			hooks:      []hook{tracepoints("irq_handler", true, "irq_handler_exit", "irq_handler_entry")},
			openLabels: true,
		},
		{
			name: "lock_wait",
			metrics: []metric{
				{name: "lock_wait_seconds", help: "Time tasks wait for locks of the kernel that others hold."},
			},
			hooks:     []hook{tracepoints("contention", true, "contention_end", "contention_begin")},
			configure: configureLockWait,
		},
		{
			name: "nfs", standard: true, labels: []string{labelCgroup, labelMount, labelServer},
			metrics: []metric{
				{name: "nfs_latency_seconds", help: "Time the operations of the NFS client take, as the calling task sees them.", fromZero: true},
			},
			inFlight: &inFlight{gauges: []gauge{{
				"nfs_inflight", "Operations of the NFS client that have begun and not ended.",
				"Time since the beginning of the oldest operation of the NFS client that has not ended, 0 without one.",
			}}},
			hooks: []hook{
				function("nfs", "nfs_file_read", ""),
				function("nfs", "nfs_file_splice_read", "before 6.5 splice and sendfile go through nfs_file_read"),
				function("nfs", "nfs_file_write", ""),
				function("nfs", "nfs_getattr", ""),
				function("nfs", "nfs_file_fsync", ""),
				function("nfs", "nfs_file_open", ""),
				function("nfs", "nfs_atomic_open", "this kernel has no NFSv4 client"),
				function("nfsv4", "nfs4_file_open", ""),
			},
			configure: configureNFS,
		},
		{
			name: "nfs_rpc", standard: true,
			metrics: []metric{
				{name: "nfs_rpc_latency_seconds", help: "Time of remote procedure calls of the NFS client: in the queue, on the network and at the server, and in total."},
			},
			inFlight: &inFlight{elementsOf: "rpc_calls", gauges: []gauge{{
				"nfs_rpc_inflight", "Remote procedure calls of the NFS client that have begun and not ended, however often they were transmitted.",
				"Time since the beginning of the oldest remote procedure call of the NFS client that has not ended, 0 without one.",
			}}},
			hooks: []hook{
				inModule("sunrpc", tracepoints("rpc_stats_latency", true, "rpc_stats_latency")),
				inModule("sunrpc", tracepoints("rpc_task", true, "rpc_task_end", "rpc_request")),
			},
			configure: configureLabelSets("nfs_rpc_latency", "nfs_rpc_inflight"),
			label:     strings.ToLower,
		},
		{
			name: "offcpu", labels: []string{labelCgroup},
			metrics: []metric{{
				name: "task_off_cpu_seconds", help: "Time a task is without a CPU, the wait for one included.", fromZero: true,
				labels: []string{"switch"}, values: func(*SourceConfig) []string { return []string{"voluntary", "involuntary"} },
			}},
			hooks: []hook{tracepoints("sched", true, "sched_switch")},
			configure: func(spec *ebpf.CollectionSpec, _ *SourceConfig, e *environment) error {
				return chooseStorage(spec, "task_absences", "hash_absences", e.taskStorageInScheduler())
			},
		},
		{
			name: "oncpu", labels: []string{labelCgroup},
			metrics: []metric{{
				name: "task_on_cpu_seconds", help: "Time a task has a CPU each time it gets one.", fromZero: true,
				values: func(*SourceConfig) []string { return []string{""} },
			}},
			hooks: []hook{tracepoints("sched", true, "sched_switch")},
		},
		{
			name: "page_fault", labels: []string{labelCgroup},
			metrics: []metric{
				{name: "page_fault_latency_seconds", help: "Time a task waits in a major page fault.", fromZero: true},
			},
			hooks:     []hook{function("", "handle_mm_fault", "")},
			configure: configureInFlight,
		},
		{
			name: "reclaim", standard: true, labels: []string{labelCgroup},
			metrics: []metric{
				{name: "memory_stall_seconds", help: "Time a task is held up by freeing memory or by making room for a larger block of it.", fromZero: true},
			},
			hooks: []hook{
				tracepoints("direct_reclaim", true, "mm_vmscan_direct_reclaim_end", "mm_vmscan_direct_reclaim_begin"),
				tracepoints("memcg_reclaim", true, "mm_vmscan_memcg_reclaim_end", "mm_vmscan_memcg_reclaim_begin"),
				tracepoints("compaction", true, "mm_compaction_end", "mm_compaction_begin"),
			},
			configure: configureInFlight,
		},
		{
			name: "runqueue", standard: true, labels: []string{labelCgroup},
			metrics: []metric{{
				name: "run_queue_latency_seconds", help: "Time a runnable task waits for a CPU.", fromZero: true,
				values: func(*SourceConfig) []string { return []string{""} },
			}},
			hooks:     []hook{tracepoints("sched", true, "sched_switch", "sched_wakeup", "sched_wakeup_new")},
			configure: configureRunqueue,
		},
		{
			name: "shrinkers", standard: true,
			metrics: []metric{
				{name: "shrinker_latency_seconds", help: "Time a cache of the kernel takes to give back memory when it is asked to."},
			},
			hooks:      []hook{tracepoints("mm_shrink_slab", true, "mm_shrink_slab_end", "mm_shrink_slab_start")},
			openLabels: true,
			configure:  configureLabelSets("shrinker_latency"),
		},
		{
			name: "softirq", standard: true,
			metrics: []metric{
				{name: "softirq_latency_seconds", help: "Time from the raise of a soft interrupt to its handler.", fromZero: true},
				{name: "softirq_service_seconds", help: "Time the handler of a soft interrupt takes.", fromZero: true},
			},
			hooks: []hook{tracepoints("softirq", true, "softirq_exit", "softirq_entry", "softirq_raise")},
		},
		{
			name: "swap_in", standard: true, labels: []string{labelCgroup},
			metrics: []metric{{
				name: "swap_in_latency_seconds", help: "Time a task waits for a page of its memory that is read back from swap.", fromZero: true,
				values: func(*SourceConfig) []string { return []string{""} },
			}},
			hooks:     []hook{function("", "do_swap_page", "")},
			configure: configureInFlight,
		},
		{
			name: "syscalls", standard: true, labels: []string{labelCgroup},
			metrics: []metric{{
				name: "syscall_latency_seconds", help: "Time from the entry of a system call to its exit.", labels: []string{"syscall"},
				values: func(config *SourceConfig) []string { return config.syscalls() },
			}},
			hooks:     []hook{tracepoints("syscalls", true, "sys_exit", "sys_enter")},
			allowList: true,
			configure: configureSyscalls,
		},
		{
			name: "tcp_accept", standard: true,
			metrics: []metric{
				{name: "tcp_accept_latency_seconds", help: "Time a connection that is ready waits in the queue of its listener for a program to accept it."},
			},
			hooks: []hook{returnOf("inet_csk_accept"), tracepoints("sockets", true, "tcp_destroy_sock", "inet_sock_set_state")},
		},
		{
			name: "tcp_connect", standard: true,
			metrics: []metric{
				{name: "tcp_connect_latency_seconds", help: "Time an active TCP connect takes until the peer answers or the attempt ends."},
			},
			hooks: []hook{tracepoints("inet_sock_set_state", true, "inet_sock_set_state")},
		},
		{
			name: "tcp_retransmit", standard: true,
			metrics: []metric{
				{name: "tcp_retransmits_total", kind: KindCounter, help: "Segments that TCP has sent again."},
			},
			hooks:     []hook{tracepoints("retransmits", false, "tcp_retransmit_skb", "tcp_retransmit_synack")},
			configure: configureRetransmits,
		},
		{
			name: "tcp_rtt",
			metrics: []metric{
				{name: "tcp_rtt_seconds", help: "Smoothed round-trip time of TCP connections that receive, sampled once a second each.", fromZero: true},
			},
			hooks: []hook{tracepoints("tcp_probe", false, "tcp_probe")},
		},
		{
			name: "workqueue",
			metrics: []metric{
				{name: "workqueue_latency_seconds", help: "Time a work item waits from being queued to its start."},
				{name: "workqueue_service_seconds", help: "Time a work item runs."},
			},
			hooks:      []hook{tracepoints("workqueue", false, "workqueue_execute_end", "workqueue_execute_start", "workqueue_queue_work")},
			openLabels: true,
		},
		{
			name: "writeback", standard: true,
			metrics: []metric{
				{name: "writeback_latency_seconds", help: "Time a pass over the dirty inodes of a device takes to write their pages.", fromZero: true},
				{
					name: "writeback_throttle_seconds", help: "Time a task is made to wait because too many pages are dirty.", fromZero: true,
					values: func(*SourceConfig) []string { return []string{""} },
				},
			},
			hooks: []hook{
				tracepoints("writeback", false, "writeback_written", "writeback_start"),
				tracepoints("balance_dirty_pages", false, "balance_dirty_pages"),
			},
			configure: configureWriteback,
		},
	}
}

// Names returns the names of all sources in alphabetical order.
func Names() []string {
	var names []string
	for _, s := range catalogue() {
		names = append(names, s.name)
	}
	return names
}

func findSource(name string) (source, bool) {
	all := catalogue()
	i := slices.IndexFunc(all, func(s source) bool { return s.name == name })
	if i < 0 {
		return source{}, false
	}
	return all[i], true
}
