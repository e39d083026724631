package promwire_test

import (
	"bytes"
	"fmt"
	"math"
	"slices"
	"testing"
	"time"

	"github.com/latpush/latpush/internal/latency"
	"github.com/latpush/latpush/internal/promwire"
)

var stale = math.Float64frombits(0x7ff0000000000002)

// encode encodes and gives what arrives.
func encode(t *testing.T, e *promwire.Encoder, p promwire.Protocol, snaps ...*latency.Snapshot) stored {
	t.Helper()
	requests, err := e.Encode(p, snaps...)
	if err != nil {
		t.Fatal(err)
	}
	return receiveAll(t, requests)
}

func TestStaleMarkers(t *testing.T) {
	t.Parallel()
	at := func(ms int64, values ...string) *latency.Snapshot {
		f := gauge("g", []string{"l"})
		for _, v := range values {
			f.Series = append(f.Series, latency.Series{LabelValues: []string{v}, Value: 1})
		}
		return snapshot(t0+ms, f)
	}
	without := func(ms int64) *latency.Snapshot { return snapshot(t0 + ms) }
	for _, c := range []struct {
		name     string
		accepted []*latency.Snapshot // encoded and accepted first
		snaps    []*latency.Snapshot
		want     received
	}{
		{"nothing ends", []*latency.Snapshot{at(0, "a")}, []*latency.Snapshot{at(1, "a")}, received{`g{l="a"}`: {{t0 + 1, 1}}}},
		{"one ends", []*latency.Snapshot{at(0, "a", "b")}, []*latency.Snapshot{at(1, "a")}, received{`g{l="a"}`: {{t0 + 1, 1}}, `g{l="b"}`: {{t0 + 1, stale}}}},
		{"the family ends", []*latency.Snapshot{at(0, "a")}, []*latency.Snapshot{without(1), without(2)}, received{`g{l="a"}`: {{t0 + 1, stale}}}},
		{"one comes back", []*latency.Snapshot{at(0, "a")}, []*latency.Snapshot{without(1), at(2, "a")}, received{`g{l="a"}`: {{t0 + 1, stale}, {t0 + 2, 1}}}},
		{"within a call", nil, []*latency.Snapshot{at(1, "a"), at(2), at(3), at(4, "a")}, received{`g{l="a"}`: {{t0 + 1, 1}, {t0 + 2, stale}, {t0 + 4, 1}}}},
		{"two at one millisecond are one state", nil, []*latency.Snapshot{at(1, "a"), at(1, "b")}, received{`g{l="a"}`: {{t0 + 1, 1}}, `g{l="b"}`: {{t0 + 1, 1}}}},
		{"only the last accepted snapshot counts", []*latency.Snapshot{at(0, "a"), at(1, "b")}, []*latency.Snapshot{at(2, "b")}, received{`g{l="b"}`: {{t0 + 2, 1}}}},
		{"nothing was accepted", nil, []*latency.Snapshot{at(1)}, received{}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			for _, p := range []promwire.Protocol{promwire.V1, promwire.V2} {
				e := newEncoder(t, promwire.Options{StaleMarkers: true})
				if c.accepted != nil {
					encode(t, e, p, c.accepted...)
					e.Accept()
				}
				for range 2 { // until it is accepted, it is said again
					wantReceived(t, encode(t, e, p, c.snaps...).samples, c.want)
				}
				quiet := newEncoder(t, promwire.Options{})
				encode(t, quiet, p, c.accepted...)
				quiet.Accept()
				for series, samples := range encode(t, quiet, p, c.snaps...).samples {
					if slices.ContainsFunc(samples, func(s sample) bool { return math.IsNaN(s.value) }) {
						t.Errorf("markers in %s without being asked for", series)
					}
				}
			}
		})
	}
}

// A stale marker ends only what ends: when a histogram's bounds change, _sum and _count go on.
func TestStaleMarkersOfAChangeOfBounds(t *testing.T) {
	t.Parallel()
	at := func(ms int64, bounds []uint64, operations ...string) *latency.Snapshot {
		return snapshot(t0+ms, histogram(bounds, func(_ int, s *latency.Series) { s.Counts[0] = 1 }, operations...))
	}
	for _, withRules := range []bool{false, true} {
		o := promwire.Options{StaleMarkers: true}
		if withRules {
			o.Relabel = rules("- {source_labels: [__name__], regex: nothing, action: drop}")
		}
		e := newEncoder(t, o)
		encode(t, e, promwire.V1, at(0, []uint64{1_000, 2_000}, "read", "write"))
		e.Accept()
		for range 2 {
			wantReceived(t, encode(t, e, promwire.V1, at(1, []uint64{1_000}, "read")).samples, received{
				`nfs_latency_seconds_bucket{le="1e-06",operation="read"}`:  {{t0 + 1, 1}},
				`nfs_latency_seconds_bucket{le="2e-06",operation="read"}`:  {{t0 + 1, stale}},
				`nfs_latency_seconds_bucket{le="+Inf",operation="read"}`:   {{t0 + 1, 1}},
				`nfs_latency_seconds_count{operation="read"}`:              {{t0 + 1, 1}},
				`nfs_latency_seconds_sum{operation="read"}`:                {{t0 + 1, 0}},
				`nfs_latency_seconds_bucket{le="1e-06",operation="write"}`: {{t0 + 1, stale}},
				`nfs_latency_seconds_bucket{le="2e-06",operation="write"}`: {{t0 + 1, stale}},
				`nfs_latency_seconds_bucket{le="+Inf",operation="write"}`:  {{t0 + 1, stale}},
				`nfs_latency_seconds_count{operation="write"}`:             {{t0 + 1, stale}},
				`nfs_latency_seconds_sum{operation="write"}`:               {{t0 + 1, stale}},
			})
		}
	}
}

func TestStale(t *testing.T) {
	t.Parallel()
	for _, s := range sendings {
		e := newEncoder(t, benchOptions(s.histogram))
		if requests, err := e.Stale(s.protocol, time.UnixMilli(t0)); err != nil || len(requests) > 0 {
			t.Fatalf("%d requests, %v, before anything was accepted", len(requests), err)
		}
		before := encode(t, e, s.protocol, work(s.histogram, 5, 1)...)
		e.Accept()
		for range 2 {
			requests, err := e.Stale(s.protocol, time.UnixMilli(t0+1))
			if err != nil {
				t.Fatal(err)
			}
			after := receiveAll(t, requests)
			if len(after.samples) != len(before.samples) || len(after.histograms) != len(before.histograms) || len(after.samples)+len(after.histograms) == 0 {
				t.Errorf("%s: %d and %d series end of %d and %d", s.name, len(after.samples), len(after.histograms), len(before.samples), len(before.histograms))
			}
			for name, samples := range after.samples {
				if !slices.EqualFunc(samples, []sample{{t0 + 1, stale}}, sameSample) || after.starts[name][0] != 0 {
					t.Errorf("%s: %v", name, samples)
				}
			}
			for name, all := range after.histograms {
				if len(all) != 1 || math.Float64bits(all[0].Sum) != math.Float64bits(stale) || all[0].Count != 0 || all[0].start != 0 || all[0].ms != t0+1 {
					t.Errorf("%s: %v", name, all)
				}
			}
		}
		e.Accept()
		if requests, err := e.Stale(s.protocol, time.UnixMilli(t0+2)); err != nil || len(requests) > 0 {
			t.Errorf("%d requests, %v, when all has ended", len(requests), err)
		}
		if n := e.CachedLabelSets(); n > 0 {
			t.Errorf("%d label sets are kept when all has ended", n)
		}
	}
}

// Until something is accepted, a call has no effect on later ones: after 2.0 was refused, 1.0 says all of it, and byte for byte what a fresh encoder says.
func TestFallbackSaysAll(t *testing.T) {
	t.Parallel()
	o := benchOptions(promwire.Custom)
	o.IdleInterval = time.Hour
	e, snaps := newEncoder(t, o), work(promwire.Custom, 30, 3)
	encode(t, e, promwire.V2, snaps...)
	got, err := e.Encode(promwire.V1, snaps...)
	if err != nil {
		t.Fatal(err)
	}
	want, err := newEncoder(t, o).Encode(promwire.V1, snaps...)
	if err != nil {
		t.Fatal(err)
	}
	if !slices.EqualFunc(got, want, func(a, b promwire.Request) bool { return bytes.Equal(a.Body, b.Body) }) {
		t.Error("the fallback's requests are others than those of a fresh encoder")
	}
	// What was accepted as native histograms is new as lines, idle or not; the native series ends when the label set does.
	e = newEncoder(t, o)
	encode(t, e, promwire.V2, snaps[0])
	e.Accept()
	if n := len(encode(t, e, promwire.V1, snaps[0]).samples); n != 30*30 {
		t.Errorf("%d lines after the fallback", n)
	}
	after := encode(t, e, promwire.V1, snapshot(t0+1))
	if len(after.samples) != 0 || len(after.histograms) != 30 {
		t.Errorf("%d lines and %d native series end", len(after.samples), len(after.histograms))
	}
}

func TestIdle(t *testing.T) {
	t.Parallel()
	at := func(seconds int64, n uint64) *latency.Snapshot {
		return snapshot(t0+1000*seconds, histogram(exp2(1), func(_ int, s *latency.Series) { s.Counts[1] = n }, "read"))
	}
	e := newEncoder(t, promwire.Options{IdleInterval: time.Minute})
	for i, step := range []struct {
		snaps  []*latency.Snapshot
		accept bool
		want   []int64 // seconds
	}{
		{[]*latency.Snapshot{at(0, 1), at(15, 1), at(30, 2), at(45, 2), at(89, 2), at(90, 2)}, false, []int64{0, 30, 90}},
		{[]*latency.Snapshot{at(0, 1), at(15, 1), at(30, 2), at(45, 2)}, true, []int64{0, 30}},
		{[]*latency.Snapshot{at(60, 2), at(89, 2)}, true, nil},
		{[]*latency.Snapshot{at(90, 2)}, false, []int64{90}},
		{[]*latency.Snapshot{at(90, 2), at(100, 3)}, true, []int64{90, 100}},
		{[]*latency.Snapshot{snapshot(t0 + 110_000)}, true, nil},
		{[]*latency.Snapshot{at(120, 3)}, true, []int64{120}}, // it is back
		{[]*latency.Snapshot{at(60, 3)}, true, []int64{60}},   // the clock went back
	} {
		got := encode(t, e, promwire.V2, step.snaps...)
		if n := len(got.samples); n != 4 && step.want != nil || n != 0 && step.want == nil {
			t.Errorf("step %d: %d lines", i, n)
		}
		for name, samples := range got.samples {
			var seconds []int64
			for _, s := range samples {
				seconds = append(seconds, (s.ms-t0)/1000)
			}
			if !slices.Equal(seconds, step.want) {
				t.Errorf("step %d: %s at %v, want %v", i, name, seconds, step.want)
			}
		}
		if step.accept {
			e.Accept()
		}
	}
}

// A gauge is sent when it goes up from 0 and when it goes back, whatever the interval.
func TestIdleGauges(t *testing.T) {
	t.Parallel()
	e := newEncoder(t, promwire.Options{IdleInterval: time.Hour})
	for i, step := range []struct {
		value float64
		sent  bool
	}{{0, true}, {0, false}, {0.5, true}, {0.5, false}, {15.5, true}, {0, true}, {0, false}} {
		f := gauge("nfs_inflight_oldest_seconds", nil, nil)
		f.Series[0].Value = step.value
		want := received{}
		if step.sent {
			want["nfs_inflight_oldest_seconds{}"] = []sample{{t0 + int64(i), step.value}}
		}
		wantReceived(t, encode(t, e, promwire.V1, snapshot(t0+int64(i), f)).samples, want)
		e.Accept()
	}
}

// The same total and sum in other buckets is a change.
func TestIdleComparesBuckets(t *testing.T) {
	t.Parallel()
	e := newEncoder(t, promwire.Options{IdleInterval: time.Hour})
	for i := range 3 {
		got := encode(t, e, promwire.V1, snapshot(t0+int64(i), histogram(exp2(3), func(_ int, s *latency.Series) { s.Counts[i] = 7 }, "read")))
		if len(got.samples) != 6 {
			t.Errorf("tick %d: %d lines", i, len(got.samples))
		}
		e.Accept()
	}
}

func TestStartTimestamps(t *testing.T) {
	t.Parallel()
	type tick struct {
		ms, boottime, start int64 // milliseconds; ms after t0
		boot                byte
		want                int64 // after t0; 0 for none
	}
	for _, c := range []struct {
		name  string
		kind  latency.Kind
		ticks []tick
	}{
		{"counter", latency.Counter, []tick{{0, 5_000, 2_000, 1, -3_000}}},
		{"gauge", latency.Gauge, []tick{{0, 5_000, 2_000, 1, 0}}},
		{"slewing clock", latency.Counter, []tick{{0, 5_000, 0, 1, -5_000}, {1_400, 6_000, 0, 1, -5_000}, {1_900, 7_899, 0, 1, -5_000}}},
		{"stepped clock", latency.Counter, []tick{{0, 5_000, 0, 1, -5_000}, {3_000, 7_000, 0, 1, -4_000}, {5_000, 9_500, 0, 1, -4_000}}},
		{"counting begins again", latency.Counter, []tick{{0, 5_000, 2_000, 1, -3_000}, {1_000, 6_000, 2_100, 1, -2_900}}},
		{"another boot", latency.Counter, []tick{{0, 5_000, 2_000, 1, -3_000}, {1_000, 5_900, 2_000, 2, -2_900}}},
		{"not after the sample", latency.Counter, []tick{{0, 5_000, 5_000, 1, 0}, {1, 5_000, 6_000, 1, 0}}},
	} {
		for _, accept := range []bool{false, true} {
			var snaps []*latency.Snapshot
			var want []int64
			for _, k := range c.ticks {
				s := snapshot(t0+k.ms, latency.Family{Name: "f", Kind: c.kind, Series: []latency.Series{{Start: time.Duration(k.start) * time.Millisecond, Value: 1}}})
				s.Taken.BootID[3], s.Taken.Boottime = k.boot, time.Duration(k.boottime)*time.Millisecond
				snaps = append(snaps, s)
				if k.want != 0 {
					k.want += t0
				}
				want = append(want, k.want)
			}
			e := newEncoder(t, promwire.Options{})
			var got []int64
			if accept {
				for _, s := range snaps {
					got = append(got, encode(t, e, promwire.V2, s).starts["f{}"]...)
					e.Accept()
				}
			} else {
				got = encode(t, e, promwire.V2, snaps...).starts["f{}"]
			}
			if !slices.Equal(got, want) {
				t.Errorf("%s, accepted one by one: %v: got %v, want %v", c.name, accept, got, want)
			}
		}
	}
}

// Symbols, label sets and claims are gone when what used them is.
func TestNothingIsKeptForEver(t *testing.T) {
	t.Parallel()
	for _, o := range []promwire.Options{{Metadata: true, StaleMarkers: true}, {Relabel: rules("- {regex: nothing, action: labeldrop}"), StaleMarkers: true}} {
		e := newEncoder(t, o)
		for i := range int64(50) {
			f := histogram(exp2(3), func(int, *latency.Series) {}, fmt.Sprint("a", i), fmt.Sprint("b", i/7))
			f.Help = fmt.Sprint("Help ", i/3)
			if i%10 == 9 {
				f.Bounds = exp2(2)
				for j := range f.Series {
					f.Series[j].Counts = f.Series[j].Counts[:3]
				}
			}
			encode(t, e, promwire.V2, snapshot(t0+i, f))
			e.Accept()
		}
		if sets, symbols, claims := e.CachedLabelSets(), e.Symbols(), e.Claims(); sets != 2 || symbols > 20 || claims > 12 {
			t.Errorf("%d label sets, %d symbols and %d claims are kept", sets, symbols, claims)
		}
		encode(t, e, promwire.V2, snapshot(t0+60))
		e.Accept()
		encode(t, e, promwire.V2, snapshot(t0+61))
		if families, symbols, claims := e.CachedFamilies(), e.Symbols(), e.Claims(); families+symbols+claims > 0 {
			t.Errorf("%d families, %d symbols and %d claims are kept of nothing", families, symbols, claims)
		}
	}
}
