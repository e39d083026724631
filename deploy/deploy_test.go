// Package deploy_test checks the files of this folder against the code that they are for.
package deploy_test

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/promql/parser"

	"github.com/latpush/latpush/agent/config"
	"github.com/latpush/latpush/agent/identity"
	"github.com/latpush/latpush/agent/telemetry"
	"github.com/latpush/latpush/internal/kernel"
	"github.com/latpush/latpush/internal/spool"
)

func TestExampleConfigurationIsValid(t *testing.T) {
	t.Parallel()
	c, err := config.Load("latpush.yml", identity.Host{Name: "edge-1"})
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, source := range c.Sources {
		names = append(names, source.Name)
	}
	slices.Sort(names)
	if want := kernel.Names(); !slices.Equal(names, want) { // the sources that are off by default are there too
		t.Errorf("the example shows the sources %v, there are %v", names, want)
	}
}

// What the comments of the example say is a default must be one: each such key may be left out and nothing changes.
func TestExampleShowsTheDefaults(t *testing.T) {
	t.Parallel()
	example, err := config.Load("latpush.yml", identity.Host{Name: "edge-1"})
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "latpush.yml")
	if err := os.WriteFile(file, []byte("remote_write: [{url: https://mimir.example/api/v1/push}]\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	defaults, err := config.Load(file, identity.Host{Name: "edge-1"})
	if err != nil {
		t.Fatal(err)
	}
	if example.Interval != defaults.Interval || example.ShutdownTimeout != defaults.ShutdownTimeout ||
		example.ClockSyncTimeout != defaults.ClockSyncTimeout || example.Histogram != defaults.Histogram || example.MaxCPU != defaults.MaxCPU ||
		example.PinPath != defaults.PinPath {
		t.Errorf("interval %v, shutdown_timeout %v, clock_sync_timeout %v, histogram %s, max_cpu %v and pin_path %s, the defaults are %v, %v, %v, %s, %v and %s",
			example.Interval, example.ShutdownTimeout, example.ClockSyncTimeout, example.Histogram, example.MaxCPU, example.PinPath,
			defaults.Interval, defaults.ShutdownTimeout, defaults.ClockSyncTimeout, defaults.Histogram, defaults.MaxCPU, defaults.PinPath)
	}
	// Zero values are the spool's defaults, so the example's must be those that its documentation names.
	want := defaults.Spool
	want.MaxBytes, want.MaxAge, want.Fsync, want.MaxMemory = 64<<20, 30*model.Duration(24*time.Hour), spool.FsyncAlways, 8<<20
	if example.Spool != want {
		t.Errorf("spool is %+v, want %+v", example.Spool, want)
	}
	if example.Confinement != defaults.Confinement {
		t.Errorf("confinement is %+v, want %+v", example.Confinement, defaults.Confinement)
	}
	receiver := example.RemoteWrite[0]
	receiver.Name = defaults.RemoteWrite[0].Name
	if !reflect.DeepEqual(receiver, defaults.RemoteWrite[0]) {
		t.Errorf("the receiver differs from one with its defaults: %+v\n%+v", receiver.QueueConfig, defaults.RemoteWrite[0].QueueConfig)
	}
}

func TestUnitIsValid(t *testing.T) {
	t.Parallel()
	analyze, err := exec.LookPath("systemd-analyze")
	if err != nil {
		if os.Getenv("CI") != "" {
			t.Fatal("systemd-analyze is missing (apt-get install systemd)")
		}
		t.Skip("systemd-analyze is missing")
	}
	unit, err := os.ReadFile("latpush.service")
	if err != nil {
		t.Fatal(err)
	}
	// The binary need not be installed here.
	const command = "ExecStart=/usr/bin/latpush run"
	if !strings.Contains(string(unit), command) {
		t.Fatalf("the unit does not have %q", command)
	}
	executable, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "latpush.service")
	text := strings.Replace(string(unit), command, "ExecStart="+executable+" run", 1)
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command(analyze, "verify", file).CombinedOutput()
	if err != nil || len(out) > 0 {
		t.Errorf("systemd-analyze verify: %v\n%s", err, out)
	}
}

// panel is the part of a Grafana panel that is tested.
type panel struct {
	Title   string `json:"title"`
	Type    string `json:"type"`
	Targets []struct {
		Expr   string `json:"expr"`
		Format string `json:"format"`
	} `json:"targets"`
}

func panels(t *testing.T) []panel {
	t.Helper()
	raw, err := os.ReadFile("latpush-dashboard.json")
	if err != nil {
		t.Fatal(err)
	}
	var dashboard struct {
		Title  string  `json:"title"`
		UID    string  `json:"uid"`
		Panels []panel `json:"panels"`
	}
	if err := json.Unmarshal(raw, &dashboard); err != nil {
		t.Fatal(err)
	}
	if dashboard.Title == "" || dashboard.UID == "" || len(dashboard.Panels) == 0 {
		t.Fatalf("the dashboard has title %q, uid %q and %d panels", dashboard.Title, dashboard.UID, len(dashboard.Panels))
	}
	return dashboard.Panels
}

// queried returns the metrics of a query. Grafana's variables are replaced by what they stand for.
func queried(t *testing.T, query string) []string {
	t.Helper()
	query = strings.NewReplacer("$__rate_interval", "1m", "$job", ".*", "$instance", ".*").Replace(query)
	expr, err := parser.NewParser(parser.Options{}).ParseExpr(query)
	if err != nil {
		t.Errorf("query %s: %v", query, err)
		return nil
	}
	var names []string
	parser.Inspect(expr, func(node parser.Node, _ []parser.Node) error {
		if selector, ok := node.(*parser.VectorSelector); ok {
			names = append(names, selector.Name)
		}
		return nil
	})
	return names
}

// declared returns the metrics of a kind that the sources declare, loaded or not.
func declared(t *testing.T, kind kernel.Kind) []string {
	t.Helper()
	all, err := kernel.Describe()
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, source := range all {
		for _, metric := range source.Metrics {
			if metric.Kind == kind {
				names = append(names, metric.Name)
			}
		}
	}
	return names
}

// ownMetrics returns the metrics that latpush pushes about itself.
func ownMetrics(t *testing.T) []string {
	t.Helper()
	metrics := telemetry.New(0)
	opened, err := spool.Open(spool.Options{Directory: t.TempDir()}, nil, metrics.Registerer())
	if err != nil {
		t.Fatal(err)
	}
	defer opened.Close()
	if _, err := opened.Reader("main"); err != nil {
		t.Fatal(err)
	}
	families, err := metrics.Families()
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, family := range append(families, telemetry.Sources(nil, nil)...) {
		names = append(names, family.Name)
	}
	return names
}

func TestDashboardQueriesWhatIsPushed(t *testing.T) {
	t.Parallel()
	sources := declared(t, kernel.KindHistogram)
	if len(sources) < 7 {
		t.Fatalf("the sources declare %v", sources)
	}
	states := slices.Concat(declared(t, kernel.KindGauge), declared(t, kernel.KindCounter))
	known := append(ownMetrics(t), states...)
	for _, metric := range sources {
		known = append(known, metric+"_bucket", metric+"_sum", metric+"_count")
	}
	drawn := make(map[string]bool)
	for _, panel := range panels(t) {
		for _, target := range panel.Targets {
			for _, metric := range queried(t, target.Expr) {
				if !slices.Contains(known, metric) {
					t.Errorf("panel %q queries %s, which nothing declares", panel.Title, metric)
				}
				if slices.Contains(states, metric) {
					drawn[metric] = true
				}
				if panel.Type == "heatmap" && target.Format == "heatmap" {
					drawn[strings.TrimSuffix(metric, "_bucket")] = true
				}
			}
		}
	}
	for _, metric := range sources {
		if !drawn[metric] {
			t.Errorf("no heatmap shows %s", metric)
		}
	}
	for _, metric := range states {
		if !drawn[metric] {
			t.Errorf("no panel shows %s", metric)
		}
	}
}

// A variable that is not defined would be sent to the data source as it is.
func TestDashboardVariablesAreDefined(t *testing.T) {
	t.Parallel()
	raw, err := os.ReadFile("latpush-dashboard.json")
	if err != nil {
		t.Fatal(err)
	}
	var dashboard struct {
		Templating struct {
			List []struct {
				Name string `json:"name"`
			} `json:"list"`
		} `json:"templating"`
	}
	if err := json.Unmarshal(raw, &dashboard); err != nil {
		t.Fatal(err)
	}
	defined := []string{"__rate_interval", "__all"}
	for _, variable := range dashboard.Templating.List {
		defined = append(defined, variable.Name)
	}
	for _, match := range regexp.MustCompile(`\$\{?([a-z_]+)`).FindAllStringSubmatch(string(raw), -1) {
		if !slices.Contains(defined, match[1]) {
			t.Errorf("variable $%s is not defined", match[1])
		}
	}
}
