package agent

import (
	"cmp"
	"context"
	"log/slog"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/common/version"

	"github.com/latpush/latpush/agent/sender"
	"github.com/latpush/latpush/internal/kernel"
	"github.com/latpush/latpush/internal/promwire"
	"github.com/latpush/latpush/internal/spool"
	"github.com/latpush/latpush/internal/spool/quarantine"
	"github.com/latpush/latpush/internal/upload"
)

// NewRooms returns the rooms of this host: its kernel, its disk and its network.
func NewRooms(log *slog.Logger, registry prometheus.Registerer) Rooms {
	return system{log: log, registry: registry}
}

type system struct {
	log      *slog.Logger
	registry prometheus.Registerer
}

func (s system) OpenKernel(ctx context.Context, configs []kernel.SourceConfig, pinPath string) (Kernel, error) {
	return kernel.Open(ctx, configs, kernel.Options{Log: s.log, PinPath: pinPath})
}

func (s system) OpenSpool(o spool.Options) (Spool, error) {
	opened, err := spool.Open(o, s.log, s.registry)
	if err != nil {
		return nil, err
	}
	return systemSpool{opened}, nil
}

func (s system) OpenQuarantine(directory string, maxBytes int64) (Quarantine, error) {
	return quarantine.Open(directory, maxBytes, s.log, s.registry)
}

func (s system) NewEncoder(o promwire.Options) (sender.Encoder, error) { return promwire.NewEncoder(o) }

func (s system) NewClient(c upload.Config) (Client, error) {
	return upload.New(c, cmp.Or(version.Version, "unknown"), s.log, s.registry)
}

// systemSpool returns its cursors as the interface that the agent knows them by.
type systemSpool struct{ *spool.Spool }

func (s systemSpool) Reader(name string) (Cursor, error) { return s.Spool.Reader(name) }
