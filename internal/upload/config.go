package upload

import (
	"fmt"
	"log/slog"
	"maps"
	"net/url"
	"time"

	"github.com/alecthomas/units"
	"github.com/prometheus/common/config"
	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/relabel"

	"github.com/latpush/latpush/internal/promwire"
)

// Config is one entry of the remote_write list: the keys that it has in Prometheus, and behind them latpush's own. ForeignKey says why the others are missing.
type Config struct {
	// URL is where requests are posted to, http or https.
	URL *config.URL `yaml:"url"`

	// Name tells receivers apart in metrics and logs. The default is the URL's host, see Receiver.
	Name string `yaml:"name,omitempty"`

	// RemoteTimeout bounds one attempt, from the name look-up to the end of the answer.
	RemoteTimeout model.Duration `yaml:"remote_timeout"`

	// Headers are sent with every request, beside latpush's own, which they cannot replace. Values are treated as secrets, since many are API keys.
	Headers map[string]config.Secret `yaml:"headers,omitempty"`

	// ProtobufMessage is the message that the receiver is sent: prometheus.WriteRequest, which is remote write 1.0 and the default, or
	// io.prometheus.write.v2.Request, which is 2.0. A receiver that turns out not to know 2.0 is sent 1.0.
	ProtobufMessage promwire.Protocol `yaml:"protobuf_message"`

	// SendNativeHistograms lets sources whose histograms are custom or exponential be sent so. Without it they are sent as classic lines, to this receiver. The
	// default is true, unlike Prometheus's: what is native here was asked for.
	SendNativeHistograms bool `yaml:"send_native_histograms"`

	// WriteRelabelConfigs change or drop series before they are sent, as in Prometheus. Label names are those of remote write 1.0: letters, digits and _.
	WriteRelabelConfigs []*relabel.Config `yaml:"write_relabel_configs,omitempty"`

	// HTTPClientConfig is basic_auth, authorization, oauth2, tls_config, proxy_url, no_proxy, proxy_from_environment, proxy_connect_header, follow_redirects,
	// enable_http2 and http_headers. Files named there are read again for every request, so credentials and certificates can be replaced at any time.
	HTTPClientConfig config.HTTPClientConfig `yaml:",inline"`

	// QueueConfig says how much is sent at once and how failed attempts are repeated.
	QueueConfig QueueConfig `yaml:"queue_config,omitempty"`

	// MetadataConfig says how often type, help and unit are sent to a receiver of 1.0. With 2.0 they travel with each series.
	MetadataConfig MetadataConfig `yaml:"metadata_config,omitempty"`

	// PushInterval is the time from one push to the next. What was taken between is sent then, several snapshots in one request, which takes far fewer bytes than
	// one by one. 0, the default, pushes each snapshot at once.
	PushInterval model.Duration `yaml:"push_interval,omitempty"`

	// IdleInterval leaves out a histogram, all of it, that has not changed since it was sent less than this ago. Series that are sent less often than every 5m
	// have gaps in queries. 0, the default, sends everything each time.
	IdleInterval model.Duration `yaml:"idle_interval,omitempty"`

	// MaxBytesPerDay bounds what the link carries in any 24 hours, such as 50MiB. When it is short, snapshots are left out; no count is lost by that, since histograms
	// are cumulative. 0, the default, is no bound.
	MaxBytesPerDay units.Base2Bytes `yaml:"max_bytes_per_day,omitempty"`

	// MaxBytesPerSecond bounds the rate at which requests are started, such as 2KiB. 0, the default, is no bound.
	MaxBytesPerSecond units.Base2Bytes `yaml:"max_bytes_per_second,omitempty"`

	// StaleMarkers ends series that are gone, and all of them at a clean stop, so that queries do not show their last value for five more minutes.
	StaleMarkers bool `yaml:"stale_markers"`

	// QuarantineAfter is how long one request may be answered by nothing but 5xx before it is set apart on disk, whatever becomes of others. 0 is never; then it
	// is set apart only if others are accepted meanwhile.
	QuarantineAfter model.Duration `yaml:"quarantine_after"`
}

// MetadataConfig has the keys of Prometheus's metadata_config.
type MetadataConfig struct {
	// Send switches metadata on.
	Send bool `yaml:"send"`

	// SendInterval is the time from one sending to the next. The first is at the start.
	SendInterval model.Duration `yaml:"send_interval"`

	// MaxSamplesPerSend bounds the metric families of one request.
	MaxSamplesPerSend int `yaml:"max_samples_per_send"`
}

// QueueConfig has those keys of Prometheus's queue_config that mean something to a single ordered queue.
type QueueConfig struct {
	// MaxSamplesPerSend bounds the samples of one request.
	MaxSamplesPerSend int `yaml:"max_samples_per_send"`

	// BatchSendDeadline is how long a snapshot may wait for those after it, to share requests with them. Prometheus waits so until a batch is full; a snapshot fills
	// its batches by itself, so less than the agent's interval is like 0, the default, and nothing waits. See Collect.
	BatchSendDeadline model.Duration `yaml:"batch_send_deadline,omitempty"`

	// MinBackoff is the shortest wait between two attempts, and the start of the exponential backoff.
	MinBackoff model.Duration `yaml:"min_backoff"`

	// MaxBackoff is the longest wait between two attempts, unless the receiver asks for a longer one.
	MaxBackoff model.Duration `yaml:"max_backoff"`

	// RetryOnRateLimit makes 429 an answer to be tried again. Without it, what a receiver throttles is dropped.
	RetryOnRateLimit bool `yaml:"retry_on_http_429"`

	// SampleAgeLimit drops, and counts, what is older when its turn comes. 0, the default, is no limit: the spool's max_age bounds what waits.
	SampleAgeLimit model.Duration `yaml:"sample_age_limit,omitempty"`
}

// DefaultConfig is what a Config is before its YAML is read.
func DefaultConfig() Config {
	return Config{
		// Prometheus's value. Long enough for a request of 30 KB on a link of 10 kbit/s.
		RemoteTimeout:    model.Duration(30 * time.Second),
		HTTPClientConfig: config.DefaultHTTPClientConfig,

		// Prometheus's value. Every receiver takes 1.0, and some answer 2.0 with a success and drop it.
		ProtobufMessage:      promwire.V1,
		SendNativeHistograms: true,
		StaleMarkers:         true,

		// Prometheus's values.
		MetadataConfig: MetadataConfig{Send: true, SendInterval: model.Duration(time.Minute), MaxSamplesPerSend: 2000},

		// Longer than most outages of a receiver behind a gateway that answers 502 in its place, shorter than a working day, so that what one request blocks is
		// still fresh enough for most receivers when the queue goes on.
		QuarantineAfter: model.Duration(6 * time.Hour),
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

// Collect gives how long snapshots are collected before they are sent, when one is taken every interval: push_interval, or batch_send_deadline if that is longer
// and another snapshot falls within it. 0 sends each at once.
func (c *Config) Collect(interval time.Duration) time.Duration {
	wait := time.Duration(c.PushInterval)
	if deadline := time.Duration(c.QueueConfig.BatchSendDeadline); deadline >= interval {
		wait = max(wait, deadline)
	}
	return wait
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
