package promwire_test

import (
	"testing"

	"github.com/latpush/latpush/internal/latency"
	"github.com/latpush/latpush/internal/promwire"
)

func TestRelabel(t *testing.T) {
	t.Parallel()
	f := histogram([]uint64{1_000, 2_000}, func(i int, s *latency.Series) { s.Counts[i] = 5 }, "read", "write")
	for _, c := range []struct {
		name, rules string
		histogram   promwire.Histogram
		want        received
		natives     []string
	}{
		{
			name:  "a bucket is dropped",
			rules: "- {source_labels: [operation, le], regex: 'read;2e-06', action: drop}\n- {source_labels: [operation], regex: write, action: drop}",
			want: received{
				`nfs_latency_seconds_bucket{le="1e-06",operation="read"}`: {{t0, 5}}, `nfs_latency_seconds_bucket{le="+Inf",operation="read"}`: {{t0, 5}},
				`nfs_latency_seconds_count{operation="read"}`: {{t0, 5}}, `nfs_latency_seconds_sum{operation="read"}`: {{t0, 0}},
			},
		},
		{name: "all is dropped", rules: "- {source_labels: [job], regex: latpush, action: drop}", want: received{}},
		{
			name:  "le is dropped: the first of the equal lines is sent, the others are not",
			rules: "- {regex: le|job, action: labeldrop}\n- {source_labels: [operation, __name__], regex: 'read;.*_bucket', action: keep}",
			want:  received{`nfs_latency_seconds_bucket{operation="read"}`: {{t0, 5}}},
		},
		{
			name:  "label sets are made equal: the first one is sent",
			rules: "- {regex: operation|job, action: labeldrop}\n- {source_labels: [le, __name__], regex: '(1e-06|);nfs.*', action: keep}",
			want: received{
				`nfs_latency_seconds_bucket{le="1e-06"}`: {{t0, 5}}, `nfs_latency_seconds_count{}`: {{t0, 5}}, `nfs_latency_seconds_sum{}`: {{t0, 0}},
			},
		},
		{name: "no name is left", rules: "- {target_label: __name__, replacement: ''}", want: received{}},
		{
			name: "native", histogram: promwire.Custom, want: received{}, natives: []string{`nfs{job="latpush",operation="read"}`, `nfs{job="latpush",operation="write"}`},
			rules: "- {source_labels: [__name__], regex: '(nfs)_.*', target_label: __name__}",
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			for _, p := range []promwire.Protocol{promwire.V1, promwire.V2} {
				if c.natives != nil && p == promwire.V1 {
					continue
				}
				all := rules(c.rules)
				if c.natives == nil && c.name == "a bucket is dropped" {
					all = append(all, rules("- {regex: job, action: labeldrop}")...)
				}
				e := newEncoder(t, promwire.Options{
					Labels: []promwire.Label{{"job", "latpush"}}, Relabel: all, StaleMarkers: true, Metadata: true,
					Histograms: func(string) promwire.Histogram { return c.histogram },
				})
				for range 2 { // the second time from the cache
					got := encode(t, e, p, snapshot(t0, f))
					wantReceived(t, got.samples, c.want)
					if len(got.histograms) != len(c.natives) {
						t.Errorf("native histograms %v, want %v", got.histograms, c.natives)
					}
					for _, name := range c.natives {
						if len(got.histograms[name]) != 1 {
							t.Errorf("no %s in %v", name, got.histograms)
						}
					}
					e.Accept()
				}
			}
		})
	}
}

// When the line that holds a series ends, it ends the series; then the line that was kept back has it.
func TestRelabelledSeriesChangesHands(t *testing.T) {
	t.Parallel()
	e := newEncoder(t, promwire.Options{Relabel: rules("- {regex: l, action: labeldrop}"), StaleMarkers: true})
	at := func(ms int64, values ...string) stored {
		f := gauge("g", []string{"l"})
		for _, v := range values {
			f.Series = append(f.Series, latency.Series{LabelValues: []string{v}, Value: float64(v[0])})
		}
		got := encode(t, e, promwire.V2, snapshot(t0+ms, f))
		e.Accept()
		return got
	}
	wantReceived(t, at(0, "a", "b").samples, received{"g{}": {{t0, 'a'}}})
	wantReceived(t, at(1, "b").samples, received{"g{}": {{t0 + 1, stale}}})
	wantReceived(t, at(2, "b").samples, received{"g{}": {{t0 + 2, 'b'}}})
	wantReceived(t, at(3, "a", "b").samples, received{"g{}": {{t0 + 3, 'b'}}}) // in order of appearance, b was first
	wantReceived(t, at(4).samples, received{"g{}": {{t0 + 4, stale}}})
}

// One byte that is no UTF-8 makes a receiver refuse the whole request, so the rules cannot bring it in.
func TestRelabelToNoUTF8(t *testing.T) {
	t.Parallel()
	rule := rules("- {source_labels: [operation], regex: read, target_label: x, replacement: y}")
	rule[0].Replacement = "\xff"
	e := newEncoder(t, promwire.Options{Relabel: rule})
	got := encode(t, e, promwire.V2, snapshot(t0, gauge("g", []string{"operation"}, []string{"read"}, []string{"write"})))
	wantReceived(t, got.samples, received{`g{operation="write"}`: {{t0, 2}}})
}
