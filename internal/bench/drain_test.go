package bench

import (
	"bytes"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/alecthomas/units"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"

	"github.com/latpush/latpush/internal/endtoend/rig"
	"github.com/latpush/latpush/internal/latency"
	"github.com/latpush/latpush/internal/receivers"
	"github.com/latpush/latpush/internal/spool"
)

const (
	dayTicks = 5760
	// tickLines are the samples of one tick as classic lines: 27 buckets, +Inf, _sum and _count of each label set, and two more.
	tickLines = labelSets*30 + 2
)

// BenchmarkDrain prints what it takes to deliver the ticks of a day without a receiver, with 1,000 label sets of which a quarter counts something in each
// tick: by the agent's binary to a receiver that only counts, to the real Prometheus, and beside Prometheus's own agent that carries the same lines.
func BenchmarkDrain(b *testing.B) {
	binary := buildAgent(b)
	directory := filepath.Join(b.TempDir(), "spool")
	size, end := fillDay(b, directory)
	fmt.Printf("\n24 h without a receiver: %d ticks of %d label sets are %.0f MB in the spool\n", dayTicks, labelSets, float64(size)/1e6)
	classic := drain(b, binary, directory, "1.0 classic", "", "classic")
	drain(b, binary, directory, "2.0 classic", v2, "classic")
	drain(b, binary, directory, "2.0 custom", v2, "custom")
	drainToPrometheus(b, binary, directory, end)
	peer := runPeer(b)
	fmt.Printf("  latpush / Prometheus agent, CPU per sample, 1.0 classic: %.2f\n", classic.perSample()/peer.perSample())
}

const v2 = "    protobuf_message: io.prometheus.write.v2.Request\n"

// fillDay fills a spool with the day before this boot, and returns its size in bytes and when the day ended.
func fillDay(b *testing.B, directory string) (size int64, end time.Time) {
	b.Helper()
	s, err := spool.Open(spool.Options{Directory: directory, MaxBytes: 4 * units.GiB, Fsync: spool.FsyncNever}, nil, nil)
	if err != nil {
		b.Fatal(err)
	}
	clock, err := latency.NewSystemClock()
	if err != nil {
		b.Fatal(err)
	}
	now := clock.Now()
	began := now.Wall.Add(-now.Boottime - dayTicks*15*time.Second - time.Minute)
	host := rig.NewHost(rig.HostOptions{Seed: 1, Sets: labelSets, Busy: labelSets / 4, Metric: "syscall_latency_seconds", Began: began})
	for range dayTicks {
		if err := s.Append(host.Tick()); err != nil {
			b.Fatal(err)
		}
	}
	if err := s.Close(); err != nil {
		b.Fatal(err)
	}
	contents, err := spool.Inspect(directory)
	if err != nil {
		b.Fatal(err)
	}
	for _, segment := range contents.Segments {
		size += segment.Bytes
	}
	return size, host.Last().Wall
}

// figures are what a process took to deliver samples.
type figures struct {
	cpu     time.Duration
	samples int64
}

func (f figures) perSample() float64 { return float64(f.cpu.Nanoseconds()) / float64(f.samples) }

// drain lets the agent deliver a copy of the spool, beside its own ticks every 15 s, and prints what that took.
func drain(b *testing.B, binary, directory, name, more, histogram string) figures {
	b.Helper()
	s := newSink(b, rig.Ticks)
	agent := startProcess(b, binary, "run", "--log.level=warn", "--config.file", drainConfig(b, directory, s.url, more, histogram))
	agent.until(time.Minute, func() bool { return s.totals().requests > 0 })
	agent.forgetPeak()
	before := agent.cpu()
	agent.until(10*time.Minute, func() bool { return s.totals().marked >= dayTicks })
	f := figures{agent.cpu() - before, s.totals().samples}
	took, peak, got := time.Since(s.totals().began), agent.peak(), s.totals()
	fmt.Printf("  %-12s %5.1f s CPU, %5.1f s, %6.1f MB in %d requests, %.2f bytes per line, %4.1f MiB resident at most (goal under 40)\n", name,
		f.cpu.Seconds(), took.Seconds(), float64(got.bytes)/1e6, got.requests, float64(got.bytes)/(dayTicks*tickLines), peak)
	agent.stop()
	return f
}

// drainConfig writes the configuration of an agent with a copy of the spool.
func drainConfig(b *testing.B, directory, url, more, histogram string) string {
	b.Helper()
	folder := b.TempDir()
	if err := os.CopyFS(filepath.Join(folder, "spool"), os.DirFS(directory)); err != nil {
		b.Fatal(err)
	}
	config := filepath.Join(folder, "latpush.yml")
	text := fmt.Sprintf("histogram: %s\nsources: [{name: syscalls, allow: [mq_getsetattr]}]\n"+
		"remote_write:\n  - url: %s\n%sspool: {directory: %s, max_size: 4GiB}\n", histogram, url, more, filepath.Join(folder, "spool"))
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		b.Fatal(err)
	}
	return config
}

// drainToPrometheus delivers the day to the real Prometheus, as native histograms with custom bounds, and has it count them.
func drainToPrometheus(b *testing.B, binary, directory string, end time.Time) {
	b.Helper()
	server := receivers.Start(b, receivers.Prometheus, receivers.Options{OutOfOrderWindow: time.Since(end) + 48*time.Hour})
	begun := time.Now()
	agent := startProcess(b, binary, "run", "--log.level=warn", "--config.file", drainConfig(b, directory, server.WriteURL(), v2, "custom"))
	query := func(text string) float64 {
		value, _, _, err := server.API.Query(b.Context(), text, end)
		vector, ok := value.(model.Vector)
		if err != nil || !ok || len(vector) != 1 {
			return 0
		}
		return float64(vector[0].Value)
	}
	agent.until(10*time.Minute, func() bool { return query(`count_over_time(work_ticks[25h])`) == dayTicks })
	took := time.Since(begun)
	stored := query(`sum(count_over_time(syscall_latency_seconds{operation=~"operation-.*"}[25h]))`)
	if stored != dayTicks*labelSets {
		b.Errorf("Prometheus has %v histograms, want %d", stored, dayTicks*labelSets)
	}
	fmt.Printf("  2.0 custom to Prometheus 3.16: all %.0f histograms are there after %.1f s\n", stored, took.Seconds())
	agent.stop()
	server.Stop()
}

// runPeer lets Prometheus in agent mode scrape the same lines and send them on, for as many ticks as take half a minute, and prints what that took.
func runPeer(b *testing.B) figures {
	b.Helper()
	path, err := receivers.Prometheus.Path(b.Context())
	if err != nil {
		b.Skip(err)
	}
	s := newSink(b, rig.Ticks)
	host := rig.NewHost(rig.HostOptions{Seed: 1, Sets: labelSets, Busy: labelSets / 4, Began: time.Now()})
	var mu sync.Mutex // the host is for one scrape at a time
	target := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		w.Header().Set("Content-Type", string(expfmt.NewFormat(expfmt.TypeTextPlain)))
		_, _ = w.Write(exposition(host.Tick()))
	}))
	defer target.Close()
	folder := b.TempDir()
	config := filepath.Join(folder, "prometheus.yml")
	text := fmt.Sprintf("scrape_configs: [{job_name: peer, scrape_interval: 250ms, scrape_timeout: 250ms, static_configs: [{targets: [%q]}]}]\nremote_write: [{url: %q}]\n",
		target.Listener.Addr(), s.url)
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		b.Fatal(err)
	}
	agent := startProcess(b, path, "--agent", "--config.file="+config, "--storage.agent.path="+filepath.Join(folder, "data"),
		"--web.listen-address="+receivers.FreeAddress(b), "--log.level=error")
	const warm, ticks = 20, 100
	agent.until(2*time.Minute, func() bool { return s.totals().marked >= warm })
	before, first := agent.cpu(), s.totals()
	agent.forgetPeak()
	agent.until(5*time.Minute, func() bool { return s.totals().marked >= warm+ticks })
	got := s.totals()
	f := figures{agent.cpu() - before, got.samples - first.samples}
	fmt.Printf("  Prometheus 3.16 agent, scraping the same lines and sending 1.0: %.1f s CPU for %.1f million samples (a day has %.0f), %.2f bytes per line,"+
		" %.0f MiB resident at most\n",
		f.cpu.Seconds(), float64(f.samples)/1e6, float64(dayTicks*tickLines)/1e6, float64(got.bytes-first.bytes)/float64(f.samples), agent.peak())
	agent.stop()
	return f
}

// exposition writes a snapshot as an exporter shows it.
func exposition(s *latency.Snapshot) []byte {
	var page bytes.Buffer
	for i := range s.Families {
		f := &s.Families[i]
		for j := range f.Series {
			series := &f.Series[j]
			if f.Kind != latency.Histogram {
				fmt.Fprintf(&page, "%s %v\n", f.Name, series.Value)
				continue
			}
			cumulative := uint64(0)
			for k, count := range series.Counts {
				le := "+Inf"
				if k < len(f.Bounds) {
					le = latency.LE(f.Bounds[k])
				}
				cumulative += count
				fmt.Fprintf(&page, "%s_bucket{operation=%q,le=%q} %d\n", f.Name, series.LabelValues[0], le, cumulative)
			}
			fmt.Fprintf(&page, "%s_sum{operation=%q} %v\n", f.Name, series.LabelValues[0], latency.Seconds(series.Sum))
			fmt.Fprintf(&page, "%s_count{operation=%q} %d\n", f.Name, series.LabelValues[0], cumulative)
		}
	}
	return page.Bytes()
}
