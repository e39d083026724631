// Package kernel loads latpush's programs into the kernel, attaches them to its hooks and reads the histograms that they count.
//
// The configuration of the sources enters. Samples leave: one for each label set, summed over CPUs, not cumulative, in nanoseconds; gauges say what
// has begun and not ended at the moment of reading. Beside them leave the events that were lost, and what is attached where. The package knows
// nothing of Prometheus's `le`, of disks or of networks.
//
// How a hook is attached is found out by trying, from the cheapest way to the one that works everywhere, and by asking the kernel for its
// features, never by its version. What can go wrong: a kernel, a privilege or a module that a source needs is not there. Such a source says
// so in its Status and never stops the others. A hook whose module is not loaded yet is attached when the module comes. A source that takes more of
// the CPU than it may is detached, and attached again later; what it has counted stays.
package kernel
