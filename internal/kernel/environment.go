package kernel

import (
	"cmp"
	"errors"
	"fmt"
	"math"
	"os"
	"slices"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/btf"
	"github.com/cilium/ebpf/features"
	"golang.org/x/sys/unix"

	"github.com/latpush/latpush/internal/capability"
)

// environment answers what this kernel can do, and has what all sources use in turn. Answers are found out once.
type environment struct {
	options       *Options
	cache         *btf.Cache     // kernel type information; large, so dropped when nothing is left to attach
	atStart       capability.Set // in force when the sources were opened
	storageProbed bool
	storage       bool
	readProbed    bool
	readTakesBPF  bool
	builtin       map[string]bool // by symbol
	buffer        batchBuffer
}

func newEnvironment(o *Options) *environment {
	held, err := capability.Effective()
	if err != nil {
		held = capability.None // then nothing is said to have been given up
	}
	return &environment{options: o, cache: btf.NewCache(), atStart: held, builtin: map[string]bool{}}
}

// forget drops the kernel's type information, and with it what a module that was loaded since then is not part of.
func (e *environment) forget() { e.cache = btf.NewCache() }

// taskStorage returns whether programs of every kind can keep data with a task (5.12). It is tried for real: from 6.19 on, a kernel whose
// processor cannot compare and exchange 16 bytes takes the programs, and then never has memory for the data.
func (e *environment) taskStorage() bool {
	if !e.storageProbed {
		e.storageProbed = true
		e.storage = features.HaveProgramHelper(ebpf.Kprobe, asm.FnTaskStorageGet) == nil && tryTaskStorage() == nil
	}
	return e.storage
}

// tryTaskStorage runs a program that keeps data with the current task.
func tryTaskStorage() error {
	storage, err := ebpf.NewMap(&ebpf.MapSpec{
		Type: ebpf.TaskStorage, Flags: unix.BPF_F_NO_PREALLOC, KeySize: 4, ValueSize: 8,
		Key: &btf.Int{Name: "int", Size: 4, Encoding: btf.Signed}, Value: &btf.Int{Name: "u64", Size: 8},
	})
	if err != nil {
		return fmt.Errorf("create task storage: %w", err)
	}
	defer func() { _ = storage.Close() }()
	program, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Type: ebpf.RawTracepoint, License: "Dual BSD/GPL",
		Instructions: asm.Instructions{
			asm.FnGetCurrentTaskBtf.Call(),
			asm.Mov.Reg(asm.R2, asm.R0),
			asm.LoadMapPtr(asm.R1, storage.FD()),
			asm.Mov.Imm(asm.R3, 0),
			asm.Mov.Imm(asm.R4, unix.BPF_LOCAL_STORAGE_GET_F_CREATE),
			asm.FnTaskStorageGet.Call(),
			asm.JEq.Imm(asm.R0, 0, "none"),
			asm.Mov.Imm(asm.R0, 1),
			asm.Return().WithSymbol("none"),
		},
	})
	if err != nil {
		return fmt.Errorf("load program that uses task storage: %w", err)
	}
	defer func() { _ = program.Close() }()
	kept, err := program.Run(&ebpf.RunOptions{})
	if err != nil {
		return fmt.Errorf("run program that uses task storage: %w", err)
	}
	if kept == 0 {
		return errors.New("keep data with a task: the kernel has no memory for it")
	}
	return nil
}

// taskStorageInScheduler returns whether the scheduler's tracepoints can keep data with a task other than the current one. That takes typed
// tracepoints, and task storage that does not allocate from the slab in the ordinary way, so that it can grow while the run queue's lock is held.
func (e *environment) taskStorageInScheduler() bool {
	if !e.taskStorage() || !e.options.allows(TpBTF) || features.HaveProgramType(ebpf.Tracing) != nil {
		return false
	}
	spec, err := e.cache.Kernel()
	if err != nil {
		return false
	}
	// An allocator of its own (6.4), later one that takes no locks (6.19).
	return hasMember(spec, "bpf_local_storage_map", "selem_ma") || hasMember(spec, "bpf_local_storage_elem", "use_kmalloc_nolock")
}

func hasMember(spec *btf.Spec, structure, member string) bool {
	var t *btf.Struct
	if err := spec.TypeByName(structure, &t); err != nil {
		return false
	}
	return slices.ContainsFunc(t.Members, func(m btf.Member) bool { return m.Name == member })
}

// arguments returns how many arguments a tracepoint that is built into the kernel has.
func (e *environment) arguments(tracepoint string) (int, error) {
	spec, err := e.cache.Kernel()
	if err != nil {
		return 0, err
	}
	var prototype *btf.Typedef
	if err := spec.TypeByName("btf_trace_"+tracepoint, &prototype); err != nil {
		return 0, fmt.Errorf("find tracepoint %s in kernel type information: %w", tracepoint, err)
	}
	pointer, ok := prototype.Type.(*btf.Pointer)
	if !ok {
		return 0, fmt.Errorf("read prototype of tracepoint %s: it is no pointer", tracepoint)
	}
	function, ok := pointer.Target.(*btf.FuncProto)
	if !ok || len(function.Params) == 0 {
		return 0, fmt.Errorf("read prototype of tracepoint %s: it is no function", tracepoint)
	}
	return len(function.Params) - 1, nil // the first parameter is the tracepoint's own
}

// getattrPathSecond returns whether the path is the second argument of the operation getattr of inodes, and not the first. Without type information of
// the kernel it makes no difference: then nothing is read of a path.
func (e *environment) getattrPathSecond() (bool, error) {
	spec, err := e.cache.Kernel()
	if errors.Is(err, ebpf.ErrNotSupported) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	var operations *btf.Struct
	if err := spec.TypeByName("inode_operations", &operations); err != nil {
		return false, fmt.Errorf("find inode_operations in kernel type information: %w", err)
	}
	for _, member := range operations.Members {
		pointer, ok := btf.UnderlyingType(member.Type).(*btf.Pointer)
		if !ok || member.Name != "getattr" {
			continue
		}
		if function, ok := pointer.Target.(*btf.FuncProto); ok {
			return len(function.Params) > 4, nil
		}
	}
	return false, errors.New("find getattr among the operations of inodes: the kernel has none")
}

// noController is what the programs take as the number of the controller when control groups are those of the unified hierarchy.
const noController = math.MaxUint32

// cgroupController returns the number of the controller whose hierarchy tells tasks apart: none, unless the first process is in the root of the
// unified hierarchy and the controller of the CPU is in one of its own, as where version 1 alone is used.
func (e *environment) cgroupController() uint32 {
	if !usesCgroupV1("/proc/1/cgroup") {
		return noController
	}
	spec, err := e.cache.Kernel()
	if err != nil {
		return noController
	}
	var controllers *btf.Enum
	if err := spec.TypeByName("cgroup_subsys_id", &controllers); err != nil {
		return noController
	}
	for _, c := range controllers.Values {
		if c.Name == "cpu_cgrp_id" {
			return uint32(c.Value)
		}
	}
	return noController
}

// usesCgroupV1 tells from a process's list of control groups, each a line of hierarchy, controllers and path, whether it is told apart by those of
// version 1 alone.
func usesCgroupV1(file string) bool {
	raw, err := os.ReadFile(file)
	if err != nil {
		return false
	}
	v1, v2 := false, false
	for line := range strings.Lines(string(raw)) {
		fields := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if len(fields) < 3 {
			continue
		}
		v1 = v1 || slices.Contains(strings.Split(fields[1], ","), "cpu")
		v2 = v2 || fields[0] == "0" && fields[2] != "/"
	}
	return v1 && !v2
}

// hasBuiltin returns whether the function or the tracepoint of a hook, or its anchor, is built into the kernel, as far as its type information
// tells.
func (e *environment) hasBuiltin(h *hook) bool {
	name := cmp.Or(h.anchor, h.symbol())
	known, asked := e.builtin[name]
	if asked {
		return known
	}
	spec, err := e.cache.Kernel()
	if err != nil {
		return false
	}
	if h.isFunction() {
		var function *btf.Func
		e.builtin[name] = spec.TypeByName(name, &function) == nil
	} else {
		var prototype *btf.Typedef
		e.builtin[name] = spec.TypeByName("btf_trace_"+h.events[0], &prototype) == nil
	}
	return e.builtin[name]
}

// monotonic returns CLOCK_MONOTONIC in nanoseconds: the clock that the programs and the kernel's own request times use.
func monotonic() (uint64, error) {
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &now); err != nil {
		return 0, fmt.Errorf("read CLOCK_MONOTONIC: %w", err)
	}
	return uint64(now.Nano()), nil
}
