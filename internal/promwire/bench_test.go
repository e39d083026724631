package promwire_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/latpush/latpush/internal/latency"
	"github.com/latpush/latpush/internal/promwire"
)

var benchLabels = []promwire.Label{{"instance", "edge-0001.paris-3.example"}, {"job", "latpush"}, {"site", "paris-3"}}

// sendings are the ways to send that the benchmarks compare.
var sendings = []struct {
	name      string
	protocol  promwire.Protocol
	histogram promwire.Histogram
}{
	{"1.0/classic", promwire.V1, promwire.Classic},
	{"2.0/classic", promwire.V2, promwire.Classic},
	{"2.0/custom", promwire.V2, promwire.Custom},
	{"2.0/exponential", promwire.V2, promwire.Exponential},
}

func benchOptions(h promwire.Histogram) promwire.Options {
	return promwire.Options{Labels: benchLabels, Metadata: true, StaleMarkers: true, Histograms: func(string) promwire.Histogram { return h }}
}

// BenchmarkEncode encodes ticks of 1,000 label sets of 27 buckets, as one and as four ticks in a call.
func BenchmarkEncode(b *testing.B) {
	for _, s := range sendings {
		for _, ticks := range []int{1, 4} {
			b.Run(fmt.Sprintf("%s/ticks=%d", s.name, ticks), func(b *testing.B) {
				e := newEncoder(b, benchOptions(s.histogram))
				snaps := work(s.histogram, 1_000, ticks)
				requests, err := e.Encode(s.protocol, snaps...) // fills the cache
				if err != nil {
					b.Fatal(err)
				}
				b.ReportAllocs()
				for b.Loop() {
					if requests, err = e.Encode(s.protocol, snaps...); err != nil {
						b.Fatal(err)
					}
					e.Accept()
				}
				report(b, requests, ticks)
			})
		}
	}
}

// BenchmarkNaive fills the messages of the same ticks from the snapshots, sample by sample, and marshals and compresses them.
func BenchmarkNaive(b *testing.B) {
	for _, s := range sendings {
		for _, ticks := range []int{1, 4} {
			b.Run(fmt.Sprintf("%s/ticks=%d", s.name, ticks), func(b *testing.B) {
				snaps := work(s.histogram, 1_000, ticks)
				n := newNaive(s.protocol, s.histogram, snaps[0])
				b.ReportAllocs()
				for b.Loop() {
					n.body(snaps)
				}
			})
		}
	}
}

// BenchmarkRatio prints how many times as fast the encoder is as the naive messages, the two in turn so that both have the same machine. Both compress.
func BenchmarkRatio(b *testing.B) {
	const rounds = 20
	for _, s := range sendings {
		for _, ticks := range []int{1, 4} {
			b.Run(fmt.Sprintf("%s/ticks=%d", s.name, ticks), func(b *testing.B) {
				e, snaps := newEncoder(b, benchOptions(s.histogram)), work(s.histogram, 1_000, ticks)
				n := newNaive(s.protocol, s.histogram, snaps[0])
				var ours, theirs time.Duration
				for b.Loop() {
					for range rounds {
						began := time.Now()
						if _, err := e.Encode(s.protocol, snaps...); err != nil {
							b.Fatal(err)
						}
						e.Accept()
						between := time.Now()
						n.body(snaps)
						ours, theirs = ours+between.Sub(began), theirs+time.Since(between)
					}
				}
				b.ReportMetric(float64(theirs)/float64(ours), "times-as-fast")
			})
		}
	}
}

// TestNaiveIsTheSame makes sure that the benchmarks compare like with like: the naive messages hold what the encoder's do.
func TestNaiveIsTheSame(t *testing.T) {
	t.Parallel()
	for _, s := range sendings {
		o := benchOptions(s.histogram)
		o.MaxSamples = 1 << 20
		snaps := work(s.histogram, 20, 3)
		requests, err := newEncoder(t, o).Encode(s.protocol, snaps...)
		if err != nil {
			t.Fatal(err)
		}
		got := receiveAll(t, requests)
		r := requests[0]
		r.Body = newNaive(s.protocol, s.histogram, snaps[0]).body(snaps)
		want := receiveBody(t, r)
		wantReceived(t, got.samples, want.samples)
		if len(got.histograms) != len(want.histograms) {
			t.Errorf("%s: %d native series, want %d", s.name, len(got.histograms), len(want.histograms))
		}
		for name, all := range want.histograms {
			for i, h := range all {
				if !sameNative(got.histograms[name][i], h) {
					t.Errorf("%s: %s: got %v, want %v", s.name, name, got.histograms[name][i], h)
				}
			}
		}
	}
}

// receiveBody gives what is stored of a request whose description is another one's.
func receiveBody(t *testing.T, r promwire.Request) stored {
	t.Helper()
	got := stored{samples: received{}, histograms: map[string][]native{}}
	for _, ts := range seriesOf(t, r) {
		if len(ts.samples) > 0 {
			got.samples[ts.name] = append(got.samples[ts.name], ts.samples...)
		}
		if len(ts.histograms) > 0 {
			got.histograms[ts.name] = append(got.histograms[ts.name], ts.histograms...)
		}
	}
	return got
}

// BenchmarkWire prints what one histogram of 27 buckets costs on the wire at one tick of 15 s, and beside it what naive messages of the same samples, one tick in
// each, cost. A native histogram's bytes are divided by the 30 samples of the classic one as well, so that all are on one scale.
func BenchmarkWire(b *testing.B) {
	const sets, lines = 200, 30
	text := "\nwire bytes per (histogram, tick), 27 buckets, 15 s ticks, 200 label sets          per classic sample\n"
	for _, s := range sendings {
		for _, ticks := range []int{1, 4} {
			snaps := work(s.histogram, sets, ticks)
			requests, err := newEncoder(b, benchOptions(s.histogram)).Encode(s.protocol, snaps...)
			if err != nil {
				b.Fatal(err)
			}
			ours, theirs := 0, 0
			for _, r := range requests {
				ours += len(r.Body)
			}
			n := newNaive(s.protocol, s.histogram, snaps[0])
			for _, snap := range snaps {
				theirs += len(n.body([]*latency.Snapshot{snap}))
			}
			each := float64(sets * ticks)
			text += fmt.Sprintf("  %-16s %d ticks in a request  %8.1f   naive, one tick: %8.1f   %6.2f   naive: %6.2f\n", s.name, ticks,
				float64(ours)/each, float64(theirs)/each, float64(ours)/each/lines, float64(theirs)/each/lines)
			if ticks == 4 {
				b.ReportMetric(float64(ours)/each/lines, s.name+"-bytes/sample")
			}
		}
	}
	fmt.Print(text)
}

func report(b *testing.B, requests []promwire.Request, ticks int) {
	size := 0
	for _, r := range requests {
		size += len(r.Body)
	}
	b.ReportMetric(float64(len(requests)), "requests")
	b.ReportMetric(float64(size)/float64(1_000*ticks), "wire-bytes/histogram")
}
