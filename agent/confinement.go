package agent

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/latpush/latpush/agent/config"
	"github.com/latpush/latpush/agent/telemetry"
	"github.com/latpush/latpush/internal/capability"
	"github.com/latpush/latpush/internal/confine"
	"github.com/latpush/latpush/internal/kernel"
)

// Confinement takes from the process what a running agent does not need. *confine.Process is one.
type Confinement interface {
	NoNewPrivileges() error
	Landlock(paths confine.Paths) error
	Seccomp() error
	// Keep gives up all capabilities that are not in the set.
	Keep(keep capability.Set) error
	// Held returns the capabilities that are in force.
	Held() (capability.Set, error)
	State() confine.State
}

// errConfinementChanged is why a configuration with another confinement is not taken over by a running agent: nothing of it can be undone.
var errConfinementChanged = errors.New("the confinement cannot change while latpush runs (restart it)")

// Confine puts in force what the configuration says, once, when all rooms are open and before Run. What the kernel does not have, or a sandbox around
// latpush does not let it do, is logged and costs the rest nothing. The configuration file is the one that Load reads.
func (a *Agent) Confine(c Confinement, configFile string) {
	a.confinement = c
	wanted := a.config.Confinement
	if wanted == (config.Confinement{}) {
		return
	}
	a.confined("no_new_privs", c.NoNewPrivileges())
	if wanted.Landlock {
		a.confined("landlock", c.Landlock(a.paths(configFile)))
	}
	if wanted.Seccomp {
		a.confined("seccomp", c.Seccomp())
	}
	a.ratchet()
}

func (a *Agent) confined(part string, err error) {
	if err != nil {
		a.log.Warn("latpush runs with less confinement than its configuration asks for", "without", part, "err", err)
	}
}

// ratchet gives up the capabilities that are held and that no source needs any more. There is no way back.
func (a *Agent) ratchet() {
	if a.confinement == nil || !a.config.Confinement.Capabilities {
		return
	}
	held, err := a.confinement.Held()
	if err != nil {
		a.confined("capabilities", err)
		return
	}
	keep, reasons := kept(held, a.kernel.Needs())
	if keep == held && a.confinement.State().Capabilities || a.ratchetStuck {
		return
	}
	if err := a.confinement.Keep(keep); err != nil {
		a.ratchetStuck = true
		a.confined("capabilities", err)
		return
	}
	a.log.Info("capabilities given up", "kept", keep.String(), "for", strings.Join(slices.Compact(reasons), ", "))
}

// kept returns what stays of the capabilities that are held, and the reasons in the order of the needs.
func kept(held capability.Set, needs []kernel.Need) (keep capability.Set, reasons []string) {
	for _, need := range needs {
		if need.Capabilities&held != capability.None {
			keep |= need.Capabilities & held
			reasons = append(reasons, need.Reason)
		}
	}
	return keep, reasons
}

// confinementOf describes the confinement to the telemetry; nil for an agent that Confine was not called for.
func (a *Agent) confinementStatus() *telemetry.Confinement {
	if a.confinement == nil {
		return nil
	}
	status := &telemetry.Confinement{State: a.confinement.State(), Reasons: make(map[capability.Set]string)}
	held, err := a.confinement.Held()
	if err != nil {
		return status
	}
	needs := a.kernel.Needs()
	for _, one := range held.Each() {
		var reasons []string
		for _, need := range needs {
			if need.Capabilities.Has(one) {
				reasons = append(reasons, need.Reason)
			}
		}
		status.Reasons[one] = strings.Join(reasons, ",")
	}
	return status
}

// paths returns what a running agent reads and writes.
//
// Files are named by their folders because they are replaced rather than written: by editors, resolvconf, and whatever renews a secret. That is why
// all of /etc can be read, as far as the user may. What is not there is left out.
func (a *Agent) paths(configFile string) confine.Paths {
	// The names of hosts and users' time zones, and what leads from /etc to other folders, such as /run/systemd/resolve.
	files := []string{"/etc/resolv.conf", "/etc/hosts", "/etc/nsswitch.conf", "/etc/localtime", "/etc/machine-id", configFile}
	files = append(files, a.config.Files()...)
	// The authorities that the system trusts, in the places where the distributions have them.
	read := []string{
		"/etc/ssl", "/etc/pki", "/etc/ca-certificates", "/usr/share/ca-certificates", "/usr/local/share/ca-certificates", "/usr/share/pki",
		"/var/lib/ca-certificates", "/usr/share/zoneinfo",
	}
	read = append(read, filepath.SplitList(os.Getenv("SSL_CERT_DIR"))...)
	if file := os.Getenv("SSL_CERT_FILE"); file != "" {
		files = append(files, file)
	}
	system := kernel.Files()
	var move []string
	if a.config.PinPath != "" {
		move = append(move, a.config.PinPath)
	}
	return confine.Paths{
		Read:  slices.Concat(read, confine.Folders(files...), system.Read),
		Write: system.Write,
		Own:   confine.Remountable(a.config.Spool.Directory),
		Move:  move,
	}
}

// allowed checks what a reload would change that the confinement does not let a running agent do.
func (a *Agent) allowed(loaded *config.Config) error {
	if a.config.Confinement != loaded.Confinement {
		return fmt.Errorf("compare confinement: %w", errConfinementChanged)
	}
	return a.kernel.CanReconfigure(loaded.Sources)
}

// outside adds to an error of loading a configuration what to do about files that Landlock does not let this process see.
func (a *Agent) outside(err error) error {
	var all config.Errors
	if a.confinement == nil || !a.confinement.State().Landlock || !errors.As(err, &all) {
		return err
	}
	explained := make(config.Errors, len(all))
	for i, one := range all {
		explained[i] = one
		if errors.Is(one, fs.ErrPermission) {
			with := *one
			with.Err = fmt.Errorf("%w (a running latpush sees only the folders of files that its configuration named at the start: restart it)", one.Err)
			explained[i] = &with
		}
	}
	return explained
}
