package upload_test

import (
	"errors"
	"io/fs"
	"log/slog"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/common/config"
	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/relabel"

	"github.com/latpush/latpush/internal/upload"
)

func mustURL(t testing.TB, s string) *config.URL {
	t.Helper()
	u, err := url.Parse(s)
	if err != nil {
		t.Fatal(err)
	}
	return &config.URL{URL: u}
}

func TestValidate(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	missing, garbage := filepath.Join(dir, "missing"), filepath.Join(dir, "garbage")
	if err := os.WriteFile(garbage, []byte("no certificate"), 0o600); err != nil {
		t.Fatal(err)
	}
	ca := newAuthority(t)
	certFile, keyFile := ca.clientFiles(t)
	second := func(s float64) model.Duration { return model.Duration(s * float64(time.Second)) }
	type (
		c = *upload.Config
		h = *config.HTTPClientConfig
	)
	of := func(change func(h)) func(c) { return func(u c) { change(&u.HTTPClientConfig) } }
	for _, k := range []struct {
		name   string
		change func(c)
		key    string // "" if it is valid
		reason string
	}{
		{"as it is", func(c) {}, "", ""},
		{"no url", func(u c) { u.URL = nil }, "url", "is missing"},
		{"empty url", func(u c) { u.URL = &config.URL{} }, "url", "is missing"},
		{"relative url", func(u c) { u.URL = mustURL(t, "/push") }, "url", `the scheme is "" (use http or https)`},
		{"other scheme", func(u c) { u.URL = mustURL(t, "ftp://a.example/") }, "url", "ftp"},
		{"no host", func(u c) { u.URL = mustURL(t, "http:///push") }, "url", "no host"},
		{"no host but a port", func(u c) { u.URL = mustURL(t, "http://:80/push") }, "url", "no host"},
		{"fragment", func(u c) { u.URL = mustURL(t, "http://a.example/#x") }, "url", "fragment"},
		{"name with a line break", func(u c) { u.Name = "a\nb" }, "name", "cannot be printed"},
		{"name that is no UTF-8", func(u c) { u.Name = "a\xff" }, "name", "cannot be printed"},
		{"long name", func(u c) { u.Name = strings.Repeat("x", 129) }, "name", "129 bytes"},
		{"no time", func(u c) { u.RemoteTimeout = 0 }, "remote_timeout", "0s is not positive"},
		{"no samples", func(u c) { u.QueueConfig.MaxSamplesPerSend = 0 }, "queue_config.max_samples_per_send", "0 is not positive"},
		{"no backoff", func(u c) { u.QueueConfig.MinBackoff = 0 }, "queue_config.min_backoff", "not positive"},
		{"backoff ends before it starts", func(u c) { u.QueueConfig.MaxBackoff = second(0.5) }, "queue_config.max_backoff", "500ms is shorter than min_backoff, 1s"},
		{"no wait for a batch", func(u c) { u.QueueConfig.BatchSendDeadline = second(-1) }, "queue_config.batch_send_deadline", "-1s is negative"},
		{"age", func(u c) { u.QueueConfig.SampleAgeLimit = second(-1) }, "queue_config.sample_age_limit", "-1s is negative"},
		{"push", func(u c) { u.PushInterval = second(-1) }, "push_interval", "-1s is negative"},
		{"idle", func(u c) { u.IdleInterval = second(-1) }, "idle_interval", "-1s is negative"},
		{"quarantine", func(u c) { u.QuarantineAfter = second(-1) }, "quarantine_after", "-1s is negative"},
		{"never quarantine", func(u c) { u.QuarantineAfter = 0 }, "", ""},
		{"message", func(u c) { u.ProtobufMessage = "prometheus.v3" }, "protobuf_message", `"prometheus.v3" is unknown (use prometheus.WriteRequest or io.prometheus.write.v2.Request)`},
		{"no message", func(u c) { u.ProtobufMessage = "" }, "protobuf_message", "is unknown"},
		{"metadata never", func(u c) { u.MetadataConfig.SendInterval = 0 }, "metadata_config.send_interval", "send: false"},
		{"no metadata", func(u c) { u.MetadataConfig.MaxSamplesPerSend = -1 }, "metadata_config.max_samples_per_send", "-1 is not positive"},
		{"small day", func(u c) { u.MaxBytesPerDay = 50 }, "max_bytes_per_day", "50B is too small (at least 64KiB"},
		{"negative day", func(u c) { u.MaxBytesPerDay = -1 }, "max_bytes_per_day", "too small"},
		{"smallest day", func(u c) { u.MaxBytesPerDay = 64 << 10 }, "", ""},
		{"rate", func(u c) { u.MaxBytesPerSecond = -1 }, "max_bytes_per_second", "negative"},
		{"rules", rules(func(*relabel.Config) {}, func(*relabel.Config) {}), "", ""},
		{"empty rule", func(u c) { u.WriteRelabelConfigs = []*relabel.Config{nil} }, "write_relabel_configs[0]", "the rule is empty"},
		{"rule without a target", rules(func(*relabel.Config) {}, func(r *relabel.Config) { r.TargetLabel = "" }), "write_relabel_configs[1]", "requires 'target_label'"},
		{"rule for UTF-8 names", rules(func(r *relabel.Config) { r.TargetLabel = "service.name" }), "write_relabel_configs[0]", `"service.name" is invalid 'target_label'`},
		{"rule without modulus", rules(func(r *relabel.Config) { r.Action = relabel.HashMod }), "write_relabel_configs[0]", "non-zero modulus"},
		{"rule that maps with a template", rules(func(r *relabel.Config) { r.Action, r.Replacement = relabel.LabelMap, "host_${1}" }), "", ""},
		{"equal backoffs", func(u c) { u.QueueConfig.MaxBackoff = second(1) }, "", ""},

		{"content type", func(u c) { u.Headers["content-type"] = "x" }, "headers.content-type", "reserved"},
		{"content encoding", func(u c) { u.Headers["Content-Encoding"] = "x" }, "headers.Content-Encoding", "reserved"},
		{"content length", func(u c) { u.Headers["Content-Length"] = "1" }, "headers.Content-Length", "reserved"},
		{"user agent", func(u c) { u.Headers["User-agent"] = "x" }, "headers.User-agent", "reserved"},
		{"version", func(u c) { u.Headers["X-Prometheus-Remote-Write-Version"] = "x" }, "headers.X-Prometheus-Remote-Write-Version", "reserved"},
		{"host", func(u c) { u.Headers["host"] = "x" }, "headers.host", "reserved"},
		{"authorization", func(u c) { u.Headers["AUTHORIZATION"] = "x" }, "headers.AUTHORIZATION", "use basic_auth, authorization or oauth2"},
		{"proxy authorization", func(u c) { u.Headers["Proxy-Authorization"] = "x" }, "headers.Proxy-Authorization", "reserved"},
		{"accept encoding", func(u c) { u.Headers["Accept-Encoding"] = "gzip" }, "headers.Accept-Encoding", "reserved"},
		{"transfer encoding", func(u c) { u.Headers["Transfer-Encoding"] = "chunked" }, "headers.Transfer-Encoding", "governs the connection"},
		{"connection", func(u c) { u.Headers["Connection"] = "close" }, "headers.Connection", "reserved"},
		{"signature", func(u c) { u.Headers["X-Amz-Date"] = "x" }, "headers.X-Amz-Date", "reserved"},
		{"header name", func(u c) { u.Headers["a b"] = "x" }, "headers.a b", "not a valid header name"},
		{"header value", func(u c) { u.Headers["X-A"] = "hush\r\nX-B: y" }, "headers.X-A", "line break"},
		{"header twice", func(u c) { u.Headers["x-a"], u.Headers["X-A"] = "x", "y" }, "headers.x-a", "already set by headers.X-A"},
		{"tenant", func(u c) { u.Headers["X-Scope-OrgID"] = "x" }, "", ""},
		{"http header twice", func(u c) {
			u.Headers["X-A"] = "x"
			u.HTTPClientConfig.HTTPHeaders = headers("X-A", config.Header{Values: []string{"y"}})
		}, "http_headers.X-A", "already set by headers.X-A"},
		{"reserved http header", of(func(h h) { h.HTTPHeaders = headers("Content-type", config.Header{}) }), "http_headers.Content-type", "reserved"},
		{"secret http header", of(func(h h) { h.HTTPHeaders = headers("X-A", config.Header{Secrets: []config.Secret{"hush\x00"}}) }), "http_headers.X-A", "characters"},
		{"header file", of(func(h h) { h.HTTPHeaders = headers("X-A", config.Header{Files: []string{garbage, missing}}) }), "http_headers.X-A.files", missing},

		{"two ways to authorise", of(func(h h) { h.BasicAuth, h.Authorization = &config.BasicAuth{Username: "a"}, &config.Authorization{} }), "basic_auth", "at most one of"},
		{"two passwords", of(func(h h) { h.BasicAuth = &config.BasicAuth{Password: "a", PasswordFile: garbage} }), "basic_auth", "at most one of"},
		{"password file", of(func(h h) { h.BasicAuth = &config.BasicAuth{PasswordFile: missing} }), "basic_auth.password_file", missing},
		{"user name file", of(func(h h) { h.BasicAuth = &config.BasicAuth{UsernameFile: missing} }), "basic_auth.username_file", missing},
		{"credentials file", of(func(h h) { h.Authorization = &config.Authorization{CredentialsFile: missing} }), "authorization.credentials_file", missing},
		{"credentials file is a folder", of(func(h h) { h.Authorization = &config.Authorization{CredentialsFile: dir} }), "authorization.credentials_file", dir},
		{"basic as a type", of(func(h h) { h.Authorization = &config.Authorization{Type: "basic"} }), "authorization", "use \"basic_auth\" instead"},
		{"token and its file", of(func(h h) { h.BearerToken, h.BearerTokenFile = "a", garbage }), "bearer_token_file", "at most one of"},
		{"token file", of(func(h h) { h.BearerTokenFile = missing }), "bearer_token_file", missing},
		{"secret manager", of(func(h h) { h.BasicAuth = &config.BasicAuth{PasswordRef: "a"} }), "basic_auth.password_ref", "no secret manager"},
		{"secret manager for a key", of(func(h h) { h.TLSConfig.KeyRef = "a" }), "tls_config.key_ref", "no secret manager"},

		{"authority missing", of(func(h h) { h.TLSConfig.CAFile = missing }), "tls_config.ca_file", missing},
		{"authority is no certificate", of(func(h h) { h.TLSConfig.CAFile = garbage }), "tls_config.ca_file", garbage},
		{"authority in place is no certificate", of(func(h h) { h.TLSConfig.CA = "x" }), "tls_config.ca", "CA cert"},
		{"certificate missing", of(func(h h) { h.TLSConfig.CertFile, h.TLSConfig.KeyFile = missing, keyFile }), "tls_config.cert_file", missing},
		{"key missing", of(func(h h) { h.TLSConfig.CertFile, h.TLSConfig.KeyFile = certFile, missing }), "tls_config.key_file", missing},
		{"certificate is none", of(func(h h) { h.TLSConfig.CertFile, h.TLSConfig.KeyFile = garbage, keyFile }), "tls_config.cert_file", garbage},
		{"certificate without key", of(func(h h) { h.TLSConfig.CertFile = certFile }), "tls_config.cert_file", "exactly one of key"},
		{"versions", of(func(h h) {
			h.TLSConfig.MinVersion, h.TLSConfig.MaxVersion = config.TLSVersions["TLS13"], config.TLSVersions["TLS12"]
		}), "tls_config", "max_version"},
		{"certificate and key", of(func(h h) { h.TLSConfig.CertFile, h.TLSConfig.KeyFile = certFile, keyFile }), "", ""},

		{"proxy scheme", of(func(h h) { h.ProxyURL = *mustURL(t, "ftp://a.example") }), "proxy_url", "ftp"},
		{"proxy host", of(func(h h) { h.ProxyURL = *mustURL(t, "http://:3128") }), "proxy_url", "no host"},
		{"proxy twice", of(func(h h) { h.ProxyURL, h.ProxyFromEnvironment = *mustURL(t, "http://a.example"), true }), "proxy_url", "proxy_from_environment"},
		{"socks", of(func(h h) { h.ProxyURL = *mustURL(t, "socks5h://a.example:1080") }), "", ""},

		{"token server missing", of(func(h h) { h.OAuth2 = &config.OAuth2{ClientID: "a"} }), "oauth2", "token_url must be configured"},
		{"token server", of(func(h h) { h.OAuth2 = &config.OAuth2{ClientID: "a", TokenURL: "auth.example"} }), "oauth2.token_url", "scheme"},
		{"token server's URL", of(func(h h) { h.OAuth2 = &config.OAuth2{ClientID: "a", TokenURL: "http://a:hush/hush@b"} }), "oauth2.token_url", "not a valid URL"},
		{"client secret file", of(func(h h) { h.OAuth2 = oauth(func(o *config.OAuth2) { o.ClientSecretFile = missing }) }), "oauth2.client_secret_file", missing},
		{"client key file", of(func(h h) { h.OAuth2 = oauth(func(o *config.OAuth2) { o.ClientCertificateKeyFile = missing }) }), "oauth2.client_certificate_key_file", missing},
		{"token server's authority", of(func(h h) { h.OAuth2 = oauth(func(o *config.OAuth2) { o.TLSConfig.CAFile = garbage }) }), "oauth2.tls_config.ca_file", garbage},
		{"token server's proxy", of(func(h h) { h.OAuth2 = oauth(func(o *config.OAuth2) { o.ProxyURL = *mustURL(t, "x://a") }) }), "oauth2.proxy_url", "scheme"},
		{"oauth2", of(func(h h) { h.OAuth2 = oauth(func(*config.OAuth2) {}) }), "", ""},
	} {
		t.Run(k.name, func(t *testing.T) {
			t.Parallel()
			u := upload.DefaultConfig()
			u.URL, u.Headers = mustURL(t, "https://user:hush@a.example/push"), map[string]config.Secret{}
			k.change(&u)
			_, newErr := upload.New(u, "1", slog.New(slog.DiscardHandler), nil)
			for _, err := range []error{u.Validate(), u.Validate(), newErr} {
				var key *upload.KeyError
				switch {
				case k.key == "" && err == nil:
				case !errors.As(err, &key):
					t.Fatalf("got %v, want an error of key %q", err, k.key)
				case key.Key != k.key || !strings.Contains(err.Error(), k.reason) || !strings.Contains(err.Error(), "check "+k.key+": "):
					t.Errorf("got %v of key %q, want %q of key %q", err, key.Key, k.reason, k.key)
				case strings.Contains(err.Error(), "hush"):
					t.Errorf("a secret is in %q", err)
				case k.reason == missing && !errors.Is(err, fs.ErrNotExist):
					t.Errorf("%v is not fs.ErrNotExist", err)
				}
			}
		})
	}
}

// rules makes an entry with a valid rule for each change.
func rules(changes ...func(*relabel.Config)) func(*upload.Config) {
	return func(c *upload.Config) {
		for _, change := range changes {
			rule := relabel.DefaultRelabelConfig
			rule.TargetLabel = "a"
			change(&rule)
			c.WriteRelabelConfigs = append(c.WriteRelabelConfigs, &rule)
		}
	}
}

// Everything that is wrong is reported at once, each key with an error of its own.
func TestValidateReportsEverything(t *testing.T) {
	t.Parallel()
	c := upload.DefaultConfig()
	c.Name = "a\nb"
	c.RemoteTimeout, c.PushInterval, c.QueueConfig, c.MaxBytesPerDay = 0, -1, upload.QueueConfig{MaxBackoff: -1}, 1
	c.ProtobufMessage, c.MetadataConfig = "x", upload.MetadataConfig{}
	c.Headers = map[string]config.Secret{"Host": "a", "X A": "b"}
	c.HTTPClientConfig.BasicAuth = &config.BasicAuth{PasswordFile: "/nowhere/password", UsernameRef: "a"}
	c.HTTPClientConfig.TLSConfig.CAFile = "/nowhere/ca"
	c.HTTPClientConfig.OAuth2 = oauth(func(o *config.OAuth2) { o.ProxyURL = *mustURL(t, "x://a") })
	rules(func(*relabel.Config) {}, func(r *relabel.Config) { r.Action = "" }, func(r *relabel.Config) { r.TargetLabel = "" })(&c)
	want := []string{
		"basic_auth.password_file", "basic_auth.username_ref", "headers.Host", "headers.X A", "max_bytes_per_day", "metadata_config.max_samples_per_send",
		"metadata_config.send_interval", "name", "oauth2.proxy_url", "protobuf_message", "push_interval", "queue_config.max_backoff",
		"queue_config.max_samples_per_send", "queue_config.min_backoff", "remote_timeout", "tls_config.ca_file", "url", "write_relabel_configs[1]", "write_relabel_configs[2]",
	}
	var got []string
	for _, one := range leaves(c.Validate()) {
		var key *upload.KeyError
		if !errors.As(one, &key) {
			t.Fatalf("%v has no key", one)
		}
		got = append(got, key.Key)
	}
	slices.Sort(got)
	if !slices.Equal(got, want) {
		t.Errorf("got errors of the keys\n%q\nwant\n%q", got, want)
	}
}

// leaves are the errors that were joined.
func leaves(err error) []error {
	var joined interface{ Unwrap() []error }
	if !errors.As(err, &joined) {
		return []error{err}
	}
	var all []error
	for _, one := range joined.Unwrap() {
		all = append(all, leaves(one)...)
	}
	return all
}

func headers(name string, h config.Header) *config.Headers {
	return &config.Headers{Headers: map[string]config.Header{name: h}}
}

func oauth(change func(*config.OAuth2)) *config.OAuth2 {
	o := &config.OAuth2{ClientID: "latpush", TokenURL: "https://auth.example/token"}
	change(o)
	return o
}
