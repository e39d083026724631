package handover

import "github.com/latpush/latpush/internal/vm/kmod"

// Paths inside the guest, and the name of its serial port.
const (
	ManifestFile = "/latpush/manifest.json"
	Program      = "/latpush/program" // the test binary
	Modules      = "/latpush/modules" // folder of the modules that can be loaded
	Modprobe     = "/sbin/modprobe"   // started by the kernel when it wants a module: the init under another name
	Guest        = "/latpush/guest"   // started by systemd where that is the first process: the init under another name
	OutFolder    = "/out"             // what the program leaves here goes to the host
	PortName     = "latpush.report"

	KernelVariable = "LATPUSH_GUEST" // environment variable with the name of the kernel
)

// Manifest tells the init of a guest what to do.
type Manifest struct {
	Hostname  string     `json:"hostname"`
	Transport []string   `json:"transport"` // modules that the serial port needs
	Load      []string   `json:"load"`      // modules to load before the program starts, in this order
	Modules   kmod.Index `json:"modules"`   // every module that the guest has
	Arguments []string   `json:"arguments"` // of the program
	Environ   []string   `json:"environ"`   // KEY=value
}

// Hello is the payload of the first frame.
type Hello struct {
	Release string  `json:"release"` // uname -r
	Uptime  float64 `json:"uptime"`  // seconds since the kernel started
}

// Exit is the payload of the last frame.
type Exit struct {
	Code   int    `json:"code"`             // of the program; -1 when a signal ended it
	Signal string `json:"signal,omitempty"` // name of that signal
	Error  string `json:"error,omitempty"`  // what kept the init from running the program or from sending its files
}
