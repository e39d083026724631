package receiver

import (
	"context"
	"fmt"
	"math"
	"net/http"
	"time"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/promql"
)

const (
	summaryWindow  = time.Minute // rates and quantiles of the summary look back so far
	totalLookback  = time.Hour   // a series without samples for so long no longer counts in the total
	samplesPerRate = 3           // but at least over so many sample distances
)

// Summary is the state of everything that was received.
type Summary struct {
	URL        string      `json:"url"`     // of the page
	Samples    uint64      `json:"samples"` // accepted since the receiver started, of all metrics
	Metrics    int         `json:"metrics"` // metric names they came under
	Histograms []Histogram `json:"histograms"`
}

// Histogram sums up one histogram family over all its label sets. A figure that is not known yet is null.
type Histogram struct {
	Name        string   `json:"name"`
	Kind        string   `json:"kind"` // "classic", "native" or "custom"
	Help        string   `json:"help,omitempty"`
	Unit        string   `json:"unit,omitempty"`
	Series      int      `json:"series"`            // label sets
	Events      *float64 `json:"events"`            // sum of the counters as they are now
	EventRate   *float64 `json:"events_per_second"` // over the last minute
	P50         *float64 `json:"p50"`               // over the last minute, in the metric's unit
	P99         *float64 `json:"p99"`
	P50Text     string   `json:"p50_text"` // in human units
	P99Text     string   `json:"p99_text"`
	Samples     uint64   `json:"samples"`          // accepted since the receiver started; a classic histogram has many in each push
	LastSample  float64  `json:"last_sample"`      // Unix seconds, timestamp of the newest sample
	AgeSeconds  float64  `json:"age_seconds"`      // since that timestamp
	StepSeconds float64  `json:"interval_seconds"` // between two samples of one series, 0 while unknown
}

// Summary reads the state of all histograms at this moment.
func (r *Receiver) Summary(ctx context.Context) (*Summary, error) {
	now := time.Now()
	s := &Summary{URL: r.URL(), Histograms: []Histogram{}}
	s.Samples, s.Metrics = r.ledger.totals()
	for _, f := range r.ledger.families() {
		h, err := r.summarize(ctx, f, now)
		if err != nil {
			return nil, fmt.Errorf("summarize %s: %w", f.name, err)
		}
		s.Histograms = append(s.Histograms, h)
	}
	return s, nil
}

func (r *Receiver) summarize(ctx context.Context, f family, now time.Time) (Histogram, error) {
	h := Histogram{
		Name: f.name, Kind: f.kind(), Help: f.meta.Help, Unit: f.meta.Unit, Series: f.series, Samples: f.samples,
		LastSample: unix(f.newest), AgeSeconds: now.Sub(f.newest).Seconds(), StepSeconds: f.step.Seconds(),
	}
	sel, u := selection{family: f}, unitOf(f.name, f.meta.Unit)
	at := span{start: now, end: now, step: time.Second, window: max(summaryWindow, samplesPerRate*f.step)}
	d, err := r.distributions(ctx, sel, at)
	if err != nil {
		return h, err
	}
	p50, p99 := math.NaN(), math.NaN()
	if d[0] != nil {
		h.EventRate, p50, p99 = finite(d[0].rate), d[0].quantiles[0], d[0].quantiles[len(d[0].quantiles)-1]
	}
	h.P50, h.P99, h.P50Text, h.P99Text = finite(p50), finite(p99), u.format(p50), u.format(p99)
	h.Events, err = r.events(ctx, sel, now)
	return h, err
}

// events is the sum of the newest counts of all series, nil when there is none.
func (r *Receiver) events(ctx context.Context, sel selection, now time.Time) (*float64, error) {
	lookback := int(totalLookback.Seconds())
	query := fmt.Sprintf(`sum(histogram_count(last_over_time(%s[%ds])))`, sel.selector(""), lookback)
	if sel.family.form == formBucket {
		sel.matchers = append(sel.matchers, labels.MustNewMatcher(labels.MatchEqual, model.BucketLabel, "+Inf"))
		query = fmt.Sprintf(`sum(last_over_time(%s[%ds]))`, sel.selector(bucketSuffix), lookback)
	}
	value, err := r.Query(ctx, query, now)
	if err != nil {
		return nil, err
	}
	if vector, ok := value.(promql.Vector); ok && len(vector) == 1 {
		return finite(vector[0].F), nil
	}
	return nil, nil
}

// finite is nil for what JSON cannot write.
func finite(v float64) *float64 {
	if math.IsNaN(v) || math.IsInf(v, 0) {
		return nil
	}
	return &v
}

func (r *Receiver) serveSummary(w http.ResponseWriter, req *http.Request) {
	s, err := r.Summary(req.Context())
	if err != nil {
		r.log.Error("summarize", "err", err)
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	writeJSON(w, s)
}
