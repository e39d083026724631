package latency_test

import (
	"bytes"
	"errors"
	"io"
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/textparse"

	"github.com/latpush/latpush/internal/latency"
)

func TestLE(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		bound uint64
		want  string
	}{
		{0, "0.0"},
		{1, "1e-09"},
		{1_000, "1e-06"},
		{2_000, "2e-06"},
		{1_500, "1.5e-06"},
		{99_999, "9.9999e-05"},
		{100_000, "0.0001"},
		{128_000, "0.000128"},
		{1_024_000, "0.001024"},
		{250_000_000, "0.25"},
		{999_999_999, "0.999999999"},
		{1_000_000_000, "1.0"},
		{1_048_576_000, "1.048576"},
		{10_000_000_000, "10.0"},
		{67_108_864_000, "67.108864"},
		{100_000_000_000_000, "100000.0"},
		{1_000_000_000_000_000, "1e+06"},
		{1_500_000_000_000_000, "1.5e+06"},
		{math.MaxUint64, "1.8446744073709553e+10"},
	} {
		if got := latency.LE(c.bound); got != c.want {
			t.Errorf("LE(%d) = %q, want %q", c.bound, got, c.want)
		}
	}
}

// Any bound is written as Prometheus 3 writes the le of a histogram that it scraped.
func TestLEIsNormalised(t *testing.T) {
	t.Parallel()
	random := rand.New(rand.NewPCG(1, 2))
	for range 100_000 {
		bound := random.Uint64() >> random.UintN(64)
		for _, b := range []uint64{bound, bound / 1e6 * 1e6, bound / 1e9 * 1e9} {
			if got, want := latency.LE(b), labels.FormatOpenMetricsFloat(float64(b)/1e9); got != want {
				t.Fatalf("LE(%d) = %q, Prometheus writes %q", b, got, want)
			}
		}
	}
}

// A histogram of the Go client, rendered in the classic text format and scraped by Prometheus 3, has the le values of LE.
func TestLEJoinsScrapedHistogram(t *testing.T) {
	t.Parallel()
	var bounds []uint64
	for i := range 27 {
		bounds = append(bounds, 1_000<<i)
	}
	bounds = append(bounds, 100_000_000_000, 250_000_000_000, 1_000_000_000_000_000)

	var want []string
	counts := map[float64]uint64{}
	for _, b := range bounds {
		want = append(want, latency.LE(b))
		counts[latency.Seconds(b)] = 1
	}
	want = append(want, latency.LEInf)
	if got := scrapedBounds(t, counts); !slices.Equal(got, want) {
		t.Errorf("Prometheus stores le\n%q, latpush sends\n%q", got, want)
	}
}

func scrapedBounds(t *testing.T, counts map[float64]uint64) []string {
	t.Helper()
	registry := prometheus.NewRegistry()
	registry.MustRegister(constCollector{prometheus.MustNewConstHistogram(prometheus.NewDesc("a_seconds", "A.", nil, nil), 1, 1, counts)})
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	var text bytes.Buffer
	if _, err := expfmt.MetricFamilyToText(&text, families[0]); err != nil {
		t.Fatal(err)
	}
	parser, err := textparse.New(text.Bytes(), "text/plain", nil, textparse.ParserOptions{})
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for {
		kind, err := parser.Next()
		if errors.Is(err, io.EOF) {
			return got
		}
		if err != nil {
			t.Fatal(err)
		}
		var l labels.Labels
		if kind == textparse.EntrySeries {
			if parser.Labels(&l); l.Has("le") {
				got = append(got, l.Get("le"))
			}
		}
	}
}

// constCollector is a collector of one metric that does not change.
type constCollector struct{ metric prometheus.Metric }

func (c constCollector) Describe(ch chan<- *prometheus.Desc) { ch <- c.metric.Desc() }
func (c constCollector) Collect(ch chan<- prometheus.Metric) { ch <- c.metric }

func TestCumulative(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name         string
		dst          []uint64
		counts, want []uint64
	}{
		{"nothing", nil, nil, []uint64{}},
		{"only above every bound", nil, []uint64{7}, []uint64{7}},
		{"gaps", nil, []uint64{0, 3, 0, 0, 4, 0}, []uint64{0, 3, 3, 3, 7, 7}},
		{"long dst is cut and overwritten", []uint64{9, 9, 9, 9, 9}, []uint64{1, 2}, []uint64{1, 3}},
		{"short dst is grown", make([]uint64, 0, 1), []uint64{1, 1, 1}, []uint64{1, 2, 3}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			counts := slices.Clone(c.counts)
			if got := latency.Cumulative(c.dst, counts); !slices.Equal(got, c.want) {
				t.Errorf("got %d, want %d", got, c.want)
			}
			if !slices.Equal(counts, c.counts) {
				t.Errorf("counts became %d", counts)
			}
		})
	}
}

func TestCumulativeInPlace(t *testing.T) {
	counts := []uint64{1, 2, 3}
	if got, want := latency.Cumulative(counts, counts), []uint64{1, 3, 6}; !slices.Equal(got, want) {
		t.Errorf("got %d, want %d", got, want)
	}
	dst := make([]uint64, 3)
	if n := testing.AllocsPerRun(10, func() { dst = latency.Cumulative(dst, counts) }); n != 0 {
		t.Errorf("%v allocations with a dst that is long enough", n)
	}
}

func TestSeconds(t *testing.T) {
	t.Parallel()
	for ns, want := range map[uint64]float64{0: 0, 1: 1e-9, 1_000: 1e-6, 1_000_000_000: 1, 67_108_864_000: 67.108864, 1 << 53: 9007199.254740992} {
		if got := latency.Seconds(ns); got != want {
			t.Errorf("Seconds(%d) = %v, want %v", ns, got, want)
		}
	}
}
