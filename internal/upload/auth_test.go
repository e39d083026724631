package upload_test

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/common/config"
	"github.com/prometheus/common/model"

	"github.com/latpush/latpush/internal/upload"
)

// echo answers 400 and repeats what proves the client's identity, as some debugging servers do.
func echo(w http.ResponseWriter, r *http.Request) {
	w.WriteHeader(http.StatusBadRequest)
	fmt.Fprintln(w, "headers:", r.Header["Authorization"], r.Header["X-Key"], "query:", r.URL.RawQuery)
}

// Whatever proves the client's identity arrives, is read anew from its file for each request, and is hidden even when the server repeats it.
func TestSendCredentials(t *testing.T) {
	t.Parallel()
	const secret = "very$ecret/1"
	file := writeFile(t, "secret", secret+"\n")
	basic := "Basic " + base64.StdEncoding.EncodeToString([]byte("edge:"+secret))
	for _, c := range []struct {
		name   string
		url    string // after the server's address
		change func(*upload.Config)
		want   string // the Authorization header
	}{
		{"basic_auth", "", func(c *upload.Config) {
			c.HTTPClientConfig.BasicAuth = &config.BasicAuth{Username: "edge", Password: secret}
		}, basic},
		{"password_file", "", func(c *upload.Config) {
			c.HTTPClientConfig.BasicAuth = &config.BasicAuth{UsernameFile: writeFile(t, "user", "edge"), PasswordFile: file}
		}, basic},
		{"authorization", "", func(c *upload.Config) { c.HTTPClientConfig.Authorization = &config.Authorization{Credentials: secret} }, "Bearer " + secret},
		{"credentials_file", "", func(c *upload.Config) {
			c.HTTPClientConfig.Authorization = &config.Authorization{Type: "Token", CredentialsFile: file}
		}, "Token " + secret},
		{"bearer_token", "", func(c *upload.Config) { c.HTTPClientConfig.BearerToken = secret }, "Bearer " + secret},
		{"bearer_token_file", "", func(c *upload.Config) { c.HTTPClientConfig.BearerTokenFile = file }, "Bearer " + secret},
		{"in the URL", "", func(c *upload.Config) {
			c.URL.Host = "edge:very$ecret%2F1@" + c.URL.Host
			c.URL = mustURL(t, c.URL.Scheme+"://"+c.URL.Host)
		}, basic},
		{"in the query", "/?key=very$ecret%2F1", func(*upload.Config) {}, ""},
		{"headers", "", func(c *upload.Config) { c.Headers = map[string]config.Secret{"X-Key": secret} }, ""},
		{"http_headers", "", func(c *upload.Config) {
			c.HTTPClientConfig.HTTPHeaders = headers("X-Key", config.Header{Secrets: []config.Secret{secret}})
		}, ""},
		{"header file", "", func(c *upload.Config) {
			c.HTTPClientConfig.HTTPHeaders = headers("X-Key", config.Header{Files: []string{file}})
		}, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			var got http.Header
			server := serve(t, func(w http.ResponseWriter, r *http.Request) {
				got = r.Header
				echo(w, r)
			})
			s := newSender(t, server.URL+c.url, c.change)
			a := s.Send(t.Context(), request())
			if got.Get("Authorization") != c.want {
				t.Errorf("got Authorization %q, want %q", got.Get("Authorization"), c.want)
			}
			if c.want == "" && c.url == "" && got.Get("X-Key") != secret {
				t.Errorf("got X-Key %q", got.Get("X-Key"))
			}
			if a.Verdict != upload.Rejected || !strings.Contains(a.Message, "headers:") || !strings.Contains(a.Message, "<secret>") {
				t.Errorf("got %+v", a)
			}
			s.wantNoSecret(t, a, secret, "ecret%2F1", strings.TrimPrefix(basic, "Basic "))
		})
	}
}

func TestSendReadsSecretFilesAgain(t *testing.T) {
	t.Parallel()
	file := writeFile(t, "secret", "old-secret")
	var got string
	server := serve(t, func(w http.ResponseWriter, r *http.Request) {
		got = r.Header.Get("Authorization")
		echo(w, r)
	})
	s := newSender(t, server.URL, func(c *upload.Config) {
		c.HTTPClientConfig.Authorization = &config.Authorization{CredentialsFile: file}
	})
	for _, secret := range []string{"old-secret", "new-secret"} {
		if err := os.WriteFile(file, []byte(secret), 0o600); err != nil {
			t.Fatal(err)
		}
		a := s.Send(t.Context(), request())
		if got != "Bearer "+secret {
			t.Errorf("got %q", got)
		}
		s.wantNoSecret(t, a, secret)
	}
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	if a := s.Send(t.Context(), request()); a.Verdict != upload.Retry || !strings.Contains(a.Err.Error(), file) {
		t.Errorf("without the file: %+v", a)
	}
}

func TestSendTLS(t *testing.T) {
	t.Parallel()
	ca, stranger := newAuthority(t), newAuthority(t)
	certFile, keyFile := ca.clientFiles(t)
	strangerCert, strangerKey := stranger.clientFiles(t)
	const anyError = "any" // what a client hears of its certificate's refusal depends on how far it is in sending
	seen := make(chan string, 1)
	server := ca.server(t, true, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		seen <- fmt.Sprint(r.TLS.PeerCertificates[0].Subject.CommonName, " ", r.Proto)
		w.WriteHeader(http.StatusNoContent)
	}))
	for _, c := range []struct {
		name   string
		change func(*upload.Config)
		seen   string
		err    string
	}{
		{"client certificate", func(c *upload.Config) {}, "edge-7 HTTP/2.0", ""},
		{"without HTTP/2", func(c *upload.Config) { c.HTTPClientConfig.EnableHTTP2 = false }, "edge-7 HTTP/1.1", ""},
		{"server name", func(c *upload.Config) { c.HTTPClientConfig.TLSConfig.ServerName = "receiver.example" }, "edge-7 HTTP/2.0", ""},
		{"wrong server name", func(c *upload.Config) { c.HTTPClientConfig.TLSConfig.ServerName = "other.example" }, "", "certificate is valid for receiver.example, not other.example"},
		{"unknown authority", func(c *upload.Config) { c.HTTPClientConfig.TLSConfig.CAFile = stranger.caFile(t) }, "", "certificate signed by unknown authority"},
		{"no verification", func(c *upload.Config) {
			c.HTTPClientConfig.TLSConfig.CAFile, c.HTTPClientConfig.TLSConfig.InsecureSkipVerify = "", true
		}, "edge-7 HTTP/2.0", ""},
		{"no client certificate", func(c *upload.Config) {
			c.HTTPClientConfig.TLSConfig.CertFile, c.HTTPClientConfig.TLSConfig.KeyFile = "", ""
		}, "", anyError},
		{"a stranger's client certificate", func(c *upload.Config) {
			c.HTTPClientConfig.TLSConfig.CertFile, c.HTTPClientConfig.TLSConfig.KeyFile = strangerCert, strangerKey
		}, "", anyError},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newSender(t, server.URL, func(u *upload.Config) {
				u.HTTPClientConfig.TLSConfig = config.TLSConfig{CAFile: ca.caFile(t), CertFile: certFile, KeyFile: keyFile}
				c.change(u)
			})
			a := s.Send(t.Context(), request())
			if c.err != "" {
				if a.Verdict != upload.Retry || a.Status != 0 || c.err != anyError && !strings.Contains(a.Err.Error(), c.err) {
					t.Errorf("got %+v, want %q in it", a, c.err)
				}
				return
			}
			if a.Verdict != upload.Accepted {
				t.Fatalf("got %+v", a)
			}
			if got := <-seen; got != c.seen {
				t.Errorf("the server saw %s, want %s", got, c.seen)
			}
		})
	}
}

// tokens is an OAuth 2.0 server that gives the token of the last number.
type tokens struct {
	*httptest.Server
	requests atomic.Int32
	refuse   atomic.Int32 // a status, or 0
}

const clientSecret = "client-secret+1"

func newTokens(t *testing.T) *tokens {
	s := &tokens{}
	s.Server = serve(t, func(w http.ResponseWriter, r *http.Request) {
		id, secret, _ := r.BasicAuth()
		if id == "" { // the library's second try, after a refusal
			id, secret = r.FormValue("client_id"), url.QueryEscape(r.FormValue("client_secret"))
		}
		if id != "latpush" || secret != "client-secret%2B1" || r.FormValue("grant_type") != "client_credentials" || r.FormValue("scope") != "write" {
			t.Errorf("%s %q %v", id, secret, r.Form)
		}
		if r.UserAgent() != "latpush/1.2.3" {
			t.Errorf("the token is asked for by %s", r.UserAgent())
		}
		n := s.requests.Add(1)
		if status := s.refuse.Load(); status != 0 {
			w.WriteHeader(int(status))
			fmt.Fprintf(w, "no token for %s", clientSecret)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		fmt.Fprintf(w, `{"access_token": "access-token-%d", "token_type": "bearer", "expires_in": 3600}`, n)
	})
	return s
}

func (s *tokens) configure(c *upload.Config) {
	c.HTTPClientConfig.OAuth2 = &config.OAuth2{ClientID: "latpush", ClientSecret: clientSecret, TokenURL: s.URL, Scopes: []string{"write"}}
}

func TestSendOAuth2(t *testing.T) {
	t.Parallel()
	tokens := newTokens(t)
	var got string
	server := serve(t, func(w http.ResponseWriter, r *http.Request) {
		got = r.Header.Get("Authorization")
		echo(w, r)
	})
	s := newSender(t, server.URL, tokens.configure)
	for range 2 {
		a := s.Send(t.Context(), request())
		if got != "Bearer access-token-1" || a.Verdict != upload.Rejected || a.Message != "headers: [<secret>] [] query:" {
			t.Errorf("sent %q, got %+v", got, a)
		}
		s.wantNoSecret(t, a, "access-token", clientSecret)
	}
	if n := tokens.requests.Load(); n != 1 {
		t.Errorf("%d tokens were asked for", n)
	}
}

// A token that the receiver no longer takes is not kept, though the time that it was given for has not passed.
func TestSendOAuth2TokenRevoked(t *testing.T) {
	t.Parallel()
	tokens := newTokens(t)
	valid := "Bearer access-token-1"
	server := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != valid {
			w.WriteHeader(http.StatusUnauthorized)
		}
	})
	s := newSender(t, server.URL, tokens.configure)
	for i, want := range []struct {
		valid   string
		verdict upload.Verdict
		tokens  int32
	}{
		{"Bearer access-token-1", upload.Accepted, 1},
		{"Bearer access-token-3", upload.Unauthorized, 1},
		{"Bearer access-token-3", upload.Unauthorized, 2},
		{"Bearer access-token-3", upload.Accepted, 3},
		{"Bearer access-token-3", upload.Accepted, 3},
	} {
		valid = want.valid
		if a := s.Send(t.Context(), request()); a.Verdict != want.verdict || tokens.requests.Load() != want.tokens {
			t.Errorf("attempt %d: got %+v after %d tokens, want %s after %d", i, a, tokens.requests.Load(), want.verdict, want.tokens)
		}
	}
}

func TestSendOAuth2Refused(t *testing.T) {
	t.Parallel()
	for status, verdict := range map[int]upload.Verdict{400: upload.Unauthorized, 401: upload.Unauthorized, 403: upload.Unauthorized, 429: upload.Retry, 500: upload.Retry, 503: upload.Retry} {
		t.Run(fmt.Sprint(status), func(t *testing.T) {
			t.Parallel()
			tokens := newTokens(t)
			tokens.refuse.Store(int32(status))
			var expected atomic.Bool
			server := serve(t, func(http.ResponseWriter, *http.Request) {
				if !expected.Load() {
					t.Error("a request without a token arrived")
				}
			})
			s := newSender(t, server.URL, tokens.configure)
			a := s.Send(t.Context(), request())
			if a.Verdict != verdict || a.Status != 0 || !strings.Contains(a.Err.Error(), "oauth2: cannot fetch token: ") {
				t.Errorf("got %+v, want %s", a, verdict)
			}
			s.wantNoSecret(t, a, clientSecret, url.QueryEscape(clientSecret))
			tokens.refuse.Store(0)
			expected.Store(true)
			if a := s.Send(t.Context(), request()); a.Verdict != upload.Accepted {
				t.Errorf("once the token server gives tokens: %+v", a)
			}
		})
	}
}

// A token server that cannot be reached is named without the secrets of its URL.
func TestSendOAuth2Unreachable(t *testing.T) {
	t.Parallel()
	server := serve(t, func(http.ResponseWriter, *http.Request) { t.Error("a request without a token arrived") })
	s := newSender(t, server.URL, func(c *upload.Config) {
		c.HTTPClientConfig.OAuth2 = &config.OAuth2{ClientID: "latpush", ClientSecret: clientSecret, TokenURL: "http://user:token-password@" + closedPort(t) + "/?hint=token-hint"}
	})
	a := s.Send(t.Context(), request())
	if a.Verdict != upload.Retry || !strings.Contains(a.Err.Error(), "connection refused") {
		t.Errorf("got %+v", a)
	}
	s.wantNoSecret(t, a, clientSecret, "token-password", "token-hint")
}

// closedPort gives an address of loopback on which nobody listens.
func closedPort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// Fetching a token heeds no context by itself: a token server that hangs must not hold the sender, nor be asked again and again, nor for ever.
func TestSendToHungTokenServer(t *testing.T) {
	t.Parallel()
	tokens := newTokens(t)
	var hanging atomic.Int32
	release := make(chan struct{})
	answer := tokens.Config.Handler
	tokens.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if hanging.Add(1) == 1 {
			<-release
			return
		}
		answer.ServeHTTP(w, r)
	})
	defer close(release)
	server := serve(t, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) })
	s := newSender(t, server.URL, func(c *upload.Config) {
		tokens.configure(c)
		c.RemoteTimeout = model.Duration(2 * time.Second)
		c.QueueConfig.MinBackoff, c.QueueConfig.MaxBackoff = model.Duration(time.Millisecond), model.Duration(time.Millisecond)
	})
	for range 3 {
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		begin := time.Now()
		if a := s.Send(ctx, request()); a.Verdict != upload.Retry || !errors.Is(a.Err, context.DeadlineExceeded) {
			t.Errorf("got %+v", a)
		}
		if took := time.Since(begin); took > time.Second {
			t.Errorf("it took %s", took)
		}
		cancel()
	}
	if n := hanging.Load(); n != 1 {
		t.Errorf("the token server was asked %d times while it was hanging", n)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if a, err := s.Deliver(ctx, request(), 0, nil); err != nil || a.Verdict != upload.Accepted {
		t.Errorf("got %+v, %v", a, err)
	}
}
