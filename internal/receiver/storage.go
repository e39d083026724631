package receiver

import (
	"fmt"
	"log/slog"
	"os"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/prometheus/promql"
	"github.com/prometheus/prometheus/promql/parser"
	"github.com/prometheus/prometheus/tsdb"
	"github.com/prometheus/prometheus/tsdb/chunkenc"
	"github.com/prometheus/prometheus/util/compression"
)

const (
	queryTimeout    = 2 * time.Minute // as Prometheus's --query.timeout
	queryMaxSamples = 50_000_000      // as Prometheus's --query.max-samples
	lookbackDelta   = 5 * time.Minute // as Prometheus's --query.lookback-delta
	subqueryStep    = time.Minute     // as Prometheus's evaluation_interval
)

// folder is where the samples are kept.
type folder struct {
	path      string
	temporary bool
}

// makeFolder returns the given folder, or a new temporary one when path is empty.
func makeFolder(path string) (folder, error) {
	if path == "" {
		path, err := os.MkdirTemp("", "latpush-receiver-")
		if err != nil {
			return folder{}, fmt.Errorf("create temporary storage folder: %w", err)
		}
		return folder{path: path, temporary: true}, nil
	}
	if err := os.MkdirAll(path, 0o755); err != nil {
		return folder{}, fmt.Errorf("create storage folder: %w", err)
	}
	return folder{path: path}, nil
}

// remove deletes a temporary folder and leaves any other alone.
func (f folder) remove() error {
	if !f.temporary {
		return nil
	}
	if err := os.RemoveAll(f.path); err != nil {
		return fmt.Errorf("remove temporary storage folder: %w", err)
	}
	return nil
}

// openStorage opens Prometheus's database in the folder. Start timestamps of remote write 2.0 are stored beside the samples.
func openStorage(f folder, o Options, reg prometheus.Registerer) (*tsdb.DB, error) {
	t := tsdb.DefaultOptions()
	t.RetentionDuration = o.Retention.Milliseconds()
	t.OutOfOrderTimeWindow = o.OutOfOrderWindow.Milliseconds()
	t.WALCompression = compression.Snappy
	t.EnableSTStorage = true
	t.EnableHistogramSTEncoding = true
	t.FloatChunkEncoding = chunkenc.EncXOR2
	if f.temporary {
		t.WALSegmentSize = -1 // nothing reads a log that is removed at exit
	}
	db, err := tsdb.Open(f.path, o.Log.With("component", "tsdb"), reg, t, tsdb.NewDBStats())
	if err != nil {
		return nil, fmt.Errorf("open storage in %s: %w (is another receiver or Prometheus using it?)", f.path, err)
	}
	return db, nil
}

// newEngine returns Prometheus's query engine with Prometheus's default limits. Rates count from the start timestamp where a sample has
// one, so the first increase after a start is not lost.
func newEngine(log *slog.Logger, reg prometheus.Registerer, p parser.Parser) *promql.Engine {
	return promql.NewEngine(promql.EngineOpts{
		Logger:                   log.With("component", "query engine"),
		Reg:                      reg,
		MaxSamples:               queryMaxSamples,
		Timeout:                  queryTimeout,
		LookbackDelta:            lookbackDelta,
		NoStepSubqueryIntervalFn: func(int64) int64 { return subqueryStep.Milliseconds() },
		EnableAtModifier:         true,
		EnableNegativeOffset:     true,
		UseStartTimestamps:       true,
		Parser:                   p,
	})
}
