package receiver

import (
	"math"
	"testing"
	"time"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/histogram"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/metadata"
	"github.com/prometheus/prometheus/model/value"
)

// enter notes samples of one series, given by its labels.
func enter(l *ledger, ls labels.Labels, v float64, h *histogram.Histogram, times ...time.Time) {
	for _, at := range times {
		l.enter([]entry{newEntry(ls, at.UnixMilli(), formOf(ls, v, h, nil), metadata.Metadata{})})
	}
}

func TestLedgerFamilies(t *testing.T) {
	t.Parallel()
	now := time.Unix(1_700_000_000, 0)
	l := newLedger(func() time.Time { return now })
	at := func(seconds int) time.Time { return now.Add(time.Duration(seconds) * time.Second) }
	for _, operation := range []string{"read", "write"} {
		for _, le := range []string{"1", "+Inf"} {
			enter(l, labels.FromStrings("__name__", "a_bucket", "le", le, "operation", operation), 1, nil, at(-20), at(-10), at(0))
		}
		enter(l, labels.FromStrings("__name__", "a_count", "operation", operation), 1, nil, at(0))
	}
	enter(l, labels.FromStrings("__name__", "b"), 0, &histogram.Histogram{}, at(-5))
	enter(l, labels.FromStrings("__name__", "b"), math.Float64frombits(value.StaleNaN), nil, at(-1))
	enter(l, labels.FromStrings("__name__", "c"), 0, &histogram.Histogram{Schema: histogram.CustomBucketsSchema}, at(-3))
	enter(l, labels.FromStrings("__name__", "d_bucket"), 1, nil, at(0)) // no le: not a histogram
	l.describe("a", metadata.Metadata{Type: model.MetricTypeHistogram, Help: "Time.", Unit: "seconds"})

	families := l.families()
	if len(families) != 3 {
		t.Fatalf("%+v, want a, b and c", families)
	}
	a, b, c := families[0], families[1], families[2]
	if a.name != "a" || a.kind() != "classic" || a.series != 2 || a.samples != 14 || a.step != 10*time.Second || a.meta.Help != "Time." {
		t.Errorf("a is %+v", a)
	}
	if b.kind() != "native" || b.samples != 2 || b.step != 0 || !b.newest.Equal(at(-1)) {
		t.Errorf("b is %+v, want a native histogram in spite of the stale marker", b)
	}
	if c.kind() != "custom" || !c.arrived.Equal(now) {
		t.Errorf("c is %+v", c)
	}
	if samples, metrics := l.totals(); samples != 18 || metrics != 5 {
		t.Errorf("totals %d samples of %d metrics, want 18 of 5", samples, metrics)
	}
}

func TestLedgerForgetsIdleSeries(t *testing.T) {
	t.Parallel()
	now := time.Unix(1_700_000_000, 0)
	l := newLedger(func() time.Time { return now })
	gone := labels.FromStrings("__name__", "gone")
	ended := labels.FromStrings("__name__", "kept", "pid", "1")
	running := labels.FromStrings("__name__", "kept", "pid", "2")
	enter(l, gone, 0, &histogram.Histogram{}, now)
	enter(l, ended, 0, &histogram.Histogram{}, now)
	for range 30 {
		now = now.Add(time.Hour)
		enter(l, running, 0, &histogram.Histogram{}, now)
	}
	families := l.families()
	if len(families) != 1 || families[0].name != "kept" || families[0].series != 1 {
		t.Errorf("%+v, want one series of kept", families)
	}
}

func TestMetadataOfClassicLinesBelongsToTheFamily(t *testing.T) {
	t.Parallel()
	l := newLedger(time.Now)
	m := metadata.Metadata{Type: model.MetricTypeHistogram, Help: "Time."}
	for _, name := range []string{"a_bucket", "a_sum", "a_count"} {
		l.enter([]entry{newEntry(labels.FromStrings("__name__", name), 1, formFloat, m)})
	}
	l.enter([]entry{newEntry(labels.FromStrings("__name__", "ticks_count"), 1, formFloat, metadata.Metadata{Type: model.MetricTypeCounter})})
	all := l.described()
	if len(all) != 2 || all["a"] != m || all["ticks_count"].Type != model.MetricTypeCounter {
		t.Errorf("%v, want a and ticks_count", all)
	}
}
