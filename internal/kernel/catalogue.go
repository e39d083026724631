package kernel

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/cilium/ebpf"
)

// The ways to attach a hook, as they are reported, cheapest first for each kind of hook.
const (
	Fentry        = "fentry"
	Kprobe        = "kprobe"
	TpBTF         = "tp_btf"
	RawTracepoint = "raw_tracepoint"
	Tracepoint    = "tracepoint"
)

// source describes one source: what it counts and which hooks its programs need.
type source struct {
	name       string
	standard   bool // in the default set: it costs little
	metrics    []metric
	inFlight   *inFlight // nil: its operations cannot hang
	hooks      []hook
	openLabels bool     // the label sets are not a fixed list: max_label_sets sizes the maps
	labels     []string // that the configuration can ask for; without them their members of the keys are zero
	allowList  bool     // the configuration key allow is for this source
	mounts     bool     // the configuration key filesystems is for this source: it chooses the modules of its hooks
	configure  func(spec *ebpf.CollectionSpec, config *SourceConfig, e *environment) error
	label      func(value string) string // makes a label value of what the kernel wrote; nil: as it is
}

// metric describes one map of a source, of histograms or of counters.
type metric struct {
	name     string // of the metric; the map has the same name without the unit, or without the "total"
	kind     Kind
	help     string
	fromZero bool                                // label sets are reported before their first event
	labels   []string                            // of an array; a hash map's are the members of its key
	values   func(config *SourceConfig) []string // of an array: the label's values in the order of the keys
}

func (m *metric) mapName() string {
	return strings.TrimSuffix(strings.TrimSuffix(m.name, "_seconds"), "_total")
}

// hook is a group of events that are attached together, all in the same way.
type hook struct {
	name      string
	events    []string // in the order of attaching: ends before starts, so that no start is left behind
	ways      []way
	module    string // where the events live, unless they are built in
	anchor    string // the function that is there if the module is built in; empty: the first event
	absent    string // why it is no fault that a kernel does not have the events; empty: it is one
	insteadOf string // the function of which the presence makes the hook needless; empty: there is none
}

// isFunction returns whether the hook is on a function, and not on tracepoints.
func (h *hook) isFunction() bool { return h.ways[0].how == Fentry }

// symbol is what the kernel's list of symbols has if it has the hook's first event.
func (h *hook) symbol() string {
	if h.isFunction() {
		return h.events[0]
	}
	return "__tracepoint_" + h.events[0]
}

// way is one way to attach a hook: the program of an event is the event's name and the suffix.
type way struct {
	how      string
	suffixes []string // a function has one event and several programs, in the order of attaching
}

// programs returns the names of the programs that attach the hook in one of its ways, in the order of attaching.
func (h *hook) programs(how string) []string {
	var names []string
	for _, w := range h.ways {
		if w.how != how {
			continue
		}
		for _, suffix := range w.suffixes {
			for _, event := range h.events {
				names = append(names, event+"_"+suffix)
			}
		}
	}
	return names
}

// tracepoints describes a hook on kernel tracepoints. With classic set, the programs read the formatted records as well.
func tracepoints(name string, classic bool, events ...string) hook {
	ways := []way{{TpBTF, []string{"tp_btf"}}, {RawTracepoint, []string{"raw_tp"}}}
	if classic {
		ways = append(ways, way{Tracepoint, []string{"tracepoint"}})
	}
	return hook{name: name, events: events, ways: ways}
}

// inModule describes a hook of which the events live in a module.
func inModule(module string, h hook) hook {
	h.module = module
	return h
}

// function describes a hook on the entry and the return of a function of a module, or of the kernel itself if module is empty.
func function(module, name, absent string) hook {
	return hook{
		name: name, events: []string{name}, module: module, absent: absent,
		ways: []way{{Fentry, []string{"fexit", "fentry"}}, {Kprobe, []string{"kretprobe", "kprobe"}}},
	}
}

// returnOf describes a hook on the return of a function of the kernel itself.
func returnOf(name string) hook {
	return hook{name: name, events: []string{name}, ways: []way{{Fentry, []string{"fexit"}}, {Kprobe, []string{"kretprobe"}}}}
}

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
			name: "filesystem",
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
			name: "page_fault",
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
			name: "swap_in", standard: true,
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
				{name: "balance_dirty_pages", events: []string{"balance_dirty_pages"}, ways: []way{{Tracepoint, []string{"tracepoint"}}}},
			},
			configure: configureInFlight,
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

// syscalls returns the system calls to time, in the order of their places in the histogram array.
func (c *SourceConfig) syscalls() []string {
	if c.Allow != nil {
		return c.Allow
	}
	return DefaultSyscalls()
}

// configureInFlight chooses where the start times of calls live.
func configureInFlight(spec *ebpf.CollectionSpec, _ *SourceConfig, e *environment) error {
	return chooseStorage(spec, "task_calls", "hash_calls", e.taskStorage())
}

func configureNFS(spec *ebpf.CollectionSpec, config *SourceConfig, e *environment) error {
	second, err := e.getattrPathSecond()
	if err != nil {
		return err
	}
	if err := setVariable(spec, "getattr_path_second", second); err != nil {
		return err
	}
	return configureInFlight(spec, config, e)
}

func configureRunqueue(spec *ebpf.CollectionSpec, _ *SourceConfig, e *environment) error {
	return chooseStorage(spec, "task_waits", "hash_waits", e.taskStorageInScheduler())
}

// chooseStorage sets in_task_storage and shrinks the map that is not used. A kernel without task storage refuses the map itself, so it
// becomes a hash that only code the verifier never reaches refers to.
func chooseStorage(spec *ebpf.CollectionSpec, storage, hash string, inStorage bool) error {
	if err := setVariable(spec, "in_task_storage", inStorage); err != nil {
		return err
	}
	if inStorage {
		spec.Maps[hash].MaxEntries = 1
		return nil
	}
	m := spec.Maps[storage]
	m.Type, m.Flags, m.MaxEntries = ebpf.Hash, 0, 1
	return nil
}

// configureLabelSets sizes maps by max_label_sets that sizeMap does not: those of gauges, and of a source whose label sets never expire.
func configureLabelSets(maps ...string) func(*ebpf.CollectionSpec, *SourceConfig, *environment) error {
	return func(spec *ebpf.CollectionSpec, config *SourceConfig, _ *environment) error {
		for _, name := range maps {
			spec.Maps[name].MaxEntries = uint32(cmp.Or(config.MaxLabelSets, defaultMaxLabelSets)) + 1 // the last one is for "other"
		}
		return nil
	}
}

func configureBlock(spec *ebpf.CollectionSpec, config *SourceConfig, e *environment) error {
	if err := configureLabelSets("block_io_inflight", "block_io_queued")(spec, config, e); err != nil {
		return err
	}
	for variable, event := range map[string]string{"rq_argument": "block_rq_issue", "bio_argument": "block_bio_queue"} {
		arguments, err := e.arguments(event)
		if err != nil {
			return err
		}
		if err := setVariable(spec, variable, uint32(arguments-1)); err != nil { // the last one
			return err
		}
	}
	return nil
}

// configureLockWait says so if the kernel does not report waits for locks.
func configureLockWait(_ *ebpf.CollectionSpec, _ *SourceConfig, e *environment) error {
	if _, err := e.arguments("contention_begin"); err != nil {
		return fmt.Errorf("%w (only Linux 5.19 and later report waits for locks)", err)
	}
	return nil
}

func configureRetransmits(spec *ebpf.CollectionSpec, _ *SourceConfig, e *environment) error {
	arguments, err := e.arguments("tcp_retransmit_skb")
	if err != nil {
		return err
	}
	return setVariable(spec, "failures_reported", arguments > 2)
}

func configureSyscalls(spec *ebpf.CollectionSpec, config *SourceConfig, e *environment) error {
	var places [syscallNumbers]uint16
	names := config.syscalls()
	for i, name := range names {
		number, err := syscallNumber(name)
		if err != nil {
			return err
		}
		places[number] = uint16(i + 1)
	}
	if err := setVariable(spec, "syscall_place", places); err != nil {
		return err
	}
	spec.Maps["syscall_latency"].MaxEntries = uint32(len(names))
	return configureInFlight(spec, config, e)
}
