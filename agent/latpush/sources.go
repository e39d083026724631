package main

import (
	"context"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"

	"github.com/latpush/latpush/internal/kernel"
)

// sources attaches every known source for a moment and prints what became of it. A source that cannot run is an answer, not an error.
func (c *command) sources() error {
	opened, err := kernel.Open(context.Background(), kernel.AllConfigs(), kernel.Options{})
	if err != nil {
		return fmt.Errorf("try sources: %w", err)
	}
	statuses := opened.Sources()
	if err := opened.Close(); err != nil {
		return fmt.Errorf("remove programs: %w", err)
	}
	return printSources(c.stdout, statuses)
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
