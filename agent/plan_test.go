package agent

import (
	"reflect"
	"testing"

	"github.com/latpush/latpush/agent/config"
	"github.com/latpush/latpush/agent/identity"
	"github.com/latpush/latpush/internal/kernel"
	"github.com/latpush/latpush/internal/promwire"
)

// What a source says about its histograms reaches the encoder of each receiver, unless the receiver takes none that are native.
func TestHistogramsReachTheEncoder(t *testing.T) {
	t.Parallel()
	loaded := &config.Config{
		Sources: config.Sources{
			{Name: "softirq", Histogram: kernel.Custom}, {Name: "runqueue", Histogram: kernel.Exponential}, {Name: "nfs", Histogram: kernel.Classic},
		},
	}
	one, two, three := receiverNamed("one"), receiverNamed("two"), receiverNamed("three")
	two.ProtobufMessage = promwire.V2
	three.SendNativeHistograms = false
	loaded.RemoteWrite = append(loaded.RemoteWrite, one, two, three)
	type wanted struct{ nativeInV1, noNative bool }
	want := []wanted{{nativeInV1: true}, {}, {noNative: true}}
	for i, p := range plans(loaded) {
		o := p.wire()
		for metric, form := range map[string]promwire.Histogram{
			"softirq_latency_seconds": promwire.Custom, "softirq_service_seconds": promwire.Custom, "run_queue_latency_seconds": promwire.Exponential,
			"nfs_latency_seconds": promwire.Classic, "of_a_source_that_is_gone_seconds": promwire.Classic,
		} {
			if got := o.Histograms(metric); got != form {
				t.Errorf("receiver %s sends %s as %s, want %s", p.Config.Name, metric, got, form)
			}
		}
		if got := (wanted{o.NativeInV1, o.NoNative}); got != want[i] {
			t.Errorf("receiver %s: %+v, want %+v", p.Config.Name, got, want[i])
		}
		if err := o.Validate(); err != nil {
			t.Errorf("receiver %s: %v", p.Config.Name, err)
		}
	}
}

// A reload touches a receiver only if something about it has changed, and the same file read again is no change.
func TestPlansOfTheSameFileAreEqual(t *testing.T) {
	t.Parallel()
	read := func() []plan {
		t.Helper()
		loaded, err := config.Load("../deploy/latpush.yml", identity.Host{Name: "edge-1"})
		if err != nil {
			t.Fatal(err)
		}
		return plans(loaded)
	}
	if first, second := read(), read(); !reflect.DeepEqual(first, second) {
		t.Errorf("two readings differ: %+v, %+v", first, second)
	}
}
