package receiver

import (
	"context"
	"net/http"
	"net/url"
	"os"
	"runtime"
	"time"

	"github.com/grafana/regexp"
	remoteapi "github.com/prometheus/client_golang/exp/api/remote"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/prometheus/common/route"
	"github.com/prometheus/prometheus/config"
	"github.com/prometheus/prometheus/promql/parser"
	"github.com/prometheus/prometheus/rules"
	"github.com/prometheus/prometheus/scrape"
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/storage/remote"
	"github.com/prometheus/prometheus/tsdb"
	"github.com/prometheus/prometheus/util/features"
	"github.com/prometheus/prometheus/util/notifications"
	apiv1 "github.com/prometheus/prometheus/web/api/v1"
)

// prometheusVersion is the release that the module's version stands for (v0.316.0 is 3.16.0). Grafana decides by it what it may ask for.
const prometheusVersion = "3.16.0"

// handler routes everything that the receiver answers.
func (r *Receiver) handler(reg *prometheus.Registry, p parser.Parser) (http.Handler, error) {
	api := route.New()
	r.prometheusAPI(reg, p).Register(api)
	messages := remoteapi.MessageTypes{remoteapi.WriteV1MessageType, remoteapi.WriteV2MessageType}
	write := remote.NewWriteHandler(r.log.With("component", "remote write"), reg, tracked{r.db, r.ledger}, messages, false, true)

	mux := http.NewServeMux()
	mux.Handle("/api/v1/", http.StripPrefix("/api/v1", api))
	// Without authentication, at least no other web page in the same browser may write here.
	mux.Handle("/api/v1/write", http.NewCrossOriginProtection().Handler(learnMetadata(r.ledger, write)))
	mux.HandleFunc("GET /api/v1/metadata", r.serveMetadata)
	mux.HandleFunc("GET /api/summary", r.serveSummary)
	mux.HandleFunc("GET /api/heatmap", r.serveHeatmap)
	mux.Handle("GET /metrics", promhttp.HandlerFor(reg, promhttp.HandlerOpts{}))
	if err := addPage(mux); err != nil {
		return nil, err
	}
	return mux, nil
}

// prometheusAPI is Prometheus's own query API. What belongs to scraping, rules and alerts answers with empty lists.
func (r *Receiver) prometheusAPI(reg *prometheus.Registry, p parser.Parser) *apiv1.API {
	started := time.Now()
	return apiv1.NewAPI(
		r.engine, r.db, nil, r.db,
		func(context.Context) apiv1.ScrapePoolsRetriever { return nothing{} },
		func(context.Context) apiv1.TargetRetriever { return nothing{} },
		func(context.Context) apiv1.AlertmanagerRetriever { return nothing{} },
		func() config.Config { return config.DefaultConfig },
		map[string]string{}, // flags
		apiv1.GlobalURLOptions{ListenAddress: r.address, Host: r.address, Scheme: "http"},
		func(f http.HandlerFunc) http.HandlerFunc { return f }, // always ready
		adminStats{r.db}, r.folder.path,
		false,    // no admin API
		false, 0, // no search API
		r.log.With("component", "api"),
		func(context.Context) apiv1.RulesRetriever { return nothing{} },
		0, 1, 1<<20, // remote read: any number of samples, one request at a time, 1 MiB in a frame
		false,                      // a full server, not an agent
		regexp.MustCompile("^$"),   // no cross-origin requests
		runtimeInfo(started, r.db), // status/runtimeinfo
		&apiv1.PrometheusVersion{Version: prometheusVersion, GoVersion: runtime.Version()},
		func() []notifications.Notification { return nil },
		func() (<-chan notifications.Notification, func(), bool) { return nil, nil, false },
		reg, reg, nil,
		false, nil, // remote write has a handler of its own, see handler
		false, false, false, // no OTLP
		lookbackDelta, false, false, nil,
		features.NewRegistry(),
		apiv1.OpenAPIOptions{Version: prometheusVersion, ExternalURL: r.URL()},
		p, false, queryTimeout,
	)
}

func runtimeInfo(started time.Time, db *tsdb.DB) func() (apiv1.RuntimeInfo, error) {
	return func() (apiv1.RuntimeInfo, error) {
		return apiv1.RuntimeInfo{
			StartTime: started, LastConfigTime: started, ServerTime: time.Now(), ReloadConfigSuccess: true, CWD: db.Dir(),
			GoroutineCount: runtime.NumGoroutine(), GOMAXPROCS: runtime.GOMAXPROCS(0), GOGC: os.Getenv("GOGC"), GODEBUG: os.Getenv("GODEBUG"),
		}, nil
	}
}

// nothing stands for the parts of Prometheus that the receiver does not have: scraping, alerting, rules.
type nothing struct{}

func (nothing) ScrapePools() []string                       { return nil }
func (nothing) TargetsActive() map[string][]*scrape.Target  { return nil }
func (nothing) TargetsDropped() map[string][]*scrape.Target { return nil }
func (nothing) TargetsDroppedCounts() map[string]int        { return nil }
func (nothing) ScrapePoolConfig(string) (*config.ScrapeConfig, error) {
	return nil, storage.ErrNotFound
}
func (nothing) Alertmanagers() []*url.URL            { return nil }
func (nothing) DroppedAlertmanagers() []*url.URL     { return nil }
func (nothing) RuleGroups() []*rules.Group           { return nil }
func (nothing) AlertingRules() []*rules.AlertingRule { return nil }

// adminStats gives the API the database's own figures.
type adminStats struct{ *tsdb.DB }

func (a adminStats) Stats(byLabel string, limit int) (*tsdb.Stats, error) {
	return a.Head().Stats(byLabel, limit), nil
}

func (adminStats) WALReplayStatus() (tsdb.WALReplayStatus, error) { return tsdb.WALReplayStatus{}, nil }

func (a adminStats) BlockMetas() ([]tsdb.BlockMeta, error) { return a.DB.BlockMetas(), nil }
