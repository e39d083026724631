package deploy_test

import (
	"flag"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/latpush/latpush/internal/kernel"
)

var update = flag.Bool("update", false, "write what reference.md says about the catalogue")

// facts are what the code itself says about a source: its metrics, its hooks, and whether it runs by default.
func facts(d *kernel.Description) string {
	var b strings.Builder
	set := "In the default set."
	if !d.Default {
		set = "Runs when it is listed, or with `sources: all`."
	}
	fmt.Fprintf(&b, "%s\n\n| metric | labels | |\n| --- | --- | --- |\n", set)
	for _, m := range d.Metrics {
		var labels []string
		for _, label := range m.Labels {
			labels = append(labels, "`"+label+"`")
		}
		fmt.Fprintf(&b, "| `%s` | %s | %s |\n", m.Name, strings.Join(labels, ", "), m.Help)
	}
	if len(d.Labels) > 0 {
		fmt.Fprintf(&b, "\nLabels that can be asked for: `%s`.\n", strings.Join(d.Labels, "`, `"))
	}
	b.WriteString("\nHooks, and the ways to attach them in the order in which they are tried:\n\n")
	var order []string
	events := make(map[string][]string) // hooks that differ in nothing else share a line
	for _, h := range d.Hooks {
		how := ": " + strings.Join(h.Ways, ", ")
		if h.Module != "" {
			how = " (module " + h.Module + ")" + how
		}
		if events[how] == nil {
			order = append(order, how)
		}
		events[how] = append(events[how], h.Events...)
	}
	for _, how := range order {
		fmt.Fprintf(&b, "- %s%s\n", strings.Join(events[how], ", "), how)
	}
	return b.String()
}

// section finds the facts of each source: they stand under a heading with its name, and end with a line of their own.
var section = regexp.MustCompile("(?s)\n## `([a-z_]+)`\n\n(.*?)<!-- end of facts -->\n")

// The page describes every source, and what it says about hooks, metrics and labels is what the code does.
func TestReferenceIsWhatTheCatalogueSays(t *testing.T) {
	page, err := os.ReadFile("reference.md")
	if err != nil {
		t.Fatal(err)
	}
	all, err := kernel.Describe()
	if err != nil {
		t.Fatal(err)
	}
	want := make(map[string]string)
	for i := range all {
		want[all[i].Name] = facts(&all[i])
	}
	written := section.ReplaceAllStringFunc(string(page), func(found string) string {
		parts := section.FindStringSubmatch(found)
		name, text := parts[1], parts[2]
		made, known := want[name]
		delete(want, name)
		switch {
		case !known:
			t.Errorf("reference.md describes %s, which is no source, or describes it twice", name)
		case text != made+"\n" && !*update:
			t.Errorf("reference.md says about %s\n%s\nbut the catalogue is (go test ./deploy -update writes it)\n%s", name, text, made)
		}
		return "\n## `" + name + "`\n\n" + made + "\n<!-- end of facts -->\n"
	})
	for name := range want {
		t.Errorf("reference.md has no section about %s", name)
	}
	if *update && written != string(page) {
		if err := os.WriteFile("reference.md", []byte(written), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	// What is written by hand for each source.
	for text := range strings.SplitSeq(written, "\n## `") {
		name, _, found := strings.Cut(text, "`\n")
		if !found {
			continue
		}
		for _, part := range []string{"**Measures**", "**Cost**", "**Cannot see**"} {
			if !strings.Contains(text, "\n"+part+" ") {
				t.Errorf("reference.md says nothing about %s of %s", part, name)
			}
		}
	}
}

// The page explains every reason for which events are lost, and no other.
func TestReferenceExplainsEveryLoss(t *testing.T) {
	page, err := os.ReadFile("reference.md")
	if err != nil {
		t.Fatal(err)
	}
	_, text, _ := strings.Cut(string(page), "\n## Losses\n")
	text, _, _ = strings.Cut(text, "\n## ")
	var explained []string
	for _, row := range regexp.MustCompile("(?m)^\\| `([a-z_]+)` \\|").FindAllStringSubmatch(text, -1) {
		explained = append(explained, row[1])
	}
	k, err := kernel.Open(t.Context(), kernel.DefaultConfigs(), kernel.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer k.Close()
	_, losses, err := k.Read()
	if err != nil {
		t.Fatal(err)
	}
	var known []string
	for _, loss := range losses {
		known = append(known, loss.Reason)
	}
	slices.Sort(explained)
	slices.Sort(known)
	if known = slices.Compact(known); len(known) == 0 || !slices.Equal(explained, known) {
		t.Errorf("reference.md explains %v, the sources report %v", explained, known)
	}
}
