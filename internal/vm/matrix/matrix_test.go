package matrix

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/latpush/latpush/internal/vm"
	"github.com/latpush/latpush/internal/vm/matrix/catalogue"
)

// suite is one test package that runs on every kernel, in a guest of its own.
type suite struct {
	importPath string
	name       string   // in the names of the tests; the last part of importPath if it is empty
	run, skip  string   // patterns of its tests, of packages whose tests are too many for one guest
	provide    []string // modules that its tests load, or make the kernel load
	optional   []string // modules to provide where the kernel has them
	load       []string // modules that are loaded before its tests
	kernels    []string // that it runs on, such as 6.1/amd64; all but the generic ones if it is empty
	unit       bool     // systemd is the first process, and has the agent as it is deployed
}

func (s suite) runsOn(spec vm.Spec) bool {
	if len(s.kernels) == 0 {
		return !spec.Generic
	}
	return slices.Contains(s.kernels, spec.String())
}

// remote matches the tests of package kerneltests about NFS and file systems, which take as long as all others.
const remote = "^Test(NFS|FileSystems|Killed)"

// generic matches those that need a module which only a generic kernel has.
const generic = "^TestF2FS$"

// faultsOfPins matches the tests of package kernel in which pins are damaged or cannot be made, step by step. The kernel decides one thing about them:
// whether all links can be pinned, which is so from 5.15 on.
const faultsOfPins = "^Test(KilledAtEveryStep|ChangeOfPinsFails|DamagedPins)$"

func suites() []suite {
	const matrix = "github.com/latpush/latpush/internal/vm/matrix/"
	modules := []string{
		"brd", "btrfs", "dm-delay", "fuse", "mq-deadline", "nfs", "nfsd", "nfsv3", "nfsv4", "null_blk", "overlay", "raid1", "sch_netem", "xfs",
	}
	return []suite{
		{importPath: matrix + "guesttests", provide: []string{"loop", "nfs", "nfsd", "nfsv3", "nfsv4", "null_blk", "sch_netem"}},
		{importPath: matrix + "kerneltests", run: remote, provide: modules},
		{importPath: matrix + "kerneltests", name: "kerneltests-local", skip: remote + "|" + generic, provide: modules},
		{
			importPath: matrix + "kerneltests", name: "kerneltests-generic", run: generic, kernels: names(vm.GenericKernels()),
			provide: []string{"f2fs", "null_blk"}, optional: []string{"crc32_generic"}, // which f2fs asks for by what it computes
		},
		{importPath: "github.com/latpush/latpush/internal/kernel", skip: faultsOfPins, load: []string{"loop"}},
		{importPath: "github.com/latpush/latpush/internal/kernel", name: "kernel-pins", run: faultsOfPins, kernels: []string{"5.10/amd64", "6.1/amd64"}},
		{importPath: matrix + "systemdtests", kernels: []string{"5.10/amd64", "6.1/amd64", "6.12/amd64"}, unit: true, provide: []string{"nfs", "nfsv3", "nfsv4"}},
	}
}

// failures says what failed in the guests, for the end of the output: what the guests print is long.
var failures []string

func TestMain(m *testing.M) {
	code := m.Run()
	for _, failure := range failures {
		fmt.Println("failed in", failure)
	}
	os.Exit(code)
}

// kernels returns all that there are.
func kernels() []vm.Spec { return append(vm.Kernels(), vm.GenericKernels()...) }

func names(specs []vm.Spec) []string {
	var names []string
	for _, spec := range specs {
		names = append(names, spec.String())
	}
	return names
}

func TestMatrix(t *testing.T) {
	if testing.Short() {
		t.Skip("-short: boots no guests")
	}
	specs, err := chosen(os.Getenv("LATPUSH_VM_KERNELS"))
	if err != nil {
		t.Fatal(err)
	}
	for _, spec := range specs {
		if err := vm.Ready(spec.Arch); err != nil && os.Getenv("CI") == "" {
			t.Skip(err)
		} else if err != nil {
			t.Fatal(err)
		}
	}
	m := matrix{binaries: t.TempDir()}
	if m.harness, err = vm.Open(vm.Options{}, t); err != nil {
		t.Fatal(err)
	}
	var guests sync.WaitGroup
	places := make(chan struct{}, vm.Places())
	for _, spec := range specs {
		for _, s := range suites() {
			if !s.runsOn(spec) {
				continue
			}
			places <- struct{}{}
			guests.Go(func() {
				defer func() { <-places }()
				t.Run(spec.String()+"/"+cmp.Or(s.name, filepath.Base(s.importPath)), func(t *testing.T) { m.run(t, spec, s) })
			})
		}
	}
	guests.Wait()
	failures = m.failures
	t.Log("\n" + vm.Table(m.kernels, m.results))
	if len(m.catalogue) == len(vm.Kernels()) {
		slices.SortFunc(m.catalogue, func(a, b catalogue.Kernel) int { return place(a.Name) - place(b.Name) })
		t.Run("reference", func(t *testing.T) { checkReference(t, m.catalogue) })
	}
}

// place returns the position of a kernel among those that latpush is tested with.
func place(name string) int {
	return slices.IndexFunc(vm.Kernels(), func(s vm.Spec) bool { return s.String() == name })
}

type matrix struct {
	harness  *vm.Harness
	binaries string

	mu      sync.Mutex // guards the rest, and the making of binaries
	kernels []*vm.Kernel
	results []*vm.Result

	failures  []string           // a test and its output each
	catalogue []catalogue.Kernel // what each kernel's guest says about each hook
}

// build makes the test binary of a package, once for each architecture.
func (m *matrix) build(ctx context.Context, arch, importPath string) (binary string, err error) {
	return m.once(filepath.Base(importPath)+"-"+arch, func(file string) error { return vm.BuildTest(ctx, file, arch, importPath, "guest") })
}

// once makes a binary unless it is there.
func (m *matrix) once(name string, make func(file string) error) (binary string, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	binary = filepath.Join(m.binaries, name)
	if _, err := os.Stat(binary); err == nil {
		return binary, nil
	}
	return binary, make(binary)
}

// install returns what is installed of latpush in a guest, as its package would do it.
func (m *matrix) install(ctx context.Context, arch string) (map[string]string, error) {
	agent, err := m.once("latpush-"+arch, func(file string) error { return vm.Build(ctx, file, arch, "github.com/latpush/latpush/agent/latpush") })
	return map[string]string{"/usr/bin/latpush": agent, "/usr/lib/systemd/system/latpush.service": "../../../deploy/latpush.service"}, err
}

func (m *matrix) run(t *testing.T, spec vm.Spec, s suite) {
	ctx := t.Context()
	kernel, err := m.harness.Kernel(ctx, spec)
	if err != nil {
		t.Fatal(err)
	}
	binary, err := m.build(ctx, spec.Arch, s.importPath)
	if err != nil {
		t.Fatal(err)
	}
	var args []string
	if pattern := cmp.Or(os.Getenv("LATPUSH_VM_RUN"), s.run); pattern != "" {
		args = append(args, "-test.run="+pattern)
	}
	if s.skip != "" {
		args = append(args, "-test.skip="+s.skip)
	}
	options := vm.GuestOptions{
		TestBinary: binary, Args: args, Provide: s.provide, Optional: s.optional, Load: s.load, Timeout: 10 * time.Minute, Systemd: s.unit,
		Environ: []string{"GODEBUG=asyncpreemptoff=1"}, // no signals that interrupt the system calls that are counted
	}
	if s.unit {
		if options.Install, err = m.install(ctx, spec.Arch); err != nil {
			t.Fatal(err)
		}
	}
	result, err := m.harness.Run(ctx, t, kernel, options)
	if err != nil {
		t.Error(err)
		m.failed(t, err.Error())
	}
	if result == nil {
		return
	}
	m.mu.Lock()
	m.kernels, m.results = append(m.kernels, kernel), append(m.results, result)
	m.mu.Unlock()
	for _, test := range result.Failures() {
		m.failed(t, test.Output)
	}
	if result.Release != kernel.Release {
		t.Errorf("guest runs %q, booted %q", result.Release, kernel.Release)
	}
	for _, warning := range result.Warnings {
		t.Log("the guest's kernel complained:", warning)
	}
	if out := os.Getenv("LATPUSH_VM_OUT"); out != "" {
		keep(t, filepath.Join(out, filepath.FromSlash(spec.String())), result.Files)
	}
	if text, kept := result.Files[catalogue.File]; kept {
		column := catalogue.Kernel{Name: spec.String()}
		if err := json.Unmarshal(text, &column.Hooks); err != nil {
			t.Fatalf("read %s of the guest: %v", catalogue.File, err)
		}
		m.mu.Lock()
		m.catalogue = append(m.catalogue, column)
		m.mu.Unlock()
	}
	result.Report(t)
}

// failed notes what is said again at the end.
func (m *matrix) failed(t *testing.T, what string) {
	t.Helper()
	m.mu.Lock()
	defer m.mu.Unlock()
	m.failures = append(m.failures, strings.TrimPrefix(t.Name(), "TestMatrix/")+": "+strings.TrimSpace(what))
}

// reference is the page that has the table of sources by kernels, between two lines.
const (
	reference    = "../../../deploy/reference.md"
	tableBegins  = "<!-- kernels: made by LATPUSH_VM_UPDATE=1 go test ./internal/vm/matrix -->\n"
	tableEnds    = "<!-- end of kernels -->\n"
	updateTables = "LATPUSH_VM_UPDATE"
)

// checkReference demands that the committed table is what the guests say, or makes it so.
func checkReference(t *testing.T, kernels []catalogue.Kernel) {
	page, err := os.ReadFile(reference)
	if err != nil {
		t.Fatal(err)
	}
	before, rest, begins := strings.Cut(string(page), tableBegins)
	committed, after, ends := strings.Cut(rest, tableEnds)
	if !begins || !ends {
		t.Fatalf("%s has no table of kernels between %q and %q", reference, tableBegins, tableEnds)
	}
	made := "\n" + catalogue.Markdown(kernels) + "\n"
	if made == committed {
		return
	}
	if os.Getenv(updateTables) == "" {
		t.Fatalf("the table of kernels in %s is not what the guests say (%s=1 writes it):\n%s", reference, updateTables, made)
	}
	if err := os.WriteFile(reference, []byte(before+tableBegins+made+tableEnds+after), 0o644); err != nil {
		t.Fatal(err)
	}
}

func keep(t *testing.T, dir string, files map[string][]byte) {
	t.Helper()
	for name, content := range files {
		file := filepath.Join(dir, filepath.FromSlash(name))
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, content, 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// chosen returns the kernels that a list such as "6.1/amd64,newest/arm64" names, all of them when it is empty.
func chosen(list string) ([]vm.Spec, error) {
	if list == "" {
		return kernels(), nil
	}
	var specs []vm.Spec
	for name := range strings.SplitSeq(list, ",") {
		i := slices.IndexFunc(kernels(), func(s vm.Spec) bool { return s.String() == strings.TrimSpace(name) })
		if i < 0 {
			return nil, fmt.Errorf("read LATPUSH_VM_KERNELS: unknown kernel %q (known: %s)", name, strings.Join(names(kernels()), ", "))
		}
		specs = append(specs, kernels()[i])
	}
	return specs, nil
}

func TestChosen(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		list string
		want string
		err  string
	}{
		{list: "", want: "[5.10/amd64 6.1/amd64 6.12/amd64 newest/amd64 newest/arm64 5.10-generic/amd64 6.1-generic/amd64 newest-generic/amd64]"},
		{list: "6.1/amd64", want: "[6.1/amd64]"},
		{list: "newest/arm64, 5.10/amd64", want: "[newest/arm64 5.10/amd64]"},
		{list: "6.1", err: `unknown kernel "6.1"`},
	} {
		specs, err := chosen(tt.list)
		if tt.err != "" {
			if err == nil || !strings.Contains(err.Error(), tt.err) {
				t.Errorf("%q: error %v, want %s", tt.list, err, tt.err)
			}
			continue
		}
		if got := fmt.Sprint(names(specs)); err != nil || got != tt.want {
			t.Errorf("%q: %s, %v, want %s", tt.list, got, err, tt.want)
		}
	}
}

// A suite that names kernels that are not there would run nowhere.
func TestSuitesRun(t *testing.T) {
	t.Parallel()
	for _, s := range suites() {
		ran := slices.DeleteFunc(kernels(), func(spec vm.Spec) bool { return !s.runsOn(spec) })
		if want := cmp.Or(len(s.kernels), len(vm.Kernels())); len(ran) != want {
			t.Errorf("%s runs on %v, want %d kernels", s.importPath, ran, want)
		}
	}
}
