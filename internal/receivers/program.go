package receivers

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// Program is a receiver that can be started.
type Program int

// The receivers.
const (
	// Prometheus is release 3.16: remote write 1.0 and 2.0, all histograms, start timestamps.
	Prometheus Program = iota + 1
	// DebianPrometheus is the distribution's 2.42, which answers 204 to a 2.0 request, without the Written headers, and stores nothing of it.
	DebianPrometheus
	// VictoriaMetrics is release 1.150, which does the same. It takes samples of any age.
	VictoriaMetrics
)

func (p Program) String() string {
	switch p {
	case Prometheus:
		return "Prometheus 3.16"
	case DebianPrometheus:
		return "Debian's Prometheus"
	case VictoriaMetrics:
		return "VictoriaMetrics"
	default:
		return fmt.Sprintf("receiver %d", int(p))
	}
}

// Path returns the program's binary, which is built when the cache does not have it yet.
func (p Program) Path(ctx context.Context) (string, error) {
	switch p {
	case Prometheus:
		return module{"github.com/prometheus/prometheus/cmd/prometheus", "v0.316.0", []string{"-tags", "remove_all_sd,netgo"}}.path(ctx)
	case VictoriaMetrics:
		return module{"github.com/VictoriaMetrics/VictoriaMetrics/app/victoria-metrics", "v1.150.0", nil}.path(ctx)
	case DebianPrometheus:
		path, err := exec.LookPath("prometheus")
		if err != nil {
			return "", fmt.Errorf("find Debian's prometheus: %w (apt-get install prometheus)", err)
		}
		return path, nil
	default:
		return "", fmt.Errorf("start %s: there is no such program", p)
	}
}

// Options of a server. The zero value is usable.
type Options struct {
	// Address is host:port to listen on, a loopback address. Empty: a free port.
	Address string
	// Directory keeps the data. Empty: a temporary folder of the test.
	Directory string
	// OutOfOrderWindow is Prometheus's out_of_order_time_window: how much older than the newest sample one may be. 0 means one hour, negative none.
	OutOfOrderWindow time.Duration
	// Features are Prometheus's feature flags.
	Features []string
	// Config is more of Prometheus's configuration file, in YAML.
	Config string
	// Flags are more of the program's flags.
	Flags []string
}

// retention of the samples: longer than any test's past.
const retention = 10 * 365 * 24 * time.Hour

// arguments writes the configuration file and returns the command line.
func (p Program) arguments(o Options) ([]string, error) {
	if p == VictoriaMetrics {
		// Without the offset and the cache a query has what was written a moment ago.
		return append([]string{
			"-httpListenAddr=" + o.Address, "-storageDataPath=" + filepath.Join(o.Directory, "data"), "-retentionPeriod=10y", "-search.latencyOffset=0s",
			"-search.disableCache", "-enableMetadata", "-loggerLevel=WARN",
		}, o.Flags...), nil
	}
	window := o.OutOfOrderWindow
	switch {
	case window == 0:
		window = time.Hour
	case window < 0:
		window = 0
	}
	config := filepath.Join(o.Directory, "prometheus.yml")
	text := fmt.Sprintf("storage: {tsdb: {out_of_order_time_window: %ds}}\n%s", int64(window.Seconds()), o.Config)
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		return nil, fmt.Errorf("write configuration of %s: %w", p, err)
	}
	arguments := []string{
		"--config.file=" + config, "--storage.tsdb.path=" + filepath.Join(o.Directory, "data"), "--web.listen-address=" + o.Address,
		"--web.enable-remote-write-receiver", "--log.level=warn", fmt.Sprintf("--storage.tsdb.retention.time=%dh", int(retention.Hours())),
	}
	if len(o.Features) > 0 {
		arguments = append(arguments, "--enable-feature="+strings.Join(o.Features, ","))
	}
	return append(arguments, o.Flags...), nil
}

// readyPath answers 200 when the program can be written to.
func (p Program) readyPath() string {
	if p == VictoriaMetrics {
		return "/health"
	}
	return "/-/ready"
}
