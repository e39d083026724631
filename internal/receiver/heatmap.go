package receiver

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/timestamp"
	"github.com/prometheus/prometheus/tsdb"
)

const (
	defaultRange = 15 * time.Minute
	maxColumns   = 240
	unknownStep  = 15 * time.Second // taken until a series has had two samples
	rateDigits   = 4                // significant digits of a rate in the answer
)

// labelParameter is what a query parameter that chooses a label value begins with: label.operation=read.
const labelParameter = "label."

var errUnknownHistogram = errors.New("no such histogram was received")

// heatmap is the answer of /api/heatmap: a picture in numbers. Rows are the gaps between two edges, the lowest first.
type heatmap struct {
	Metric  string              `json:"metric"`
	Kind    string              `json:"kind"` // "classic", "native" or "custom"
	Help    string              `json:"help"`
	Labels  map[string][]string `json:"labels"` // all label names of the metric with all their values
	Start   float64             `json:"start"`  // Unix seconds of the first column
	End     float64             `json:"end"`    // and of the last one
	Step    float64             `json:"step"`   // seconds between two columns
	Window  float64             `json:"window"` // seconds that each column's rates are taken over
	Edges   []string            `json:"edges"`  // one more than there are rows, in human units
	Columns []column            `json:"columns"`
	Total   *column             `json:"total"` // the whole range as one column, without cells; null without data
	Newest  float64             `json:"newest"`
	Samples uint64              `json:"samples"`
}

// column is one moment. A moment without data has null cells; one in which nothing happened has empty ones.
type column struct {
	Time      float64   `json:"t"`
	Cells     []cell    `json:"cells"`
	Rate      float64   `json:"rate"`      // events per second
	Mean      string    `json:"mean"`      // in human units
	Quantiles []string  `json:"quantiles"` // p50, p90, p99 in human units
	Rows      []float64 `json:"rows"`      // where these lie: 2.5 is the middle of the third row; -1 for none
}

// cell is a bucket that counted events: the edges it lies between and its events per second. Where bounds changed within the picture, a
// bucket can take more than one row.
type cell struct {
	Low, High int
	Rate      float64
}

// MarshalJSON writes a cell as [low, high, rate].
func (c cell) MarshalJSON() ([]byte, error) {
	b := strconv.AppendInt([]byte{'['}, int64(c.Low), 10)
	b = strconv.AppendInt(append(b, ','), int64(c.High), 10)
	b = strconv.AppendFloat(append(b, ','), significant(c.Rate, rateDigits), 'g', -1, 64)
	return append(b, ']'), nil
}

// serveHeatmap answers GET /api/heatmap?metric=NAME&kind=KIND&range=15m&label.NAME=VALUE&end=UNIX. Only metric is required.
func (r *Receiver) serveHeatmap(w http.ResponseWriter, req *http.Request) {
	sel, length, end, err := r.parseHeatmap(req)
	if errors.Is(err, errUnknownHistogram) {
		http.Error(w, err.Error(), http.StatusNotFound)
		return
	}
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	h, err := r.heatmap(req.Context(), sel, length, end)
	if err != nil {
		r.log.Error("draw heatmap", "metric", sel.family.name, "err", err)
		http.Error(w, err.Error(), http.StatusUnprocessableEntity)
		return
	}
	writeJSON(w, h)
}

func (r *Receiver) parseHeatmap(req *http.Request) (sel selection, length time.Duration, end time.Time, err error) {
	values := req.URL.Query()
	length, end = defaultRange, time.Now()
	if s := values.Get("range"); s != "" {
		d, err := model.ParseDuration(s)
		if err != nil || d <= 0 {
			return sel, 0, end, fmt.Errorf("parse range %q: want a duration such as 15m", s)
		}
		length = time.Duration(d)
	}
	if s := values.Get("end"); s != "" {
		seconds, err := strconv.ParseFloat(s, 64)
		if err != nil || math.IsNaN(seconds) || math.Abs(seconds) > math.MaxInt32*10 {
			return sel, 0, end, fmt.Errorf("parse end %q: want Unix seconds", s)
		}
		end = time.UnixMilli(int64(seconds * 1000))
	}
	name, kind := values.Get("metric"), values.Get("kind")
	f, ok := r.ledger.find(name, kind)
	if !ok {
		return sel, 0, end, fmt.Errorf("find %q: %w", name, errUnknownHistogram)
	}
	sel.family = f
	for key, v := range values {
		label, ok := strings.CutPrefix(key, labelParameter)
		if !ok {
			continue
		}
		m, err := labels.NewMatcher(labels.MatchEqual, label, v[0])
		if err != nil {
			return sel, 0, end, fmt.Errorf("match label %q: %w", label, err)
		}
		sel.matchers = append(sel.matchers, m)
	}
	slices.SortFunc(sel.matchers, func(a, b *labels.Matcher) int { return cmp.Compare(a.Name, b.Name) })
	return sel, length, end, nil
}

// heatmap reads the selection over the range that ends at end. Columns lie on multiples of the step, so that a picture drawn a moment
// later has the same columns.
func (r *Receiver) heatmap(ctx context.Context, sel selection, length time.Duration, end time.Time) (*heatmap, error) {
	sp := columnsOf(sel.family.step, length, end)
	all, err := r.distributions(ctx, sel, sp)
	if err != nil {
		return nil, err
	}
	whole, err := r.distributions(ctx, sel, span{start: sp.end, end: sp.end, step: sp.step, window: length})
	if err != nil {
		return nil, err
	}
	values, err := labelValues(ctx, r.db, sel.family)
	if err != nil {
		return nil, err
	}
	h := &heatmap{
		Metric: sel.family.name, Kind: sel.family.kind(), Help: sel.family.meta.Help, Labels: values,
		Start: unix(sp.start), End: unix(sp.end), Step: sp.step.Seconds(), Window: sp.window.Seconds(),
		Newest: unix(sel.family.newest), Samples: sel.family.samples,
	}
	g := newGrid(all, unitOf(sel.family.name, sel.family.meta.Unit), sel.family.form == formExponential)
	h.Edges = g.texts()
	for i, d := range all {
		h.Columns = append(h.Columns, g.column(sp.start.Add(time.Duration(i)*sp.step), d))
	}
	if whole[0] != nil {
		total := g.column(sp.end, whole[0])
		total.Cells = nil
		h.Total = &total
	}
	return h, nil
}

// columnsOf chooses columns for a range: at most maxColumns, a round number of seconds apart, and not closer than the samples. The rates
// look back over two sample distances more than a column, so that one late or missing sample leaves no hole.
func columnsOf(sampleStep, length time.Duration, end time.Time) span {
	if sampleStep <= 0 {
		sampleStep = unknownStep
	}
	step := max(length/maxColumns, sampleStep).Round(time.Second)
	for _, round := range []time.Duration{1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600} {
		if round*time.Second >= max(length/maxColumns, sampleStep) {
			step = round * time.Second
			break
		}
	}
	last := end.Truncate(step)
	return span{start: last.Add(-(length / step) * step), end: last, step: step, window: step + 2*sampleStep}
}

// labelValues lists the labels of a histogram with all their values, for the newest hours.
func labelValues(ctx context.Context, db *tsdb.DB, f family) (map[string][]string, error) {
	name := f.name
	if f.form == formBucket {
		name += bucketSuffix
	}
	q, err := db.Querier(timestamp.FromTime(f.newest.Add(-loadWindow)), timestamp.FromTime(f.newest))
	if err != nil {
		return nil, fmt.Errorf("list labels of %s: %w", name, err)
	}
	defer func() { _ = q.Close() }()
	metric := labels.MustNewMatcher(labels.MatchEqual, model.MetricNameLabel, name)
	names, _, err := q.LabelNames(ctx, nil, metric)
	if err != nil {
		return nil, fmt.Errorf("list labels of %s: %w", name, err)
	}
	all := map[string][]string{}
	for _, label := range names {
		if label == model.MetricNameLabel || label == model.BucketLabel {
			continue
		}
		if all[label], _, err = q.LabelValues(ctx, label, nil, metric); err != nil {
			return nil, fmt.Errorf("list values of label %s of %s: %w", label, name, err)
		}
	}
	return all, nil
}

// unix is a moment in Unix seconds, to the millisecond.
func unix(t time.Time) float64 { return float64(t.UnixMilli()) / 1000 }

// writeJSON answers with a value that must not be kept by any cache.
func writeJSON(w http.ResponseWriter, v any) {
	body, err := json.Marshal(v)
	if err != nil {
		http.Error(w, fmt.Sprintf("encode answer: %v", err), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	if _, err := w.Write(body); err != nil {
		return // the client went away
	}
}
