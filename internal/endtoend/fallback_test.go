package endtoend

import (
	"strings"
	"testing"

	"github.com/latpush/latpush/internal/receivers"
)

// Receivers that swallow remote write 2.0, answering 204 and storing nothing, get everything in 1.0 from the first tick on. After a restart they are not asked
// again.
func TestFallbackToRealReceivers(t *testing.T) {
	if testing.Short() {
		t.Skip("builds receivers")
	}
	for _, p := range []receivers.Program{receivers.DebianPrometheus, receivers.VictoriaMetrics} {
		t.Run(p.String(), func(t *testing.T) {
			s := real(t, p, receivers.Options{})
			f := newFront(t, s.writeURL())
			config := pushConfig(t, t.TempDir(), f.url, "    protobuf_message: io.prometheus.write.v2.Request\n    stale_markers: false\n")
			for life := range 2 {
				a := startAgent(t, config)
				a.waitLog("source is running")
				makeCalls(40 + life)
				s.expectWithin(2*limit, `last_over_time(`+counted+`[5m])`, float64(40+life)) // VictoriaMetrics shows new series after some seconds
				a.stop()
				checkVersions(t, f, 1)
			}
			s.expectWithin(2*limit, `count(last_over_time(syscall_latency_seconds_bucket[5m]))`, 28)
			s.everyTick(2)
			if p == receivers.VictoriaMetrics {
				checkDescribed(t, s)
			}
		})
	}
}

// What the source counts is sent as native histograms with the same bounds, or those of a schema, when the configuration says so.
func TestNativeHistogramsOfSources(t *testing.T) {
	if testing.Short() {
		t.Skip("builds Prometheus")
	}
	url := real(t, receivers.Prometheus, receivers.Options{Features: features()}).url
	for name, histogram := range map[string]string{"custom": "histogram: custom", "exponential": "histogram: exponential"} {
		t.Run(name, func(t *testing.T) {
			s := newServer(t, url)
			folder := t.TempDir()
			sources := strings.TrimSuffix(rareCalls, "\n") + "\n    " + histogram + "\n"
			config := editConfig(t, configFile(t, folder, s.writeURL(), sources), map[string]string{
				"instance: edge-1": "instance: " + name, "    name: main\n": "    name: main\n    protobuf_message: io.prometheus.write.v2.Request\n",
			})
			a := startAgent(t, config)
			a.waitLog("source is running")
			makeCalls(500)
			selector := `syscall_latency_seconds{syscall="mq_getsetattr",instance="` + name + `"}`
			s.expect("histogram_count("+selector+")", 500)
			// Not the median: if all calls take less than the first bound, they are in a bucket around zero, and it is in its middle.
			s.expect("histogram_quantile(0.99, "+selector+") > bool 0", 1)
			s.expect("histogram_quantile(0.99, "+selector+") < bool 0.1", 1)
			a.stop()
			s.expect("histogram_count(last_over_time("+selector+"[5m]))", 500)
		})
	}
}

// checkDescribed demands the metadata of remote write 1.0.
func checkDescribed(t *testing.T, s *server) {
	t.Helper()
	metadata, err := s.api.Metadata(t.Context(), "", "")
	if err != nil {
		t.Fatal(err)
	}
	described := metadata["syscall_latency_seconds"]
	if len(described) != 1 || described[0].Type != "histogram" || described[0].Help == "" || described[0].Unit != "seconds" {
		t.Errorf("syscall_latency_seconds is described as %+v", described)
	}
}
