package agent

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	commonconfig "github.com/prometheus/common/config"
	"github.com/prometheus/common/model"

	"github.com/latpush/latpush/agent/config"
	"github.com/latpush/latpush/agent/identity"
	"github.com/latpush/latpush/agent/sender"
	"github.com/latpush/latpush/agent/telemetry"
	"github.com/latpush/latpush/internal/kernel"
	"github.com/latpush/latpush/internal/latency"
	"github.com/latpush/latpush/internal/promwire"
	"github.com/latpush/latpush/internal/spool"
	"github.com/latpush/latpush/internal/spool/quarantine"
	"github.com/latpush/latpush/internal/upload"
)

// journal records what the rooms were asked for, in order.
type journal struct {
	mu     sync.Mutex
	events []string
}

func (j *journal) note(parts ...string) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.events = append(j.events, strings.Join(parts, " "))
}

// since returns the events from the last one of the given name on.
func (j *journal) since(event string) []string {
	j.mu.Lock()
	defer j.mu.Unlock()
	for i := len(j.events) - 1; i >= 0; i-- {
		if j.events[i] == event {
			return slices.Clone(j.events[i:])
		}
	}
	return nil
}

func (j *journal) count(event string) int {
	j.mu.Lock()
	defer j.mu.Unlock()
	n := 0
	for _, e := range j.events {
		if e == event {
			n++
		}
	}
	return n
}

// bubbleClock is the clock of a synctest bubble: CLOCK_BOOTTIME is the time since it was made, and what it was moved by. The wall clock is 26 years
// ahead of the bubble's, in which latpush cannot have run.
type bubbleClock struct {
	begin time.Time
	mu    sync.Mutex
	ahead time.Duration
}

func (c *bubbleClock) Now() latency.Instant {
	c.mu.Lock()
	defer c.mu.Unlock()
	return latency.Instant{Boottime: time.Since(c.begin) + c.ahead, Wall: time.Now().AddDate(26, 0, 0)}
}

// suspend lets time pass that timers do not see.
func (c *bubbleClock) suspend(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.ahead += d
}

// rooms are the rooms of a test: a real spool and encoder, a kernel and receivers in memory.
type rooms struct {
	*journal
	t *testing.T

	mu        sync.Mutex
	snapshots []*latency.Snapshot // that were appended
	readTime  time.Duration       // how long the next reading of the kernel takes
	readErr   error
	appendErr error
	openErr   map[string]error // by room: "spool", "client", "kernel"
	configs   []kernel.SourceConfig
	needs     []kernel.Need                                                     // of capabilities
	refusal   error                                                             // of CanReconfigure
	deliver   func(ctx context.Context, receiver string) (upload.Answer, error) // nil: accept everything
}

func (r *rooms) set(change func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	change()
}

func (r *rooms) appended() []*latency.Snapshot {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.snapshots)
}

func (r *rooms) OpenKernel(_ context.Context, configs []kernel.SourceConfig, _ string) (Kernel, error) {
	r.note("open kernel")
	if err := r.openErr["kernel"]; err != nil {
		return nil, err
	}
	r.configs = configs
	return (*fakeKernel)(r), nil
}

func (r *rooms) OpenSpool(o spool.Options) (Spool, error) {
	r.note("open spool")
	if err := r.openErr["spool"]; err != nil {
		return nil, err
	}
	opened, err := spool.Open(o, nil, nil)
	if err != nil {
		return nil, err
	}
	return &fakeSpool{Spool: opened, rooms: r}, nil
}

func (r *rooms) OpenQuarantine(directory string, maxBytes int64) (Quarantine, error) {
	if err := r.openErr["quarantine"]; err != nil {
		return nil, err
	}
	return quarantine.Open(directory, maxBytes, slog.New(slog.DiscardHandler), nil)
}

func (r *rooms) NewEncoder(o promwire.Options) (sender.Encoder, error) { return promwire.NewEncoder(o) }

func (r *rooms) NewClient(c upload.Config) (Client, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if err := r.openErr["client"]; err != nil {
		return nil, err
	}
	r.note("new client", c.Name)
	return &fakeClient{rooms: r, name: c.Name}, nil
}

// fakeKernel counts one event more in each reading.
type fakeKernel rooms

func (k *fakeKernel) Read() ([]kernel.Sample, []kernel.Loss, error) {
	k.note("read")
	k.mu.Lock()
	took, err := k.readTime, k.readErr
	k.readTime = 0
	k.mu.Unlock()
	time.Sleep(took)
	metric := &kernel.Metric{Name: "nfs_latency_seconds", Help: "Some.", Labels: []string{"operation"}, Bounds: []uint64{1000}}
	sample := kernel.Sample{Metric: metric, Values: []string{"read"}, SumNanoseconds: 500, Counts: []uint64{uint64(k.count("read")), 0}}
	return []kernel.Sample{sample}, []kernel.Loss{{Source: "nfs", Reason: "no_start", Events: 2}}, err
}

func (k *fakeKernel) Sources() []kernel.Status {
	return []kernel.Status{{
		Source: "nfs", Metrics: []string{"nfs_latency_seconds"}, Loaded: time.Second,
		Hooks: []kernel.HookStatus{{Name: "nfs_file_read", How: kernel.Fentry}},
	}}
}

func (k *fakeKernel) Reconfigure(_ context.Context, configs []kernel.SourceConfig) error {
	k.note("reconfigure")
	(*rooms)(k).set(func() { k.configs = configs })
	return nil
}

func (k *fakeKernel) CanReconfigure([]kernel.SourceConfig) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.refusal
}

func (k *fakeKernel) Needs() []kernel.Need {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.needs
}

func (k *fakeKernel) Close() error {
	k.note("close kernel")
	return nil
}

// fakeSpool is a real spool that notes what is asked of it and fails when it is told to.
type fakeSpool struct {
	*spool.Spool
	rooms *rooms
}

func (s *fakeSpool) Append(snapshot *latency.Snapshot) error {
	s.rooms.mu.Lock()
	defer s.rooms.mu.Unlock()
	s.rooms.note("append")
	if s.rooms.appendErr != nil {
		return s.rooms.appendErr
	}
	s.rooms.snapshots = append(s.rooms.snapshots, snapshot)
	return s.Spool.Append(snapshot)
}

func (s *fakeSpool) Reader(name string) (Cursor, error) {
	reader, err := s.Spool.Reader(name)
	return &fakeCursor{Reader: reader, rooms: s.rooms, name: name}, err
}

func (s *fakeSpool) Forget(name string) error {
	s.rooms.note("forget", name)
	return s.Spool.Forget(name)
}

func (s *fakeSpool) Close() error {
	s.rooms.note("close spool")
	return s.Spool.Close()
}

type fakeCursor struct {
	*spool.Reader
	rooms *rooms
	name  string
}

func (c *fakeCursor) Commit(p spool.Position, state []byte) error {
	c.rooms.note("commit", c.name)
	return c.Reader.Commit(p, state)
}

type fakeClient struct {
	rooms *rooms
	name  string
}

func (c *fakeClient) Send(ctx context.Context, r promwire.Request) upload.Answer {
	answer, _ := c.Deliver(ctx, r, 0, nil)
	return answer
}

func (c *fakeClient) Refuse(promwire.Request, upload.Answer) {}

func (c *fakeClient) Bytes(r promwire.Request) int { return len(r.Body) }

func (c *fakeClient) Transferred() int64 { return 0 }

func (c *fakeClient) Deliver(ctx context.Context, _ promwire.Request, _ time.Duration, _ func(context.Context) error) (upload.Answer, error) {
	c.rooms.note("deliver", c.name)
	c.rooms.mu.Lock()
	deliver := c.rooms.deliver
	c.rooms.mu.Unlock()
	if deliver != nil {
		return deliver(ctx, c.name)
	}
	return upload.Answer{Verdict: upload.Accepted, Status: 204}, nil
}

func (c *fakeClient) Close() { c.rooms.note("close client", c.name) }

// stand is an agent with everything around it, in a bubble.
type stand struct {
	t       *testing.T
	rooms   *rooms
	clock   *bubbleClock
	metrics *telemetry.Metrics
	log     *bytes.Buffer
	loaded  *config.Config
	loadErr error

	agent   *Agent
	stop    context.CancelFunc
	reloads chan struct{}
	done    chan error
}

const testInterval = 10 * time.Second

func newStand(t *testing.T) *stand {
	t.Helper()
	s := &stand{
		t: t, clock: &bubbleClock{begin: time.Now()}, metrics: telemetry.New(0), log: new(bytes.Buffer),
		rooms: &rooms{journal: new(journal), t: t, openErr: make(map[string]error)},
		loaded: &config.Config{
			Interval: model.Duration(testInterval), ShutdownTimeout: model.Duration(7 * time.Second),
			ExternalLabels: map[string]string{"job": "latpush", "instance": "edge-1"},
			Sources:        []kernel.SourceConfig{{Name: "nfs"}},
			RemoteWrite:    []upload.Config{receiverNamed("main")},
			Spool:          config.Spool{Options: spool.Options{Directory: t.TempDir(), Fsync: spool.FsyncNever}},
		},
	}
	return s
}

// receiverNamed is the configuration of a receiver that is sent samples and nothing else.
func receiverNamed(name string) upload.Config {
	c := upload.DefaultConfig()
	c.MetadataConfig.Send, c.StaleMarkers = false, false
	c.Name = name
	c.URL = &commonconfig.URL{URL: &url.URL{Scheme: "http", Host: name + ".example"}}
	return c
}

func (s *stand) open() error {
	var err error
	s.agent, err = New(s.t.Context(), Options{
		Load:  func() (*config.Config, error) { return s.loaded, s.loadErr },
		Host:  identity.Host{Name: "edge-1"},
		Clock: s.clock, Rooms: s.rooms, Metrics: s.metrics, Log: slog.New(slog.NewTextHandler(s.log, nil)),
	})
	return err
}

// run opens the agent and starts its loop.
func (s *stand) run() {
	s.t.Helper()
	if err := s.open(); err != nil {
		s.t.Fatal(err)
	}
	s.start()
}

// start starts the loop of an agent that is open.
func (s *stand) start() {
	ctx, cancel := context.WithCancel(s.t.Context())
	s.stop, s.reloads, s.done = cancel, make(chan struct{}), make(chan error, 1)
	go func() { s.done <- s.agent.Run(ctx, s.reloads) }()
}

// at goes on to a moment on CLOCK_BOOTTIME and waits until everything that is due then is done.
func (s *stand) at(boottime time.Duration) {
	s.t.Helper()
	time.Sleep(boottime - s.clock.Now().Boottime)
	synctest.Wait()
}

// tickAt is the moment of the n-th deadline, from 0.
func (s *stand) tickAt(n int) time.Duration {
	return s.agent.schedule.Phase() + time.Duration(n)*testInterval
}

// reload takes over a changed copy of the configuration.
func (s *stand) reload(change func(c *config.Config)) {
	c := *s.loaded
	c.RemoteWrite, c.Sources = slices.Clone(c.RemoteWrite), slices.Clone(c.Sources)
	change(&c)
	s.loaded = &c
	s.reloads <- struct{}{}
	synctest.Wait()
}

func (s *stand) end() {
	s.t.Helper()
	s.stop()
	if err := <-s.done; err != nil {
		s.t.Errorf("Run returned %v", err)
	}
}

// value returns the value of one of the agent's own metrics; labels select by their values in order.
func (s *stand) value(name string, labels ...string) float64 {
	s.t.Helper()
	families, err := s.metrics.Families()
	if err != nil {
		s.t.Fatal(err)
	}
	for _, family := range families {
		for _, series := range family.Series {
			if family.Name == name && (len(labels) == 0 || slices.Equal(series.LabelValues, labels)) {
				return series.Value
			}
		}
	}
	s.t.Errorf("there is no metric %s %v", name, labels)
	return 0
}

func (s *stand) wantLogged(times int, text string) {
	s.t.Helper()
	if got := strings.Count(s.log.String(), text); got != times {
		s.t.Errorf("%q is logged %d times, want %d:\n%s", text, got, times, s.log)
	}
}

// hang never answers.
func hang(ctx context.Context, _ string) (upload.Answer, error) {
	<-ctx.Done()
	return upload.Answer{}, ctx.Err()
}

var errTest = errors.New("input/output error")
