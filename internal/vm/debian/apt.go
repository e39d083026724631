package debian

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
)

// keyring is where Debian's package debian-archive-keyring puts the keys of every suite.
const keyring = "/usr/share/keyrings/debian-archive-keyring.gpg"

// ErrNoMirror is returned when the machine's apt has no Debian mirror to take packages from.
var ErrNoMirror = errors.New("find debian mirror: none among apt's sources")

// Archive is one suite and architecture of a Debian mirror, seen through an apt state of its own.
type Archive struct {
	Suite string
	Arch  string // Debian's name of the architecture: amd64, arm64

	conf     string // apt configuration file of the private state
	packages string // folder that receives the unpacked packages
}

// Mirror returns the address of the first Debian mirror that the machine's own apt is configured with.
func Mirror(ctx context.Context) (string, error) {
	out, err := output(ctx, "", "apt-get", "indextargets", "--format", "$(SITE)", "Created-By: Packages")
	if err != nil {
		return "", err
	}
	debian := regexp.MustCompile(`/debian/?$`) // leaves out debian-security, which has no suite of its own for every kernel
	for site := range strings.Lines(string(out)) {
		if site = strings.TrimSpace(site); debian.MatchString(site) {
			return site, nil
		}
	}
	return "", fmt.Errorf("%w (the harness takes its kernels from Debian; add a deb line for Debian's main archive to apt's sources)", ErrNoMirror)
}

// openArchive writes a private apt state below dir and fills its lists from the mirror.
func openArchive(ctx context.Context, dir, packages, mirror, suite, arch string) (*Archive, error) {
	if _, err := os.Stat(keyring); err != nil {
		return nil, fmt.Errorf("read archive keys: %w (apt-get install debian-archive-keyring)", err)
	}
	for _, sub := range []string{"lists/partial", "cache/archives/partial"} {
		if err := os.MkdirAll(filepath.Join(dir, sub), 0o755); err != nil {
			return nil, fmt.Errorf("create apt state: %w", err)
		}
	}
	a := &Archive{Suite: suite, Arch: arch, conf: filepath.Join(dir, "apt.conf"), packages: packages}
	files := map[string]string{
		a.conf:                             aptConf(dir, arch),
		filepath.Join(dir, "sources.list"): fmt.Sprintf("deb [signed-by=%s] %s %s main\n", keyring, mirror, suite),
		filepath.Join(dir, "status"):       "",
	}
	for name, text := range files {
		if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
			return nil, fmt.Errorf("create apt state: %w", err)
		}
	}
	if _, err := output(ctx, dir, "apt-get", "-c", a.conf, "-qq", "update"); err != nil {
		return nil, fmt.Errorf("update lists of %s/%s: %w", suite, arch, err)
	}
	return a, nil
}

// aptConf is read after the machine's own configuration: it moves every folder that apt writes to, and leaves proxies and credentials alone.
func aptConf(dir, arch string) string {
	return fmt.Sprintf(`#clear APT::Architectures;
#clear APT::Update::Pre-Invoke;
#clear APT::Update::Post-Invoke;
#clear APT::Update::Post-Invoke-Success;
APT::Architecture "%[2]s";
APT::Architectures { "%[2]s"; };
APT::Sandbox::User "root";
APT::Update::Error-Mode "any";
Acquire::Languages "none";
Acquire::Retries "1";
Acquire::http::Timeout "20";
Acquire::https::Timeout "20";
Debug::NoLocking "1";
Dir::Cache "%[1]s/cache";
Dir::Etc::preferences "/dev/null";
Dir::Etc::preferencesparts "/dev/null";
Dir::Etc::sourcelist "%[1]s/sources.list";
Dir::Etc::sourceparts "/dev/null";
Dir::State::lists "%[1]s/lists";
Dir::State::status "%[1]s/status";
`, dir, arch)
}

// Show returns the newest version of the package called name.
func (a *Archive) Show(ctx context.Context, name string) (Control, error) {
	out, err := output(ctx, "", "apt-cache", "-c", a.conf, "--no-all-versions", "show", name)
	if err != nil {
		return Control{}, fmt.Errorf("look up package %s in %s/%s: %w", name, a.Suite, a.Arch, err)
	}
	control, err := parseControl(out)
	if err != nil {
		return Control{}, fmt.Errorf("read package %s of %s/%s: %w", name, a.Suite, a.Arch, err)
	}
	return control, nil
}

// Unpack downloads a package unless the cache has it, and returns the folder that holds its files.
func (a *Archive) Unpack(ctx context.Context, p Package) (string, error) {
	dir := p.folder(a.packages)
	if _, err := os.Stat(dir); err == nil {
		return dir, nil
	}
	work, err := os.MkdirTemp(a.packages, temporary+"*")
	if err != nil {
		return "", fmt.Errorf("create download folder: %w", err)
	}
	defer func() { _ = os.RemoveAll(work) }() // what stays is pruned later
	if _, err := output(ctx, work, "apt-get", "-c", a.conf, "-qq", "download", p.Name+"="+p.Version); err != nil {
		return "", fmt.Errorf("download package %s %s of %s/%s: %w", p.Name, p.Version, a.Suite, a.Arch, err)
	}
	debs, err := filepath.Glob(filepath.Join(work, "*.deb"))
	if err != nil || len(debs) != 1 {
		return "", fmt.Errorf("download package %s %s of %s/%s: %d files arrived instead of one", p.Name, p.Version, a.Suite, a.Arch, len(debs))
	}
	tree := filepath.Join(work, "tree")
	if _, err := output(ctx, work, "dpkg", "-x", debs[0], tree); err != nil {
		return "", fmt.Errorf("unpack package %s %s of %s/%s: %w", p.Name, p.Version, a.Suite, a.Arch, err)
	}
	if err := os.Rename(tree, dir); err != nil {
		return "", fmt.Errorf("keep package %s %s: %w", p.Name, p.Version, err)
	}
	return dir, nil
}

// output runs a program to its end and returns what it printed. The error carries what the program complained of.
func output(ctx context.Context, dir, name string, args ...string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "LC_ALL=C.UTF-8", "DEBIAN_FRONTEND=noninteractive")
	var complaint bytes.Buffer
	cmd.Stderr = &complaint
	out, err := cmd.Output()
	switch {
	case err == nil:
		return out, nil
	case ctx.Err() != nil:
		return nil, fmt.Errorf("run %s: %w", name, ctx.Err())
	case errors.Is(err, exec.ErrNotFound):
		return nil, fmt.Errorf("run %s: %w (the harness needs Debian's apt and dpkg)", name, err)
	}
	return nil, fmt.Errorf("run %s: %w: %s", name, err, cause(complaint.String()))
}

// cause picks from a program's complaints: apt's first error, which says what happened where its last one only sums up, else the last line.
func cause(complaint string) string {
	lines := strings.Split(strings.TrimSpace(complaint), "\n")
	for _, line := range lines {
		if strings.HasPrefix(line, "E: ") {
			return line
		}
	}
	return lines[len(lines)-1]
}
