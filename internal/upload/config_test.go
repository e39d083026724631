package upload_test

import (
	"bytes"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/alecthomas/units"
	"github.com/prometheus/common/config"
	"github.com/prometheus/common/model"
	promconfig "github.com/prometheus/prometheus/config"
	"go.yaml.in/yaml/v3"

	"github.com/latpush/latpush/internal/promwire"
	"github.com/latpush/latpush/internal/upload"
)

// file is the part of an agent's configuration that these tests are about.
type file struct {
	RemoteWrite []upload.Config `yaml:"remote_write"`
}

// decode reads YAML as the agent does.
func decode(text []byte) ([]upload.Config, error) {
	d := yaml.NewDecoder(bytes.NewReader(text))
	d.KnownFields(true)
	var f file
	err := d.Decode(&f)
	return f.RemoteWrite, err
}

func readConfigs(t *testing.T, name string) []upload.Config {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	configs, err := decode(text)
	if err != nil {
		t.Fatal(err)
	}
	return configs
}

func TestConfigDefaults(t *testing.T) {
	t.Parallel()
	configs := readConfigs(t, "minimal.good.yml")
	if len(configs) != 1 {
		t.Fatalf("%d entries", len(configs))
	}
	c := configs[0]
	if err := c.Validate(); err != nil {
		t.Error(err)
	}
	if c.URL.String() != "http://mimir.example:9009/api/v1/push" || c.Receiver() != "mimir.example:9009" {
		t.Errorf("url %s, receiver %s", c.URL, c.Receiver())
	}
	want := upload.DefaultConfig()
	want.URL = c.URL
	if !reflect.DeepEqual(c, want) {
		t.Errorf("got %+v, want the defaults", c.QueueConfig)
	}
	if h := c.HTTPClientConfig; !h.FollowRedirects || !h.EnableHTTP2 || time.Duration(c.RemoteTimeout) != 30*time.Second || !c.QueueConfig.RetryOnRateLimit {
		t.Errorf("follow_redirects %t, enable_http2 %t, remote_timeout %s, retry_on_http_429 %t", h.FollowRedirects, h.EnableHTTP2, c.RemoteTimeout, c.QueueConfig.RetryOnRateLimit)
	}
}

func TestConfigEveryKey(t *testing.T) {
	t.Parallel()
	configs := readConfigs(t, "full.good.yml")
	for i := range configs {
		if err := configs[i].Validate(); err != nil {
			t.Errorf("entry %d: %v", i, err)
		}
	}
	c := configs[0]
	h := c.HTTPClientConfig
	password, _ := h.ProxyURL.User.Password()
	got := []any{
		c.Receiver(), c.RemoteTimeout, c.Headers, h.BasicAuth.Username, h.BasicAuth.Password, h.TLSConfig.ServerName, h.TLSConfig.InsecureSkipVerify, h.FollowRedirects,
		h.EnableHTTP2, password, h.NoProxy, h.ProxyConnectHeader["X-Proxy-Key"], h.HTTPHeaders.Headers["X-Plain"].Values, h.HTTPHeaders.Headers["X-Hidden"].Secrets, c.QueueConfig,
		c.ProtobufMessage, c.SendNativeHistograms, len(c.WriteRelabelConfigs), c.WriteRelabelConfigs[0].Regex.String(), c.WriteRelabelConfigs[1].Replacement,
		c.MetadataConfig, c.PushInterval, c.IdleInterval, c.MaxBytesPerDay, c.MaxBytesPerSecond, c.StaleMarkers, c.QuarantineAfter,
	}
	want := []any{
		"central", model.Duration(90 * time.Second),
		map[string]config.Secret{"X-Scope-OrgID": "site-3", "X-Api-Key": "header-key-1"},
		"edge", config.Secret("basic-password-1"),
		"mimir.internal", true, false,
		false, "proxy-password-1", "10.0.0.0/8",
		[]config.Secret{"proxy-header-1"},
		[]string{"a", "b"},
		[]config.Secret{"hidden-header-1"},
		upload.QueueConfig{
			MaxSamplesPerSend: 500, MinBackoff: model.Duration(250 * time.Millisecond), MaxBackoff: model.Duration(5 * time.Minute),
			BatchSendDeadline: model.Duration(30 * time.Second), SampleAgeLimit: model.Duration(24 * time.Hour),
		},
		promwire.V2, false, 2, "latpush_nfs_.*;(getattr|access)", "paris-3",
		upload.MetadataConfig{SendInterval: model.Duration(10 * time.Minute), MaxSamplesPerSend: 100},
		model.Duration(5 * time.Minute), model.Duration(2 * time.Minute), 50 * units.MiB, 2 * units.KiB, false, model.Duration(0),
	}
	for i := range want {
		if !reflect.DeepEqual(got[i], want[i]) {
			t.Errorf("value %d: got %v, want %v", i, got[i], want[i])
		}
	}
	if a := configs[1].HTTPClientConfig.Authorization; a == nil || a.Type != "Token" || a.Credentials != "bearer-credentials-1" {
		t.Errorf("authorization is %v", a)
	}
	if q := configs[2].QueueConfig; q != upload.DefaultConfig().QueueConfig {
		t.Errorf("an empty queue_config became %v", q)
	}
	if o := configs[3].HTTPClientConfig.OAuth2; o == nil || o.ClientSecret != "client-secret-1" || o.EndpointParams["audience"] != "endpoint-param-1" {
		t.Errorf("oauth2 is %v", o)
	}
}

// What a Prometheus sends to a typical receiver with is taken as it is.
func TestConfigGoodFiles(t *testing.T) {
	t.Parallel()
	paths, err := filepath.Glob(filepath.Join("testdata", "*.good.yml"))
	if err != nil || len(paths) < 7 {
		t.Fatalf("%d files, %v", len(paths), err)
	}
	for _, path := range paths {
		t.Run(filepath.Base(path), func(t *testing.T) {
			t.Parallel()
			for _, c := range readConfigs(t, filepath.Base(path)) {
				if err := c.Validate(); err != nil {
					t.Error(err)
				}
			}
		})
	}
}

// Every key that an entry of Prometheus can have is either latpush's too, or has a sentence of its own.
func TestConfigKnowsPrometheus(t *testing.T) {
	t.Parallel()
	for _, pair := range []struct{ theirs, ours reflect.Type }{
		{reflect.TypeFor[promconfig.RemoteWriteConfig](), reflect.TypeFor[upload.Config]()},
		{reflect.TypeFor[promconfig.QueueConfig](), reflect.TypeFor[upload.QueueConfig]()},
		{reflect.TypeFor[promconfig.MetadataConfig](), reflect.TypeFor[upload.MetadataConfig]()},
	} {
		theirs, ours := keysOf(pair.theirs), keysOf(pair.ours)
		if len(theirs) < 3 {
			t.Fatalf("%s has only the keys %q", pair.theirs, theirs)
		}
		for _, key := range theirs {
			why, foreign := upload.ForeignKey(key)
			if mine := slices.Contains(ours, key); mine == foreign || foreign && why == "" {
				t.Errorf("%s: latpush has it: %t, and says %q", key, mine, why)
			}
		}
		for _, key := range ours {
			if why, foreign := upload.ForeignKey(key); foreign {
				t.Errorf("%s is no key of latpush: %s", key, why)
			}
		}
	}
	if why, foreign := upload.ForeignKey("sigvee"); foreign {
		t.Errorf("sigvee: %s", why)
	}
}

// keysOf gives the YAML keys of a struct's fields.
func keysOf(t reflect.Type) []string {
	var keys []string
	for field := range t.Fields() {
		if key, _, _ := strings.Cut(field.Tag.Get("yaml"), ","); key != "" && key != "-" {
			keys = append(keys, key)
		}
	}
	return keys
}

func TestConfigCollect(t *testing.T) {
	t.Parallel()
	for _, k := range []struct{ push, deadline, interval, want time.Duration }{
		{0, 0, 15 * time.Second, 0},
		{0, 5 * time.Second, 15 * time.Second, 0}, // no other snapshot comes within it
		{0, 15 * time.Second, 15 * time.Second, 15 * time.Second},
		{0, 5 * time.Second, time.Second, 5 * time.Second},
		{5 * time.Minute, 5 * time.Second, time.Second, 5 * time.Minute},
		{time.Minute, 2 * time.Minute, 15 * time.Second, 2 * time.Minute},
	} {
		c := upload.DefaultConfig()
		c.PushInterval, c.QueueConfig.BatchSendDeadline = model.Duration(k.push), model.Duration(k.deadline)
		if got := c.Collect(k.interval); got != k.want {
			t.Errorf("push_interval %s, batch_send_deadline %s, interval %s: got %s, want %s", k.push, k.deadline, k.interval, got, k.want)
		}
	}
}

// Each bad file begins with the errors that it must give, and none of them shows a value that may be a secret.
func TestConfigBadFiles(t *testing.T) {
	t.Parallel()
	paths, err := filepath.Glob(filepath.Join("testdata", "*.bad.yml"))
	if err != nil || len(paths) == 0 {
		t.Fatalf("%d files, %v", len(paths), err)
	}
	for _, path := range paths {
		t.Run(filepath.Base(path), func(t *testing.T) {
			t.Parallel()
			text, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			head, _, _ := strings.Cut(string(text), "\n")
			wants, found := strings.CutPrefix(head, "# want: ")
			if !found {
				t.Fatal("the file does not begin with # want: ")
			}
			_, err = decode(text)
			if err == nil {
				t.Fatal("it was decoded")
			}
			for want := range strings.SplitSeq(wants, "; ") {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("got %q, want %q in it", err, want)
				}
			}
			if strings.Contains(err.Error(), "hush") {
				t.Errorf("a secret is in %q", err)
			}
		})
	}
}

// The aliases and merge keys of YAML do not hide where an error is.
func TestConfigErrorInAlias(t *testing.T) {
	t.Parallel()
	_, err := decode([]byte("remote_write:\n  - url: http://a.example/\n    queue_config: &q\n      min_backoff: 1\n  - url: http://b.example/\n    queue_config: *q\n"))
	if err == nil || !strings.Contains(err.Error(), "line 4: queue_config.min_backoff: ") {
		t.Errorf("got %v", err)
	}
}

// However an entry is written or printed, the secrets in it are not.
func TestConfigShowsNoSecret(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("testdata/full.good.yml")
	if err != nil {
		t.Fatal(err)
	}
	secrets := regexp.MustCompile(`[a-z]+(?:-[a-z]+)+-1\b`).FindAllString(string(text), -1)
	if len(secrets) != 14 {
		t.Fatalf("the file has %d secrets: %q", len(secrets), secrets)
	}
	var shown strings.Builder
	configs := readConfigs(t, "full.good.yml")
	marshalled, err := yaml.Marshal(file{configs})
	if err != nil {
		t.Fatal(err)
	}
	shown.Write(marshalled)
	for _, handler := range []slog.Handler{slog.NewTextHandler(&shown, nil), slog.NewJSONHandler(&shown, nil)} {
		log := slog.New(handler)
		for i := range configs {
			log.Info("an entry", "value", configs[i], "pointer", &configs[i])
		}
	}
	fmt.Fprintf(&shown, "%v %+v %#v %s %v\n", configs, configs, configs, configs, &configs[0])
	for _, s := range secrets {
		if strings.Contains(shown.String(), s) {
			t.Errorf("%s is shown", s)
		}
	}
	for _, want := range []string{
		"name: central", "X-Scope-OrgID: <secret>", "audience: <secret>", "username: edge", "token=xxxxx", "hint=xxxxx", "edge:xxxxx@mimir.example", "tokenuser:xxxxx@auth.example",
		"protobuf_message: io.prometheus.write.v2.Request", "send_native_histograms: false", "regex: latpush_nfs_.*;(getattr|access)", "batch_send_deadline: 30s",
		"sample_age_limit: 1d", "send_interval: 10m", "push_interval: 5m", "idle_interval: 2m", "max_bytes_per_day: 50MiB", "max_bytes_per_second: 2KiB", "stale_markers: false",
		"quarantine_after: 0s",
	} {
		if !strings.Contains(shown.String(), want) {
			t.Errorf("%s is not shown in\n%s", want, shown.String())
		}
	}
	// Marshalling has changed nothing.
	if again := readConfigs(t, "full.good.yml"); !reflect.DeepEqual(configs, again) {
		t.Error("printing an entry has changed it")
	}
}

func TestConfigSetDirectory(t *testing.T) {
	t.Parallel()
	c := upload.DefaultConfig()
	c.HTTPClientConfig.BasicAuth = &config.BasicAuth{PasswordFile: "secrets/password"}
	c.HTTPClientConfig.TLSConfig.CAFile = "/etc/ca.pem"
	c.SetDirectory("/etc/latpush")
	if p, ca := c.HTTPClientConfig.BasicAuth.PasswordFile, c.HTTPClientConfig.TLSConfig.CAFile; p != "/etc/latpush/secrets/password" || ca != "/etc/ca.pem" {
		t.Errorf("password file %s, CA file %s", p, ca)
	}
}
