package promwire_test

import (
	"fmt"
	"testing"

	"github.com/golang/snappy"
	"github.com/prometheus/prometheus/prompb"

	"github.com/latpush/latpush/internal/latency"
	"github.com/latpush/latpush/internal/promwire"
)

var benchLabels = []promwire.Label{{"instance", "edge-0001.paris-3.example"}, {"job", "latpush"}, {"site", "paris-3"}}

// BenchmarkEncode encodes ticks of 1,000 label sets of 27 buckets, as one and as four ticks in a call.
func BenchmarkEncode(b *testing.B) {
	for _, ticks := range []int{1, 4} {
		b.Run(fmt.Sprintf("ticks=%d", ticks), func(b *testing.B) {
			e := newEncoder(b, promwire.Options{Labels: benchLabels})
			var snaps []*latency.Snapshot
			for i := range ticks {
				snaps = append(snaps, manySets(t0+15_000*int64(i), 1_000))
			}
			requests, err := e.Encode(snaps...) // fills the cache
			if err != nil {
				b.Fatal(err)
			}
			b.ReportAllocs()
			for b.Loop() {
				if requests, err = e.Encode(snaps...); err != nil {
					b.Fatal(err)
				}
			}
			report(b, requests)
		})
	}
}

// BenchmarkMarshal is the baseline: the prompb messages of the same tick, already filled, marshalled into a buffer that is reused.
func BenchmarkMarshal(b *testing.B) {
	requests, err := newEncoder(b, promwire.Options{Labels: benchLabels}).Encode(manySets(t0, 1_000))
	if err != nil {
		b.Fatal(err)
	}
	var messages []*prompb.WriteRequest
	for _, r := range requests {
		messages = append(messages, decode(b, r))
	}
	raw, block := make([]byte, 1<<20), make([]byte, 2<<20)
	b.ReportAllocs()
	for b.Loop() {
		for i, m := range messages {
			n, err := m.MarshalToSizedBuffer(raw[:m.Size()])
			if err != nil {
				b.Fatal(err)
			}
			requests[i].Body = append(requests[i].Body[:0], snappy.Encode(block, raw[:n])...)
		}
	}
	report(b, requests)
}

func report(b *testing.B, requests []promwire.Request) {
	samples, size := 0, 0
	for _, r := range requests {
		samples += r.Samples
		size += len(r.Body)
	}
	b.ReportMetric(float64(len(requests)), "requests")
	b.ReportMetric(float64(size)/float64(samples), "wire-bytes/sample")
}
