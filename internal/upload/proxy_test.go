package upload_test

import (
	"context"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/prometheus/common/config"

	"github.com/latpush/latpush/internal/upload"
)

// newProxy starts a proxy that demands a password, and sends everything to one address whatever the client wants.
func newProxy(t *testing.T, to string) (proxy *httptest.Server, used *atomic.Int32) {
	used = &atomic.Int32{}
	want := "Basic " + base64.StdEncoding.EncodeToString([]byte("proxyuser:proxy-password"))
	return serve(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Proxy-Authorization") != want {
			w.WriteHeader(http.StatusProxyAuthRequired)
			fmt.Fprint(w, "not with ", r.Header.Get("Proxy-Authorization"))
			return
		}
		used.Add(1)
		if r.Method == http.MethodConnect {
			tunnel(t, w, to)
			return
		}
		out, err := http.NewRequestWithContext(r.Context(), r.Method, "http://"+to+r.URL.Path, r.Body)
		if err != nil {
			t.Error(err)
			return
		}
		out.Header = r.Header
		resp, err := http.DefaultTransport.RoundTrip(out)
		if err != nil {
			w.WriteHeader(http.StatusBadGateway)
			return
		}
		defer resp.Body.Close()
		w.WriteHeader(resp.StatusCode)
		_, _ = io.Copy(w, resp.Body)
	}), used
}

// tunnel connects a CONNECT request with an address.
func tunnel(t *testing.T, w http.ResponseWriter, to string) {
	t.Helper()
	far, err := net.Dial("tcp", to)
	if err != nil {
		t.Error(err)
		return
	}
	near, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		t.Error(err)
		return
	}
	_, _ = io.WriteString(near, "HTTP/1.1 200 OK\r\n\r\n")
	go func() {
		defer far.Close()
		_, _ = io.Copy(far, near)
	}()
	go func() {
		defer near.Close()
		_, _ = io.Copy(near, far)
	}()
}

func TestSendThroughProxy(t *testing.T) {
	t.Parallel()
	ca := newAuthority(t)
	handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Host != "receiver.example" && !strings.HasPrefix(r.Host, "127.0.0.1") {
			t.Errorf("the host is %s", r.Host)
		}
		w.WriteHeader(http.StatusNoContent)
	})
	plain, encrypted := serve(t, handler), ca.server(t, false, handler)
	proxyTo := func(s *httptest.Server, password string) (func(*upload.Config), *atomic.Int32) {
		proxy, used := newProxy(t, s.Listener.Addr().String())
		return func(c *upload.Config) {
			c.HTTPClientConfig.ProxyURL = *mustURL(t, "http://proxyuser:"+password+"@"+proxy.Listener.Addr().String())
			c.HTTPClientConfig.TLSConfig.CAFile = ca.caFile(t)
		}, used
	}
	for _, c := range []struct {
		name    string
		server  *httptest.Server
		url     string
		word    string
		noProxy string
		used    int32
		want    upload.Verdict
		status  int
	}{
		{"http", plain, "http://receiver.example/push", "proxy-password", "", 1, upload.Accepted, 204},
		{"https", encrypted, "https://receiver.example/push", "proxy-password", "", 1, upload.Accepted, 204},
		{"wrong password, http", plain, "http://receiver.example/push", "wrong-password", "", 0, upload.Unauthorized, 407},
		{"wrong password, https", encrypted, "https://receiver.example/push", "wrong-password", "", 0, upload.Unauthorized, 407},
		{"no_proxy", plain, plain.URL, "proxy-password", "127.0.0.0/8", 0, upload.Accepted, 204},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			through, used := proxyTo(c.server, c.word)
			s := newSender(t, c.url, func(u *upload.Config) {
				through(u)
				u.HTTPClientConfig.NoProxy = c.noProxy
			})
			a := s.Send(t.Context(), request())
			if a.Verdict != c.want || a.Status != c.status {
				t.Errorf("got %+v, want %s with status %d", a, c.want, c.status)
			}
			if n := used.Load(); n != c.used {
				t.Errorf("%d requests went through the proxy, want %d", n, c.used)
			}
			s.wantNoSecret(t, a, c.word, base64.StdEncoding.EncodeToString([]byte("proxyuser:"+c.word)))
		})
	}
}

// The codes of SOCKS version 5, RFC 1928 and 1929.
const (
	socksVersion  = 5
	socksNoAuth   = 0
	socksPassword = 2
	socksNone     = 0xff
	socksByName   = 3
)

// socksProxy is a SOCKS5 proxy that demands a password, and connects everything to one address whatever the client wants.
type socksProxy struct {
	ctx      context.Context // ends the connections
	to       string
	password string // "" demands none
	wanted   chan string
}

// serve handles one connection.
func (p *socksProxy) serve(conn *net.TCPConn) {
	target, err := p.handshake(conn)
	if err != nil {
		return
	}
	p.wanted <- target
	far, err := net.Dial("tcp", p.to)
	if err != nil {
		return
	}
	defer far.Close()
	defer context.AfterFunc(p.ctx, func() {
		far.Close()
		conn.Close()
	})()
	_, _ = conn.Write([]byte{socksVersion, 0, 0, 1, 0, 0, 0, 0, 0, 0})
	go func() {
		_, _ = io.Copy(far, conn)
		_ = far.(*net.TCPConn).CloseWrite()
	}()
	_, _ = io.Copy(conn, far)
}

// handshake gives where the client wants to be connected to.
func (p *socksProxy) handshake(conn net.Conn) (string, error) {
	read := func(n int) []byte {
		b := make([]byte, n)
		_, _ = io.ReadFull(conn, b)
		return b
	}
	head := read(2)
	methods := read(int(head[1]))
	method := byte(socksNone)
	for _, m := range methods {
		if p.password == "" && m == socksNoAuth || p.password != "" && m == socksPassword {
			method = m
		}
	}
	_, _ = conn.Write([]byte{socksVersion, method})
	switch method {
	case socksNone:
		return "", errors.New("no method fits")
	case socksPassword:
		user := read(int(read(2)[1]))
		password := read(int(read(1)[0]))
		if string(user) != "proxyuser" || string(password) != p.password {
			_, _ = conn.Write([]byte{1, 1})
			return "", errors.New("wrong password")
		}
		_, _ = conn.Write([]byte{1, 0})
	}
	var host string
	switch request := read(4); request[3] {
	case socksByName:
		host = string(read(int(read(1)[0])))
	default:
		host = net.IP(read(4)).String()
	}
	return fmt.Sprint(host, ":", binary.BigEndian.Uint16(read(2))), nil
}

func TestSendThroughSOCKS(t *testing.T) {
	t.Parallel()
	ca := newAuthority(t)
	handler := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) })
	plain, encrypted := serve(t, handler), ca.server(t, false, handler)
	for _, c := range []struct {
		name     string
		scheme   string
		url      string
		server   *httptest.Server
		password string // the proxy's
		given    string
		wanted   string // what the proxy is asked for; "" if it is not reached
	}{
		{"http", "socks5", "http://receiver.example/push", plain, "", "", "receiver.example:80"},
		{"http, names looked up by the proxy", "socks5h", "http://receiver.example:9009/push", plain, "", "", "receiver.example:9009"},
		{"https", "socks5", "https://receiver.example/push", encrypted, "", "", "receiver.example:443"},
		{"with a password", "socks5", "https://receiver.example/push", encrypted, "proxy-password", "proxy-password", "receiver.example:443"},
		{"with a wrong password", "socks5", "https://receiver.example/push", encrypted, "proxy-password", "wrong-password", ""},
		{"without the password", "socks5", "https://receiver.example/push", encrypted, "proxy-password", "", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			p := &socksProxy{ctx: t.Context(), to: c.server.Listener.Addr().String(), password: c.password, wanted: make(chan string, 1)}
			address := strings.Trim(rawServer(t, p.serve), "htp:/")
			s := newSender(t, c.url, func(u *upload.Config) {
				proxy := url.URL{Scheme: c.scheme, Host: address}
				if c.given != "" {
					proxy.User = url.UserPassword("proxyuser", c.given)
				}
				u.HTTPClientConfig.ProxyURL = config.URL{URL: &proxy}
				u.HTTPClientConfig.TLSConfig.CAFile = ca.caFile(t)
			})
			a := s.Send(t.Context(), request())
			if c.wanted == "" {
				if a.Verdict != upload.Retry || a.Status != 0 || len(p.wanted) != 0 {
					t.Errorf("got %+v", a)
				}
				s.wantNoSecret(t, a, "wrong-password")
				return
			}
			if a.Verdict != upload.Accepted || a.Status != http.StatusNoContent {
				t.Fatalf("got %+v", a)
			}
			if got := <-p.wanted; got != c.wanted {
				t.Errorf("the proxy was asked for %s, want %s", got, c.wanted)
			}
		})
	}
}

// A proxy that is down, or fails, is trouble that passes.
func TestSendThroughBrokenProxy(t *testing.T) {
	t.Parallel()
	failing := serve(t, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusBadGateway) })
	for proxy, status := range map[string]int{"http://" + closedPort(t): 0, "socks5://" + closedPort(t): 0, failing.URL: 502} {
		s := newSender(t, "http://receiver.example/", func(c *upload.Config) { c.HTTPClientConfig.ProxyURL = *mustURL(t, proxy) })
		if a := s.Send(t.Context(), request()); a.Verdict != upload.Retry || a.Status != status {
			t.Errorf("%s: got %+v", proxy, a)
		}
	}
}

// A redirect is followed from http to https of the same host, and never back, nor to another host, port or protocol: whatever the status, the credentials stay.
func TestRedirectsKeepCredentials(t *testing.T) {
	t.Parallel()
	ca := newAuthority(t)
	for _, status := range []int{301, 302, 303, 307, 308} {
		for _, c := range []struct {
			name     string
			from, to string // plain, encrypted, or the other plain server
			follow   bool   // 307 and 308 are followed
		}{
			{"https to http", "encrypted", "plain", false},
			{"http to https", "plain", "encrypted", true},
			{"other port", "plain", "other", false},
			{"other name of the same host", "plain", "name", false},
		} {
			t.Run(fmt.Sprint(status, " ", c.name), func(t *testing.T) {
				t.Parallel()
				var arrived atomic.Int32
				target := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					arrived.Add(1)
					if _, password, _ := r.BasicAuth(); !c.follow || r.Method != http.MethodPost || password != "redirect-password" {
						t.Errorf("%s %s arrived with the password %q", r.Method, r.URL, password)
					}
				})
				to := ""
				redirect := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					if r.URL.Path == "/target" {
						target.ServeHTTP(w, r)
						return
					}
					w.Header().Set("Location", to)
					w.WriteHeader(status)
				})
				plain, encrypted, other := serve(t, redirect), ca.server(t, false, redirect), serve(t, redirect)
				servers := map[string]string{
					"plain": plain.URL, "encrypted": encrypted.URL, "other": other.URL, "name": strings.Replace(plain.URL, "127.0.0.1", "localhost", 1),
				}
				to = servers[c.to] + "/target"
				s := newSender(t, servers[c.from], func(u *upload.Config) {
					u.HTTPClientConfig.BasicAuth = &config.BasicAuth{Username: "edge", Password: "redirect-password"}
					u.HTTPClientConfig.TLSConfig.CAFile = ca.caFile(t)
				})
				a := s.Send(t.Context(), request())
				followed := c.follow && status >= 307
				if followed != (a.Verdict == upload.Accepted) || followed != (arrived.Load() == 1) || !followed && (a.Verdict != upload.Unauthorized || a.Status != status) {
					t.Errorf("got %+v, %d requests arrived", a, arrived.Load())
				}
			})
		}
	}
}
