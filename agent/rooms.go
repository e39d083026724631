package agent

import (
	"context"

	"github.com/latpush/latpush/agent/sender"
	"github.com/latpush/latpush/internal/kernel"
	"github.com/latpush/latpush/internal/latency"
	"github.com/latpush/latpush/internal/promwire"
	"github.com/latpush/latpush/internal/spool"
	"github.com/latpush/latpush/internal/upload"
)

// Kernel is what the run loop needs of the kernel room. *kernel.Kernel is one.
type Kernel interface {
	// Read returns what every source has counted. The slices are valid until the next call; beside an error the rest is still returned.
	Read() ([]kernel.Sample, []kernel.Loss, error)
	// Sources returns what is loaded and attached.
	Sources() []kernel.Status
	// Reconfigure loads new and changed sources and removes those that are gone. The counters of an unchanged source go on. An error says
	// what could not be removed; valid configurations are in force all the same.
	Reconfigure(ctx context.Context, configs []kernel.SourceConfig) error
	// CanReconfigure returns an error if Reconfigure would need capabilities that the process has given up.
	CanReconfigure(configs []kernel.SourceConfig) error
	// Needs returns the capabilities that the sources still take.
	Needs() []kernel.Need
	// Close detaches and removes every program.
	Close() error
}

// Spool is what the agent needs of the spool.
type Spool interface {
	// Append keeps a snapshot; it is safe when nil is returned.
	Append(snapshot *latency.Snapshot) error
	// Reader opens the durable cursor of a receiver, or makes one that starts at the oldest snapshot.
	Reader(name string) (Cursor, error)
	// Readers returns the names of all cursors, open or not. Each holds back the removal of what it has not delivered.
	Readers() []string
	// Boots returns the boots of the snapshots that it holds, in order.
	Boots() []spool.Boot
	// Forget removes a closed cursor and what only it held back.
	Forget(name string) error
	Close() error
}

// Cursor is an open cursor of the spool.
type Cursor interface {
	sender.Reader
	Close() error
}

// Quarantine keeps the requests that are set apart. *quarantine.Store is one.
type Quarantine interface {
	sender.Quarantine
	Close()
}

// Client delivers to one receiver. *upload.Client is one.
type Client interface {
	sender.Client
	// Close closes the connections. No delivery is under way.
	Close()
}

// Rooms opens the rooms of the one path that the agent wires together.
type Rooms interface {
	// OpenKernel loads the sources, pinned below a directory on a BPF file system unless that is empty.
	OpenKernel(ctx context.Context, configs []kernel.SourceConfig, pinPath string) (Kernel, error)
	OpenSpool(o spool.Options) (Spool, error)
	// OpenQuarantine opens the folder of requests that are set apart, of that many bytes at most.
	OpenQuarantine(directory string, maxBytes int64) (Quarantine, error)
	NewEncoder(o promwire.Options) (sender.Encoder, error)
	NewClient(c upload.Config) (Client, error)
}
