package upload

import (
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/alecthomas/units"
	"github.com/prometheus/common/config"
	"github.com/prometheus/common/model"
	"golang.org/x/net/http/httpguts"

	"github.com/latpush/latpush/internal/promwire"
)

// KeyError says what is wrong with the value of one YAML key.
type KeyError struct {
	Key string // its path in the entry, such as "queue_config.min_backoff" or "headers.X-Scope-OrgID"
	Err error
}

func (e *KeyError) Error() string { return fmt.Sprintf("check %s: %v", e.Key, e.Err) }

// Unwrap gives the reason.
func (e *KeyError) Unwrap() error { return e.Err }

func keyError(key, format string, args ...any) error {
	return &KeyError{Key: key, Err: fmt.Errorf(format, args...)}
}

// Validate reports everything that is wrong, a *KeyError for each key, joined. It reads the files that the entry names, once, so that a secret or a certificate
// which cannot be read is found before anything starts. It also completes the relabelling rules, which need to know what names are valid.
func (c *Config) Validate() error {
	var all []error
	for _, check := range []func() error{
		c.checkURL, c.checkName, c.checkTimes, c.checkProtocol, c.checkQueue, c.checkMetadata, c.checkBudget, c.checkRelabelling, c.checkHTTP, c.checkFiles,
	} {
		all = append(all, check())
	}
	return errors.Join(all...)
}

// checkHTTP checks what the HTTP client is made from. The library's own check comes last: it is about how credentials go together, and says nothing of keys.
func (c *Config) checkHTTP() error {
	if err := errors.Join(c.checkHeaders(), c.checkSupported(), c.checkProxies(), c.checkOAuth2()); err != nil {
		return err
	}
	_, err := c.httpClientConfig()
	return err
}

func (c *Config) checkURL() error {
	if c.URL == nil || c.URL.URL == nil {
		return keyError("url", "is missing")
	}
	return checkHTTPURL("url", c.URL.URL)
}

func checkHTTPURL(key string, u *url.URL) error {
	switch {
	case u.Scheme != "http" && u.Scheme != "https":
		return keyError(key, "the scheme is %q (use http or https)", u.Scheme)
	case u.Hostname() == "":
		return keyError(key, "there is no host in it")
	case u.Fragment != "":
		return keyError(key, "it has a fragment (remove the # and what follows)")
	}
	return nil
}

func (c *Config) checkName() error {
	const longest = 128 // a metric label and a part of file names
	switch name := c.Receiver(); {
	case !utf8.ValidString(name) || strings.ContainsFunc(name, unicode.IsControl):
		return keyError("name", "%q has characters that cannot be printed", name)
	case len(name) > longest:
		return keyError("name", "it is %d bytes long (use at most %d)", len(name), longest)
	}
	return nil
}

func (c *Config) checkHeaders() error {
	var all []error
	given := make(map[string]string)
	for _, name := range slices.Sorted(maps.Keys(c.Headers)) {
		all = append(all, checkHeader("headers."+name, name, given, string(c.Headers[name])))
	}
	if c.HTTPClientConfig.HTTPHeaders == nil {
		return errors.Join(all...)
	}
	for _, name := range slices.Sorted(maps.Keys(c.HTTPClientConfig.HTTPHeaders.Headers)) {
		h := c.HTTPClientConfig.HTTPHeaders.Headers[name]
		values := slices.Clone(h.Values)
		for _, s := range h.Secrets {
			values = append(values, string(s))
		}
		all = append(all, checkHeader("http_headers."+name, name, given, values...))
	}
	return errors.Join(all...)
}

// checkHeader checks one header that a user gives; given has the keys of those before it by canonical name.
func checkHeader(key, name string, given map[string]string, values ...string) error {
	if !httpguts.ValidHeaderFieldName(name) {
		return keyError(key, "%q is not a valid header name", name)
	}
	canonical := http.CanonicalHeaderKey(name)
	switch canonical {
	case "Authorization":
		return keyError(key, "this header is reserved (use basic_auth, authorization or oauth2)")
	case "Transfer-Encoding", "Te", "Trailer", "Upgrade", "Expect", "Proxy-Connection":
		return keyError(key, "this header is reserved (it governs the connection)")
	}
	if _, reserved := config.ReservedHeaders[canonical]; reserved {
		return keyError(key, "this header is reserved (latpush sets it)")
	}
	if other, twice := given[canonical]; twice {
		return keyError(key, "the header is already set by %s", other)
	}
	given[canonical] = key
	for _, v := range values {
		if !httpguts.ValidHeaderFieldValue(v) {
			return keyError(key, "the value has characters that a header cannot have (such as a line break)")
		}
	}
	return nil
}

func (c *Config) checkTimes() error {
	var all []error
	if c.RemoteTimeout <= 0 {
		all = append(all, keyError("remote_timeout", "%s is not positive", c.RemoteTimeout))
	}
	for _, d := range []struct {
		key   string
		value model.Duration
	}{
		{"push_interval", c.PushInterval},
		{"idle_interval", c.IdleInterval},
		{"quarantine_after", c.QuarantineAfter},
		{"queue_config.batch_send_deadline", c.QueueConfig.BatchSendDeadline},
		{"queue_config.sample_age_limit", c.QueueConfig.SampleAgeLimit},
	} {
		if d.value < 0 {
			all = append(all, keyError(d.key, "%s is negative", time.Duration(d.value)))
		}
	}
	return errors.Join(all...)
}

func (c *Config) checkProtocol() error {
	if p := c.ProtobufMessage; p != promwire.V1 && p != promwire.V2 {
		return keyError("protobuf_message", "%q is unknown (use %s or %s)", p, promwire.V1, promwire.V2)
	}
	return nil
}

func (c *Config) checkQueue() error {
	var all []error
	q := &c.QueueConfig
	if q.MaxSamplesPerSend <= 0 {
		all = append(all, keyError("queue_config.max_samples_per_send", "%d is not positive", q.MaxSamplesPerSend))
	}
	if q.MinBackoff <= 0 {
		all = append(all, keyError("queue_config.min_backoff", "%s is not positive", q.MinBackoff))
	}
	if q.MaxBackoff < q.MinBackoff {
		all = append(all, keyError("queue_config.max_backoff", "%s is shorter than min_backoff, %s", q.MaxBackoff, q.MinBackoff))
	}
	return errors.Join(all...)
}

func (c *Config) checkMetadata() error {
	var all []error
	if m := &c.MetadataConfig; m.SendInterval <= 0 {
		all = append(all, keyError("metadata_config.send_interval", "%s is not positive (send: false switches metadata off)", m.SendInterval))
	}
	if m := &c.MetadataConfig; m.MaxSamplesPerSend <= 0 {
		all = append(all, keyError("metadata_config.max_samples_per_send", "%d is not positive", m.MaxSamplesPerSend))
	}
	return errors.Join(all...)
}

// smallestDay is what 24 hours must have room for at least: a small request in each hour.
const smallestDay = 64 * units.KiB

func (c *Config) checkBudget() error {
	var all []error
	if b := c.MaxBytesPerDay; b < 0 || b > 0 && b < smallestDay {
		all = append(all, keyError("max_bytes_per_day", "%s is too small (at least %s; leave it out for no bound)", b, smallestDay))
	}
	if b := c.MaxBytesPerSecond; b < 0 {
		all = append(all, keyError("max_bytes_per_second", "%s is negative (leave it out for no bound)", b))
	}
	return errors.Join(all...)
}

// checkRelabelling lets the relabelling package judge each rule. Names of labels are those of remote write 1.0, to which every receiver may have to fall back.
func (c *Config) checkRelabelling() error {
	var all []error
	for i, rule := range c.WriteRelabelConfigs {
		key := fmt.Sprintf("write_relabel_configs[%d]", i)
		if rule == nil {
			all = append(all, keyError(key, "the rule is empty"))
			continue
		}
		if err := rule.Validate(model.LegacyValidation); err != nil {
			all = append(all, &KeyError{Key: key, Err: err})
		}
	}
	return errors.Join(all...)
}

// checkSupported refuses what the HTTP client library could do only with a secret manager, which latpush has not.
func (c *Config) checkSupported() error {
	h := &c.HTTPClientConfig
	refs := map[string]string{"tls_config.ca_ref": h.TLSConfig.CARef, "tls_config.cert_ref": h.TLSConfig.CertRef, "tls_config.key_ref": h.TLSConfig.KeyRef}
	if a := h.BasicAuth; a != nil {
		refs["basic_auth.username_ref"], refs["basic_auth.password_ref"] = a.UsernameRef, a.PasswordRef
	}
	if a := h.Authorization; a != nil {
		refs["authorization.credentials_ref"] = a.CredentialsRef
	}
	if o := h.OAuth2; o != nil {
		refs["oauth2.client_secret_ref"], refs["oauth2.client_certificate_key_ref"] = o.ClientSecretRef, o.ClientCertificateKeyRef
		refs["oauth2.tls_config.ca_ref"], refs["oauth2.tls_config.cert_ref"], refs["oauth2.tls_config.key_ref"] = o.TLSConfig.CARef, o.TLSConfig.CertRef, o.TLSConfig.KeyRef
	}
	var all []error
	for _, key := range slices.Sorted(maps.Keys(refs)) {
		if refs[key] != "" {
			all = append(all, keyError(key, "latpush has no secret manager (use the key that ends in _file)"))
		}
	}
	return errors.Join(all...)
}

func (c *Config) checkProxies() error {
	err := checkProxy("", &c.HTTPClientConfig.ProxyConfig)
	if o := c.HTTPClientConfig.OAuth2; o != nil {
		err = errors.Join(err, checkProxy("oauth2.", &o.ProxyConfig))
	}
	return err
}

func checkProxy(prefix string, p *config.ProxyConfig) error {
	if u := p.ProxyURL.URL; u != nil && u.String() != "" {
		switch u.Scheme {
		case "http", "https", "socks5", "socks5h":
		default:
			return keyError(prefix+"proxy_url", "the scheme is %q (use http, https, socks5 or socks5h)", u.Scheme)
		}
		if u.Hostname() == "" {
			return keyError(prefix+"proxy_url", "there is no host in it")
		}
	}
	if err := p.Validate(); err != nil {
		return &KeyError{Key: prefix + "proxy_url", Err: err}
	}
	return nil
}

func (c *Config) checkOAuth2() error {
	o := c.HTTPClientConfig.OAuth2
	if o == nil || o.TokenURL == "" {
		return nil // a missing token_url is found by the library's own check
	}
	u, err := url.Parse(o.TokenURL)
	if err != nil {
		return &KeyError{Key: "oauth2.token_url", Err: withoutURL(err)}
	}
	return checkHTTPURL("oauth2.token_url", u)
}

// httpClientConfig gives a checked copy in the form that the client library wants: its Validate moves the deprecated bearer_token to authorization.
func (c *Config) httpClientConfig() (config.HTTPClientConfig, error) {
	h := c.HTTPClientConfig
	key := "follow_redirects"
	if h.BearerToken != "" {
		key = "bearer_token"
	}
	if h.BearerTokenFile != "" {
		key = "bearer_token_file"
	}
	if h.OAuth2 != nil {
		key = "oauth2"
	}
	if h.Authorization != nil {
		key = "authorization"
		own := *h.Authorization
		h.Authorization = &own
	}
	if h.BasicAuth != nil {
		key = "basic_auth"
	}
	if err := h.Validate(); err != nil { // proxies and headers are checked, so it is about credentials
		return h, &KeyError{Key: key, Err: err}
	}
	return h, nil
}

// checkFiles reads every file that the entry names, and the certificates in them if they can all be read.
func (c *Config) checkFiles() error {
	var all []error
	for _, s := range c.secrets() {
		if s.file == "" {
			continue
		}
		if _, err := os.ReadFile(s.file); err != nil {
			all = append(all, &KeyError{Key: s.key, Err: err})
		}
	}
	if len(all) > 0 {
		return errors.Join(all...)
	}
	err := checkTLS("tls_config", &c.HTTPClientConfig.TLSConfig)
	if o := c.HTTPClientConfig.OAuth2; o != nil {
		err = errors.Join(err, checkTLS("oauth2.tls_config", &o.TLSConfig))
	}
	return err
}

// checkTLS loads the certificates as the client will, the authority's first, to be able to say which one is not good.
func checkTLS(key string, t *config.TLSConfig) error {
	authority := config.TLSConfig{CA: t.CA, CAFile: t.CAFile}
	if _, err := config.NewTLSConfig(&authority); err != nil {
		if t.CAFile != "" {
			return &KeyError{Key: key + ".ca_file", Err: err}
		}
		return &KeyError{Key: key + ".ca", Err: err}
	}
	if _, err := config.NewTLSConfig(t); err != nil {
		switch {
		case t.CertFile != "":
			return &KeyError{Key: key + ".cert_file", Err: err}
		case t.Cert != "":
			return &KeyError{Key: key + ".cert", Err: err}
		}
		return &KeyError{Key: key, Err: err}
	}
	return nil
}
