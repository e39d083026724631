package upload

import (
	"cmp"
	"crypto/sha256"
	"encoding/base64"
	"maps"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strings"

	"github.com/prometheus/common/config"
)

// mask stands where a secret was. It is what the configuration library writes for one.
const mask = "<secret>"

// secret is one value that must not be shown, or the file that holds it.
type secret struct {
	key  string // path of the YAML key
	text string
	file string
}

// secrets lists all secrets of the entry, and the files that are no secret but must be readable too. Values that are not set are in the list as well.
func (c *Config) secrets() []secret {
	h := &c.HTTPClientConfig
	all := []secret{
		{"bearer_token", string(h.BearerToken), ""},
		{"bearer_token_file", "", h.BearerTokenFile},
	}
	if a := h.BasicAuth; a != nil {
		all = append(all, secret{"basic_auth.password", string(a.Password), ""}, secret{"basic_auth.password_file", "", a.PasswordFile},
			secret{"basic_auth.username_file", "", a.UsernameFile})
	}
	if a := h.Authorization; a != nil {
		all = append(all, secret{"authorization.credentials", string(a.Credentials), ""}, secret{"authorization.credentials_file", "", a.CredentialsFile})
	}
	if o := h.OAuth2; o != nil {
		all = append(all, secret{"oauth2.client_secret", string(o.ClientSecret), ""}, secret{"oauth2.client_secret_file", "", o.ClientSecretFile},
			secret{"oauth2.client_certificate_key", string(o.ClientCertificateKey), ""},
			secret{"oauth2.client_certificate_key_file", "", o.ClientCertificateKeyFile})
		for _, k := range slices.Sorted(maps.Keys(o.EndpointParams)) {
			all = append(all, secret{"oauth2.endpoint_params." + k, o.EndpointParams[k], ""})
		}
		all = append(all, tlsSecrets("oauth2.tls_config", &o.TLSConfig)...)
		all = append(all, proxySecrets("oauth2.", &o.ProxyConfig)...)
		if u, err := url.Parse(o.TokenURL); err == nil {
			all = append(all, urlSecrets("oauth2.token_url", u)...)
		}
	}
	all = append(all, tlsSecrets("tls_config", &h.TLSConfig)...)
	all = append(all, proxySecrets("", &h.ProxyConfig)...)
	if c.URL != nil {
		all = append(all, urlSecrets("url", c.URL.URL)...)
	}
	return append(all, c.headerSecrets()...)
}

// Files returns the files that the entry names. They are read again whenever they are needed.
func (c *Config) Files() []string {
	var files []string
	for _, s := range c.secrets() {
		if s.file != "" {
			files = append(files, s.file)
		}
	}
	return files
}

func (c *Config) headerSecrets() []secret {
	var all []secret
	for _, name := range slices.Sorted(maps.Keys(c.Headers)) {
		value := string(c.Headers[name])
		switch canonical := http.CanonicalHeaderKey(name); {
		case canonical == "X-Scope-Orgid", canonical == "Thanos-Tenant": // the tenant's name is no secret, and in many a receiver's messages
		case len(value) < 8: // no key is that short, but a word like "prod" is, which would be missing in messages
		default:
			all = append(all, secret{"headers." + name, value, ""})
		}
	}
	if c.HTTPClientConfig.HTTPHeaders == nil {
		return all
	}
	headers := c.HTTPClientConfig.HTTPHeaders.Headers
	for _, name := range slices.Sorted(maps.Keys(headers)) {
		for _, s := range headers[name].Secrets {
			all = append(all, secret{"http_headers." + name + ".secrets", string(s), ""})
		}
		for _, f := range headers[name].Files {
			all = append(all, secret{"http_headers." + name + ".files", "", f})
		}
	}
	return all
}

func tlsSecrets(key string, t *config.TLSConfig) []secret {
	return []secret{{key + ".ca_file", "", t.CAFile}, {key + ".cert_file", "", t.CertFile}, {key + ".key_file", "", t.KeyFile}, {key + ".key", string(t.Key), ""}}
}

func proxySecrets(prefix string, p *config.ProxyConfig) []secret {
	all := urlSecrets(prefix+"proxy_url", p.ProxyURL.URL)
	for _, name := range slices.Sorted(maps.Keys(p.ProxyConnectHeader)) {
		for _, s := range p.ProxyConnectHeader[name] {
			all = append(all, secret{prefix + "proxy_connect_header." + name, string(s), ""})
		}
	}
	return all
}

// urlSecrets are the password and the values of the query, in which some services want a key.
func urlSecrets(key string, u *url.URL) []secret {
	if u == nil {
		return nil
	}
	var all []secret
	if password, ok := u.User.Password(); ok {
		all = append(all, secret{key, password, ""}, secret{key, basicCredentials(u.User.Username(), password), ""})
	}
	query := u.Query()
	for _, name := range slices.Sorted(maps.Keys(query)) {
		for _, v := range query[name] {
			all = append(all, secret{key, v, ""})
		}
	}
	return all
}

// basicCredentials is what stands behind "Basic" in a header.
func basicCredentials(user, password string) string {
	return base64.StdEncoding.EncodeToString([]byte(user + ":" + password))
}

// redacted gives a copy of the URL in which the password and the values of the query are masked.
func redacted(u *url.URL) *url.URL {
	if u == nil {
		return nil
	}
	r := *u
	if _, ok := u.User.Password(); ok {
		r.User = url.UserPassword(u.User.Username(), "xxxxx")
	}
	if query := r.Query(); r.RawQuery != "" {
		for _, values := range query {
			for i := range values {
				values[i] = "xxxxx"
			}
		}
		r.RawQuery = query.Encode()
	}
	return &r
}

func redactedText(s string) string {
	u, err := url.Parse(s)
	if err != nil {
		return mask
	}
	return redacted(u).String()
}

// shortestSecret is the shortest text that scrub looks for. Anything shorter is in every other sentence.
const shortestSecret = 4

// scrub replaces in a text, which may hold the words of a server that repeats what it was sent, every secret of the entry and those given. It reads the files
// again, since they may have changed; it is called only when there is something to report.
func (c *Config) scrub(text string, more ...string) string {
	words := slices.Clone(more)
	for _, s := range c.secrets() {
		words = append(words, s.text)
		if s.file != "" {
			if content, err := os.ReadFile(s.file); err == nil {
				words = append(words, strings.TrimSpace(string(content)))
			}
		}
	}
	for _, w := range slices.Clone(words) {
		words = append(words, url.QueryEscape(w), url.PathEscape(w))
		if a := c.HTTPClientConfig.BasicAuth; a != nil {
			words = append(words, basicCredentials(a.Username, w))
		}
	}
	// The longest first, so that no secret is left over because a part of it was replaced.
	slices.SortFunc(words, func(a, b string) int { return cmp.Compare(len(b), len(a)) })
	for _, w := range words {
		if len(w) >= shortestSecret {
			text = strings.ReplaceAll(text, w, mask)
		}
	}
	return text
}

// fingerprint tells two states of the files that an entry names apart.
type fingerprint [sha256.Size]byte

// fingerprint reads the files. One that cannot be read is like an empty one: the attempt that it is read for will say so.
func (c *Config) fingerprint() fingerprint {
	all := sha256.New()
	for _, s := range c.secrets() {
		if s.file == "" {
			continue
		}
		content, _ := os.ReadFile(s.file)
		one := sha256.Sum256(content)
		all.Write(one[:])
	}
	return fingerprint(all.Sum(nil))
}
