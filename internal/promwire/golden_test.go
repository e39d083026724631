package promwire_test

import (
	"bytes"
	"encoding/hex"
	"errors"
	"flag"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/golang/snappy"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/textparse"

	"github.com/latpush/latpush/internal/latency"
	"github.com/latpush/latpush/internal/promwire"
)

var update = flag.Bool("update", false, "write the golden files anew")

// goldenFamily is the histogram of the golden files; its bounds include whole seconds, whose le is not the same in every exposition format.
func goldenFamily() latency.Family {
	bounds := append(exp2(27), 100_000_000_000, 3_600_000_000_000)
	return histogram(bounds, func(i int, s *latency.Series) {
		for j := range s.Counts {
			s.Counts[j] = uint64((i + 1) * j % 7)
			s.Sum += s.Counts[j] * 999 << j
		}
	}, "read", "write", `a "quoted" \ name`+"\n")
}

// The bytes on the wire are those that were reviewed. Look at the difference before running this with -update.
func TestGoldenMessage(t *testing.T) {
	t.Parallel()
	exponentialFamily := goldenFamily()
	exponentialFamily.Bounds = exponential(1, -10, len(exponentialFamily.Bounds))
	for _, c := range []struct {
		file      string
		protocol  promwire.Protocol
		histogram promwire.Histogram
		family    latency.Family
	}{
		{"histogram.write1.hex", promwire.V1, promwire.Classic, goldenFamily()},
		{"histogram.write2.classic.hex", promwire.V2, promwire.Classic, goldenFamily()},
		{"histogram.write2.custom.hex", promwire.V2, promwire.Custom, goldenFamily()},
		{"histogram.write2.exponential.hex", promwire.V2, promwire.Exponential, exponentialFamily},
	} {
		t.Run(c.file, func(t *testing.T) {
			t.Parallel()
			e := newEncoder(t, promwire.Options{
				Labels: []promwire.Label{{"job", "latpush"}, {"instance", "edge-7"}}, Metadata: true, StaleMarkers: true,
				Histograms: func(string) promwire.Histogram { return c.histogram },
			})
			c.family.Help, c.family.Unit = "A histogram.", "seconds"
			s := snapshot(t0, c.family)
			s.Taken.Boottime = time.Hour
			requests, err := e.Encode(c.protocol, s)
			if err != nil || len(requests) != 1 {
				t.Fatalf("%d requests, %v", len(requests), err)
			}
			receiveAll(t, requests)
			raw, err := snappy.Decode(nil, requests[0].Body)
			if err != nil {
				t.Fatal(err)
			}
			golden(t, c.file, []byte(hex.Dump(raw)))
		})
	}
}

// A receiver stores of a pushed histogram what Prometheus 3 stores of the same one when the Go client exposes it in the text format and it is scraped.
func TestSameAsScraped(t *testing.T) {
	t.Parallel()
	f := goldenFamily()
	requests, err := newEncoder(t, promwire.Options{}).Encode(promwire.V1, snapshot(t0, f))
	if err != nil {
		t.Fatal(err)
	}
	text := expose(t, f)
	golden(t, "histogram.txt", text)
	wantReceived(t, receive(t, requests), scrape(t, text))
}

// expose renders a histogram family as the Go client does.
func expose(t *testing.T, f latency.Family) []byte {
	t.Helper()
	registry := prometheus.NewRegistry()
	registry.MustRegister(familyCollector{f})
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	var text bytes.Buffer
	for _, m := range families {
		if _, err := expfmt.MetricFamilyToText(&text, m); err != nil {
			t.Fatal(err)
		}
	}
	return text.Bytes()
}

// familyCollector exposes a histogram family through the Go client.
type familyCollector struct{ latency.Family }

func (c familyCollector) Describe(ch chan<- *prometheus.Desc) {
	ch <- prometheus.NewDesc(c.Name, "A histogram.", c.LabelNames, nil)
}

func (c familyCollector) Collect(ch chan<- prometheus.Metric) {
	for _, s := range c.Series {
		buckets, count := map[float64]uint64{}, uint64(0)
		for i, b := range c.Bounds {
			count += s.Counts[i]
			buckets[float64(b)/1e9] = count
		}
		count += s.Counts[len(c.Bounds)]
		desc := prometheus.NewDesc(c.Name, "A histogram.", c.LabelNames, nil)
		ch <- prometheus.MustNewConstHistogram(desc, count, float64(s.Sum)/1e9, buckets, s.LabelValues...)
	}
}

// scrape reads an exposition with Prometheus's own parser.
func scrape(t *testing.T, text []byte) received {
	t.Helper()
	parser, err := textparse.New(text, "text/plain", nil, textparse.ParserOptions{})
	if err != nil {
		t.Fatal(err)
	}
	got := received{}
	for {
		kind, err := parser.Next()
		if errors.Is(err, io.EOF) {
			return got
		}
		if err != nil {
			t.Fatal(err)
		}
		if kind != textparse.EntrySeries {
			continue
		}
		_, _, value := parser.Series()
		var set labels.Labels
		parser.Labels(&set)
		got[exposedName(set)] = []sample{{t0, value}}
	}
}

func exposedName(set labels.Labels) string {
	rest := set.MatchLabels(false, model.MetricNameLabel)
	name := set.Get(model.MetricNameLabel) + "{"
	rest.Range(func(l labels.Label) {
		if name[len(name)-1] != '{' {
			name += ","
		}
		name += l.Name + "=" + strconv.Quote(l.Value)
	})
	return name + "}"
}

func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(path, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("not what is in %s; got\n%s", path, got)
	}
}
