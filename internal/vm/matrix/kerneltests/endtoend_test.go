//go:build guest

package kerneltests

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/latpush/latpush/agent"
	"github.com/latpush/latpush/agent/config"
	"github.com/latpush/latpush/agent/identity"
	"github.com/latpush/latpush/agent/telemetry"
	"github.com/latpush/latpush/internal/latency"
	"github.com/latpush/latpush/internal/receiver"
	"github.com/latpush/latpush/internal/vm/guest"
	"github.com/latpush/latpush/internal/vm/guest/guesttest"
	"github.com/latpush/latpush/internal/vm/guest/querytest"
)

// The seed of it all: what was done on an NFS mount is what PromQL answers at a receiver, with the last operations before the stop among it.
func TestNFSEndToEnd(t *testing.T) {
	guesttest.ServeNFS(t)
	dir := guesttest.MountNFS(t, "4.2", "plain")
	r, err := receiver.Start(t.Context(), receiver.Options{Listen: "127.0.0.1:0"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { guesttest.Succeed(t, r.Close) })
	stop := runAgent(t, r.URL())
	querytest.Expect(t, r, `latpush_hook_attached{source="nfs",hook="nfs_file_read"}`, 1)

	querytest.Expect(t, r, `nfs_inflight{operation="read"} + nfs_inflight_oldest_seconds{operation="read"}`, 0)

	runner := guesttest.Prepare(t, guest.Workload{Reads: 21, Splices: 2, Writes: 13, Opens: 8, Creates: 3, Getattrs: 34, Fsyncs: 5, Direct: true}, dir)
	querytest.Expect(t, r, `sum(nfs_latency_seconds_count{operation="fsync"}) >= bool 1`, 1) // what preparing did
	time.Sleep(3 * time.Second)                                                              // and all of it
	before := map[string]float64{}
	for _, operation := range []string{"read", "write", "open", "getattr", "fsync"} {
		before[operation] = querytest.Value(t, r, fmt.Sprintf(`nfs_latency_seconds_count{operation=%q}`, operation))
	}
	did, err := runner.Run()
	if err != nil {
		t.Fatal(err)
	}
	stop()                                                                                            // which ends the series
	lost := querytest.Value(t, r, `sum(last_over_time(latpush_events_lost_total{source="nfs"}[5m]))`) // where fentry's programs can be preempted: see checkNFSCounts
	for operation, n := range did.ByOperation() {
		selector := fmt.Sprintf(`{operation=%q,job="latpush",instance="guest"}[5m]`, operation)
		if got := querytest.Value(t, r, "last_over_time(nfs_latency_seconds_count"+selector+")") - before[operation]; got > float64(n) || got+lost < float64(n) {
			t.Errorf("%s: PromQL says %v, did %d, lost %v", operation, got, n, lost)
		}
		if buckets := querytest.Value(t, r, "count(last_over_time(nfs_latency_seconds_bucket"+selector+"))"); buckets != 28 {
			t.Errorf("%s: %v buckets arrived, want 27 and +Inf", operation, buckets)
		}
	}
}

// runAgent runs the agent against a receiver until the returned function is called.
func runAgent(t *testing.T, url string) (stop func()) {
	t.Helper()
	folder := t.TempDir()
	file := filepath.Join(folder, "latpush.yml")
	text := fmt.Sprintf("interval: 1s\nmax_cpu: 0\nsources: [{name: nfs}]\nremote_write: [{url: %s/api/v1/write}]\nspool: {directory: %s/spool}\n", url, folder)
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	a, err := newAgent(ctx, file)
	if err != nil {
		cancel()
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- a.Run(ctx, nil) }()
	return func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}
}

// newAgent makes an agent of a configuration file.
func newAgent(ctx context.Context, file string) (*agent.Agent, error) {
	clock, err := latency.NewSystemClock()
	if err != nil {
		return nil, err
	}
	log := slog.New(slog.NewTextHandler(os.Stderr, nil))
	metrics := telemetry.New(clock.Now().Boottime)
	return agent.New(ctx, agent.Options{
		Load: func() (*config.Config, error) { return config.Load(file, identity.Read()) },
		Host: identity.Read(), Clock: clock, Rooms: agent.NewRooms(log, metrics.Registerer()), Metrics: metrics, Log: log,
	})
}
