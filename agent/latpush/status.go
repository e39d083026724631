package main

import (
	"cmp"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/alecthomas/kingpin/v2"
	"github.com/prometheus/procfs"

	"github.com/latpush/latpush/agent/telemetry"
	"github.com/latpush/latpush/internal/confine"
	"github.com/latpush/latpush/internal/latency"
	"github.com/latpush/latpush/internal/spool"
)

// addStatus adds `latpush status`. It asks the kernel who has the spool open and what that process may do, and takes the rest from the newest
// snapshot, in which every running agent says how it is: so it needs no way into the agent, and works when the agent hangs.
func (c *command) addStatus(app *kingpin.Application, commands map[string]func() error) {
	s := &spoolCommand{command: c}
	clause := app.Command("status", "Show the running agent: sources, receivers, spool, and what it may do. The exit code is 1 if none runs.")
	clause.Flag("directory", "Spool directory. The default is spool.directory of the configuration file.").StringVar(&s.directory)
	commands["status"] = s.status
}

// ticksPerSecond is the unit of the times in /proc/PID/stat on every architecture.
const ticksPerSecond = 100

// process is a running agent.
type process struct {
	pid     int
	started time.Duration // CLOCK_BOOTTIME, in whole ticks
	seen    confine.Seen
}

func (s *spoolCommand) status() error {
	directory, err := s.spoolDirectory()
	if err != nil {
		return err
	}
	clock, err := latency.NewSystemClock()
	if err != nil {
		return err
	}
	pid, err := spool.Holder(directory)
	if err != nil {
		return err
	}
	if pid == 0 {
		return fmt.Errorf("no latpush runs with the spool %s (start it, name another spool with --directory, or look from within its container)", directory)
	}
	running, err := look(pid)
	if err != nil {
		return err
	}
	now := clock.Now()
	since := now.Wall.Add(running.started - now.Boottime)
	fmt.Fprintf(s.stdout, "latpush runs with the spool %s: process %d, since %s (%v)\n",
		directory, pid, moment(since), (now.Boottime - running.started).Round(time.Second))
	told, err := newest(directory)
	if err != nil {
		return err
	}
	if told == nil || told.Taken.BootID != now.BootID || (&report{told}).since() < running.started {
		fmt.Fprintln(s.stdout, "It has taken no snapshot yet. The first one comes within the interval.")
		told = &latency.Snapshot{}
	} else {
		fmt.Fprintf(s.stdout, "This is how it was %v ago, at its last snapshot.\n", (now.Boottime - told.Taken.Boottime).Round(time.Second))
	}
	return printStatus(s.stdout, running, &report{told})
}

// look asks the kernel about a process.
func look(pid int) (*process, error) {
	proc, err := procfs.NewProc(pid)
	if err != nil {
		return nil, fmt.Errorf("look at process %d: %w", pid, err)
	}
	stat, err := proc.Stat()
	if err != nil {
		return nil, fmt.Errorf("look at process %d: %w", pid, err)
	}
	seen, err := confine.Inspect(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return nil, err
	}
	return &process{pid: pid, started: time.Duration(stat.Starttime) * (time.Second / ticksPerSecond), seen: seen}, nil
}

// newest returns the newest snapshot of a spool, nil if there is none.
func newest(directory string) (*latency.Snapshot, error) {
	contents, err := spool.Inspect(directory)
	if err != nil {
		return nil, err
	}
	var last spool.Position
	for _, g := range contents.Segments {
		last = max(last, g.Last)
	}
	if last == 0 {
		return nil, nil
	}
	return contents.Snapshot(last)
}

// report reads the agent's own metrics from a snapshot.
type report struct{ *latency.Snapshot }

// since returns the CLOCK_BOOTTIME at which the agent began that took the snapshot. The snapshot's own time could be within the tick in which the next
// one started.
func (r *report) since() time.Duration {
	for _, family := range r.Families {
		if family.Name == "process_cpu_seconds_total" && len(family.Series) > 0 {
			return family.Series[0].Start
		}
	}
	return 0
}

// each calls f for every series of a metric, with its labels by name.
func (r *report) each(metric string, f func(labels map[string]string, value float64)) {
	for _, family := range r.Families {
		if family.Name != metric {
			continue
		}
		for _, series := range family.Series {
			labels := make(map[string]string, len(family.LabelNames))
			for i, name := range family.LabelNames {
				labels[name] = series.LabelValues[i]
			}
			f(labels, series.Value)
		}
	}
}

// by returns the values of a metric by one of its labels; under "" for a metric without labels.
func (r *report) by(metric, label string) map[string]float64 {
	values := make(map[string]float64)
	r.each(metric, func(labels map[string]string, value float64) { values[labels[label]] = value })
	return values
}

func printStatus(w io.Writer, running *process, told *report) error {
	for _, print := range []func(io.Writer, *report) error{printAttached, printReceivers, printSpool} {
		if len(told.Families) == 0 {
			break
		}
		fmt.Fprintln(w)
		if err := print(w, told); err != nil {
			return err
		}
	}
	fmt.Fprintln(w)
	return printConfinement(w, running, told)
}

// printAttached prints a line for each source: the hooks in each state.
func printAttached(w io.Writer, told *report) error {
	hooks := make(map[string]map[string]int) // by source and state
	told.each("latpush_hook_attached", func(labels map[string]string, _ float64) {
		source := labels["source"]
		if hooks[source] == nil {
			hooks[source] = make(map[string]int)
		}
		hooks[source][labels["how"]]++
	})
	up := told.by("latpush_source_up", "source")
	table := newTable(w)
	fmt.Fprintln(table, "SOURCE\tRUNS\tHOOKS")
	for _, source := range slices.Sorted(maps.Keys(up)) {
		var states []string
		for _, how := range slices.Sorted(maps.Keys(hooks[source])) {
			states = append(states, fmt.Sprintf("%s: %d", how, hooks[source][how]))
		}
		fmt.Fprintf(table, "%s\t%s\t%s\n", source, yes(up[source] == 1), cmp.Or(strings.Join(states, ", "), "-"))
	}
	return table.Flush()
}

func printReceivers(w io.Writer, told *report) error {
	pending, refused := told.by("latpush_spool_pending_snapshots", "reader"), told.by("latpush_remote_unauthorized", "receiver")
	success := told.by("latpush_remote_last_success_timestamp_seconds", "receiver")
	table := newTable(w)
	fmt.Fprintln(table, "RECEIVER\tPENDING\tLAST SUCCESS\tREMARK")
	for _, name := range slices.Sorted(maps.Keys(pending)) {
		last, remark := "-", ""
		if success[name] > 0 {
			last = moment(time.UnixMilli(int64(success[name] * 1e3)))
		}
		if refused[name] == 1 {
			remark = "credentials are refused, or the request is redirected"
		}
		fmt.Fprintf(table, "%s\t%d\t%s\t%s\n", name, int64(pending[name]), last, remark)
	}
	return table.Flush()
}

func printSpool(w io.Writer, told *report) error {
	one := func(name string) float64 { return told.by("latpush_spool_"+name, "")[""] }
	_, err := fmt.Fprintf(w, "Spool: snapshots: %d, size: %s, in memory: %s, disk healthy: %s\n",
		int64(one("snapshots")), size(int64(one("bytes"))), size(int64(one("memory_bytes"))), yes(one("disk_healthy") == 1))
	return err
}

// printConfinement prints what the kernel says of the process, and of Landlock, of which it says nothing, what the agent says.
func printConfinement(w io.Writer, running *process, told *report) error {
	landlock := "unknown"
	if value, known := told.by(telemetry.ConfinementMetric, "kind")["landlock"]; known {
		landlock = yes(value == 1)
	}
	table := newTable(w)
	fmt.Fprintln(table, "CONFINEMENT\tIN FORCE")
	fmt.Fprintf(table, "no_new_privs\t%s\n", yes(running.seen.NoNewPrivileges))
	fmt.Fprintf(table, "landlock\t%s\n", landlock)
	fmt.Fprintf(table, "seccomp\t%s\n", yes(running.seen.Seccomp))
	if err := table.Flush(); err != nil {
		return err
	}
	reasons := make(map[string]string)
	told.each(telemetry.CapabilityMetric, func(labels map[string]string, _ float64) { reasons[labels["capability"]] = labels["reason"] })
	fmt.Fprintln(w)
	table = newTable(w)
	fmt.Fprintln(table, "CAPABILITY\tHELD FOR")
	for _, name := range running.seen.Permitted.Names() {
		fmt.Fprintf(table, "%s\t%s\n", name, cmp.Or(reasons[name], "-"))
	}
	if len(running.seen.Permitted.Names()) == 0 {
		fmt.Fprintln(table, "none\t-")
	}
	return table.Flush()
}

func yes(is bool) string {
	if is {
		return "yes"
	}
	return "no"
}
