// Package confine takes from this process, for good, what a running agent never does.
//
// What enters are the folders that the agent still uses and the capabilities that it still needs; what leaves is the state: what is in force. Each
// part stands alone, so that a kernel or a container that refuses one of them keeps the others: no_new_privs, a Landlock ruleset that leaves a list of
// folders, a seccomp filter that refuses system calls, and fewer capabilities. What can go wrong: this kernel has no Landlock (before 5.13, or not
// switched on), or a sandbox around the process refuses to nest; the error says so, and nothing is half in force.
//
// The capabilities that attaching takes stay in this process while something may still have to be attached, rather than in a helper beside it. A
// helper made of the same binary was measured to have 11 MiB resident before it does anything, half of what the agent has with its default set; and
// whoever controls the agent could ask the helper for the same programs. Behind the filter, which refuses mounting, namespaces, modules, keys,
// foreign memory and new processes, little more than bpf(2) is left of CAP_SYS_ADMIN.
package confine

import (
	"sync"

	"github.com/latpush/latpush/internal/capability"
)

// Process confines the process that it runs in. Its methods may be called from several goroutines.
type Process struct {
	mu    sync.Mutex // guards state
	state State
}

// State is what is in force.
type State struct {
	NoNewPrivileges bool
	Landlock        bool
	Seccomp         bool
	Capabilities    bool // that are not needed were given up
}

// State returns what is in force.
func (p *Process) State() State {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.state
}

// set notes what came of an attempt.
func (p *Process) set(err error, part func(s *State) *bool) error {
	if err == nil {
		p.mu.Lock()
		defer p.mu.Unlock()
		*part(&p.state) = true
	}
	return err
}

// NoNewPrivileges is what Landlock and Seccomp take unless the process is privileged.
func (p *Process) NoNewPrivileges() error {
	return p.set(capability.NoNewPrivileges(), func(s *State) *bool { return &s.NoNewPrivileges })
}

// Landlock leaves the process the files below some folders.
func (p *Process) Landlock(paths Paths) error {
	return p.set(restrictPaths(paths), func(s *State) *bool { return &s.Landlock })
}

// Seccomp refuses the system calls that an agent never makes.
func (p *Process) Seccomp() error {
	return p.set(installFilter(), func(s *State) *bool { return &s.Seccomp })
}

// Keep gives up all capabilities that are not in the set.
func (p *Process) Keep(keep capability.Set) error {
	return p.set(capability.Keep(keep), func(s *State) *bool { return &s.Capabilities })
}

// Held returns the capabilities that are in force.
func (p *Process) Held() (capability.Set, error) { return capability.Effective() }
