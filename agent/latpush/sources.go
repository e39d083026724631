package main

import (
	"context"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/latpush/latpush/internal/kernel"
)

// costWindow is how long the sources are attached to see what they cost.
const costWindow = time.Second

// sources attaches every known source for a moment and prints what became of it, and what it costs. A source that cannot run is an answer, not an
// error.
func (c *command) sources() error {
	opened, err := kernel.Open(context.Background(), kernel.AllConfigs(), kernel.Options{})
	if err != nil {
		return fmt.Errorf("try sources: %w", err)
	}
	_ = opened.Measure(context.Background(), costWindow) // each source's cost has the error
	statuses := opened.Sources()
	if err := opened.Close(); err != nil {
		return fmt.Errorf("remove programs: %w", err)
	}
	if err := printSources(c.stdout, statuses); err != nil {
		return err
	}
	return printCosts(c.stdout, statuses)
}

// printCosts prints one line for each source that is attached: what it costs on this host as busy as it is now.
func printCosts(w io.Writer, statuses []kernel.Status) error {
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintf(table, "\nCOST, IN %v\tOF ONE CPU\tPER EVENT\n", costWindow)
	for _, status := range statuses {
		switch {
		case !status.Attached():
		case status.Cost.Err != nil:
			fmt.Fprintf(table, "%s\tunknown\t%s\n", status.Source, oneLine(status.Cost.Err))
		case status.Cost.PerEvent == 0:
			fmt.Fprintf(table, "%s\t%v\tno event\n", status.Source, status.Cost.Share)
		default:
			fmt.Fprintf(table, "%s\t%v\t%v\n", status.Source, status.Cost.Share, status.Cost.PerEvent)
		}
	}
	return table.Flush()
}

// printSources prints one line for each hook, and one for a source that could not be loaded at all.
func printSources(w io.Writer, statuses []kernel.Status) error {
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "SOURCE\tHOOK\tATTACHED\tREMARK")
	for _, status := range statuses {
		if status.Err != nil {
			fmt.Fprintf(table, "%s\t-\tno\t%s\n", status.Source, oneLine(status.Err))
			continue
		}
		for _, hook := range status.Hooks {
			fmt.Fprintf(table, "%s\t%s\t%s\t%s\n", status.Source, hook.Name, hook.How, remark(hook))
		}
	}
	return table.Flush()
}

// remark says why a hook is not attached and what to do about it.
func remark(hook kernel.HookStatus) string {
	switch {
	case hook.Err == nil:
		return ""
	case hook.How == kernel.Waiting:
		return oneLine(hook.Err) + " (nothing to do: it is attached when the module is loaded)"
	}
	return oneLine(hook.Err)
}

// oneLine keeps a table a table: the errors of several attempts are joined with line feeds.
func oneLine(err error) string {
	return strings.ReplaceAll(strings.TrimSpace(err.Error()), "\n", "; ")
}
