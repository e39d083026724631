package kernel

import (
	"cmp"
	"fmt"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

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

// configureWriteback says where the kernel's pauses are, and how long their unit is. The files of tracefs, which have them in milliseconds, belong to
// root.
func configureWriteback(spec *ebpf.CollectionSpec, config *SourceConfig, e *environment) error {
	arguments, err := e.arguments("balance_dirty_pages")
	if err != nil {
		return err
	}
	if arguments != 8 && arguments != 12 {
		return fmt.Errorf("find pause among the arguments of balance_dirty_pages: %d arguments (8 and 12 are known)", arguments)
	}
	if err := setVariable(spec, "pause_argument", uint32(arguments-2)); err != nil { // the last but one
		return err
	}
	var tick unix.Timespec
	if err := unix.ClockGetres(unix.CLOCK_MONOTONIC_COARSE, &tick); err != nil {
		return fmt.Errorf("read length of the kernel's tick: %w", err)
	}
	if err := setVariable(spec, "tick_ns", uint64(tick.Nano())); err != nil {
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
