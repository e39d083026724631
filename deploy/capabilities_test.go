package deploy_test

import (
	"fmt"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/latpush/latpush/internal/capability"
	"github.com/latpush/latpush/internal/kernel"
)

// capabilityTable is what the code says about the capabilities of each source, which its own tests prove.
func capabilityTable(t *testing.T) string {
	t.Helper()
	var b strings.Builder
	b.WriteString("| source | needs | has a use for |\n| --- | --- | --- |\n")
	for _, name := range kernel.Names() {
		c, err := kernel.CapabilitiesOf(name)
		if err != nil {
			t.Fatal(err)
		}
		useful := ""
		if c.Useful != capability.None {
			useful = c.Useful.String()
		}
		fmt.Fprintf(&b, "| `%s` | %v | %s |\n", name, c.Needed, useful)
	}
	return b.String()
}

// capabilitySection is where the page has the table.
var capabilitySection = regexp.MustCompile("(?s)(<!-- capabilities: .*? -->\n).*(<!-- end of capabilities -->)")

func TestReferenceHasTheCapabilities(t *testing.T) {
	page, err := os.ReadFile("reference.md")
	if err != nil {
		t.Fatal(err)
	}
	want := capabilitySection.ReplaceAllString(string(page), "${1}\n"+capabilityTable(t)+"\n${2}")
	switch {
	case !strings.Contains(want, "| `softirq` |"):
		t.Error("reference.md has no place for the table of capabilities")
	case want != string(page) && *update:
		if err := os.WriteFile("reference.md", []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
	case want != string(page):
		t.Errorf("the table of capabilities in reference.md is not (go test ./deploy -update writes it)\n%s", capabilityTable(t))
	}
}

// The unit gives its user every capability that a source takes or has a use for, and no other.
func TestUnitGrantsWhatSourcesTake(t *testing.T) {
	t.Parallel()
	var all capability.Set
	for _, name := range kernel.Names() {
		c, err := kernel.CapabilitiesOf(name)
		if err != nil {
			t.Fatal(err)
		}
		all |= c.Needed | c.Useful
	}
	unit, err := os.ReadFile("latpush.service")
	if err != nil {
		t.Fatal(err)
	}
	for _, key := range []string{"AmbientCapabilities", "CapabilityBoundingSet"} {
		match := regexp.MustCompile(`(?m)^` + key + `=(.*)$`).FindStringSubmatch(string(unit))
		if match == nil {
			t.Errorf("the unit has no %s", key)
			continue
		}
		granted := strings.Fields(match[1])
		for _, name := range all.Names() {
			if !strings.Contains(" "+match[1]+" ", " "+name+" ") {
				t.Errorf("%s=%s lacks %s", key, match[1], name)
			}
		}
		// Labels that name functions are looked up with CAP_SYSLOG, whichever source has one.
		for _, name := range granted {
			if !strings.Contains(", "+(all|capability.SysLog).String()+",", ", "+name+",") {
				t.Errorf("%s has %s, which no source has a use for", key, name)
			}
		}
	}
}
