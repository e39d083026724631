package upload

import (
	"fmt"
	"log/slog"
	"maps"
	"net/url"
	"time"

	"github.com/prometheus/common/config"
	"github.com/prometheus/common/model"
)

// Config is one entry of the remote_write list, with the keys that it has in Prometheus.
type Config struct {
	// URL is where requests are posted to, http or https.
	URL *config.URL `yaml:"url"`

	// Name tells receivers apart in metrics and logs. The default is the URL's host, see Receiver.
	Name string `yaml:"name,omitempty"`

	// RemoteTimeout bounds one attempt, from the name look-up to the end of the answer.
	RemoteTimeout model.Duration `yaml:"remote_timeout,omitempty"`

	// Headers are sent with every request, beside latpush's own, which they cannot replace. Values are treated as secrets, since many are API keys.
	Headers map[string]config.Secret `yaml:"headers,omitempty"`

	// HTTPClientConfig is basic_auth, authorization, oauth2, tls_config, proxy_url, no_proxy, proxy_from_environment, proxy_connect_header, follow_redirects,
	// enable_http2 and http_headers. Files named there are read again for every request, so credentials and certificates can be replaced at any time.
	HTTPClientConfig config.HTTPClientConfig `yaml:",inline"`

	// QueueConfig says how much is sent at once and how failed attempts are repeated.
	QueueConfig QueueConfig `yaml:"queue_config,omitempty"`
}

// QueueConfig has those keys of Prometheus's queue_config that mean something to a single ordered queue.
type QueueConfig struct {
	// MaxSamplesPerSend bounds the samples of one request.
	MaxSamplesPerSend int `yaml:"max_samples_per_send,omitempty"`

	// MinBackoff is the shortest wait between two attempts, and the start of the exponential backoff.
	MinBackoff model.Duration `yaml:"min_backoff,omitempty"`

	// MaxBackoff is the longest wait between two attempts, unless the receiver asks for a longer one.
	MaxBackoff model.Duration `yaml:"max_backoff,omitempty"`

	// RetryOnRateLimit makes 429 an answer to be tried again. Without it, what a receiver throttles is dropped.
	RetryOnRateLimit bool `yaml:"retry_on_http_429"`
}

// DefaultConfig is what a Config is before its YAML is read.
func DefaultConfig() Config {
	return Config{
		// Prometheus's value. Long enough for a request of 30 KB on a link of 10 kbit/s.
		RemoteTimeout:    model.Duration(30 * time.Second),
		HTTPClientConfig: config.DefaultHTTPClientConfig,
		QueueConfig: QueueConfig{
			// Prometheus's value, on which the limits of receivers are laid out.
			MaxSamplesPerSend: 2000,

			// Prometheus starts at 30 ms, to empty queues that overflow within seconds. Here the spool has room for days and there is one tick in
			// 15 s, so nothing is won by a second attempt within the second, while a fleet of thousands would knock on a receiver that is just starting.
			MinBackoff: model.Duration(time.Second),

			// Prometheus stops at 5 s. A minute, with jitter, lets 10,000 hosts come back at under 200 requests a second, saves the radio of a metered
			// link during an outage, and delays the backlog by half a minute on average once the receiver is there again.
			MaxBackoff: model.Duration(time.Minute),

			// Prometheus drops on 429 by default, since its queue cannot hold back a flood. Here a throttled receiver is a reason to wait: the spool keeps
			// what is not sent yet, and dropping it would lose counts that the receiver would have taken a moment later.
			RetryOnRateLimit: true,
		},
	}
}

// UnmarshalYAML fills in the defaults and reads the entry over them. It reports what is no valid YAML for this type, each with its line; Validate does the rest.
func (c *Config) UnmarshalYAML(unmarshal func(any) error) error {
	type plain Config
	*c = DefaultConfig()
	if err := unmarshal((*plain)(c)); err != nil {
		return explain(err, unmarshal, func() any { return new(plain) })
	}
	return nil
}

// MarshalYAML writes the entry with every secret replaced.
func (c Config) MarshalYAML() (any, error) {
	type plain Config
	p := plain(c)
	if c.URL != nil {
		p.URL = &config.URL{URL: redacted(c.URL.URL)}
	}
	p.HTTPClientConfig.ProxyURL.URL = redacted(c.HTTPClientConfig.ProxyURL.URL)
	if o := c.HTTPClientConfig.OAuth2; o != nil {
		masked := *o
		masked.TokenURL = redactedText(o.TokenURL)
		masked.ProxyURL.URL = redacted(o.ProxyURL.URL)
		masked.EndpointParams = maps.Clone(o.EndpointParams)
		for k := range masked.EndpointParams {
			masked.EndpointParams[k] = mask
		}
		p.HTTPClientConfig.OAuth2 = &masked
	}
	return p, nil
}

// SetDirectory makes the relative paths of the entry relative to dir, the directory of the configuration file.
func (c *Config) SetDirectory(dir string) { c.HTTPClientConfig.SetDirectory(dir) }

// Receiver gives the receiver's name: Name, or the URL's host and port. It is "" without either.
func (c *Config) Receiver() string {
	if c.Name != "" || c.URL == nil || c.URL.URL == nil {
		return c.Name
	}
	return c.URL.Host
}

// String gives the receiver's name and its URL without secrets, so that printing a Config prints none.
func (c Config) String() string {
	var u *url.URL
	if c.URL != nil {
		u = c.URL.URL
	}
	if u == nil {
		return fmt.Sprintf("remote_write %q", c.Receiver())
	}
	return fmt.Sprintf("remote_write %q to %s", c.Receiver(), redacted(u))
}

// GoString is String, for %#v.
func (c Config) GoString() string { return c.String() }

// LogValue is String, for slog.
func (c Config) LogValue() slog.Value { return slog.StringValue(c.String()) }
