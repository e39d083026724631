// Package catalogue makes the table of sources by kernels: how each is attached, or why not.
//
// In: what a guest of each kernel says about each hook. Out: text in Markdown, the same for the same input. Nothing can go wrong.
package catalogue

import (
	"fmt"
	"slices"
	"strings"
)

// File is the name of the file in which a guest hands over its hooks, a JSON array of Hook.
const File = "catalogue.json"

// Hook is what became of one hook on one kernel.
type Hook struct {
	Source string
	Hook   string // empty: the whole source
	How    string // a way of attaching, or waiting, missing or not needed, as in package kernel
	Reason string // why it is not attached
}

// Kernel is one column.
type Kernel struct {
	Name  string
	Hooks []Hook
}

// Markdown returns a table with a line for each source and a column for each kernel, and below it why hooks are not attached, with the kernels of
// which it is said.
func Markdown(kernels []Kernel) string {
	var b strings.Builder
	var names, rules []string
	for _, k := range kernels {
		names, rules = append(names, k.Name), append(rules, "---")
	}
	fmt.Fprintf(&b, "| source | %s |\n| --- | %s |\n", strings.Join(names, " | "), strings.Join(rules, " | "))
	for _, source := range sources(kernels) {
		var cells []string
		for _, k := range kernels {
			cells = append(cells, cell(k.Hooks, source))
		}
		fmt.Fprintf(&b, "| `%s` | %s |\n", source, strings.Join(cells, " | "))
	}
	return b.String() + reasons(kernels)
}

func sources(kernels []Kernel) []string {
	var all []string
	for _, k := range kernels {
		for _, h := range k.Hooks {
			all = append(all, h.Source)
		}
	}
	slices.Sort(all)
	return slices.Compact(all)
}

// cell says how a source's hooks are attached: the way, or the ways with the number of hooks of each.
func cell(hooks []Hook, source string) string {
	var order []string
	count := map[string]int{}
	for _, h := range hooks {
		if h.Source != source {
			continue
		}
		if count[h.How] == 0 {
			order = append(order, h.How)
		}
		count[h.How]++
	}
	switch len(order) {
	case 0:
		return "-"
	case 1:
		return order[0]
	}
	slices.SortStableFunc(order, func(a, b string) int { return count[b] - count[a] })
	var parts []string
	for _, how := range order {
		parts = append(parts, fmt.Sprintf("%s %d", how, count[how]))
	}
	return strings.Join(parts, ", ")
}

// reasons lists why hooks are not attached.
func reasons(kernels []Kernel) string {
	type reason struct{ hook, text string }
	var order []reason
	where := map[reason][]string{}
	for _, k := range kernels {
		for _, h := range k.Hooks {
			if h.Reason == "" {
				continue
			}
			r := reason{h.Source, h.How + ": " + strings.ReplaceAll(h.Reason, "\n", "; ")}
			if h.Hook != "" && h.Hook != h.Source {
				r.hook += ", " + h.Hook
			}
			if where[r] == nil {
				order = append(order, r)
			}
			where[r] = append(where[r], k.Name)
		}
	}
	slices.SortStableFunc(order, func(a, b reason) int { return strings.Compare(a.hook, b.hook) })
	var b strings.Builder
	for i, r := range order {
		if i == 0 {
			b.WriteString("\nNot attached:\n\n")
		}
		fmt.Fprintf(&b, "- %s (%s): %s\n", r.hook, strings.Join(where[r], ", "), r.text)
	}
	return b.String()
}
