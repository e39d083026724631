package upload

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/common/config"

	"github.com/latpush/latpush/internal/promwire"
)

// Client sends to one receiver. It is for one goroutine: a receiver's requests are sent one after the other.
type Client struct {
	config   Config
	connect  func() (*http.Client, error)
	http     *http.Client
	flight   chan struct{} // has an element while http is in use
	log      *slog.Logger
	metrics  *metrics
	traffic  *traffic
	overhead int                 // what the last attempt that was answered has cost beside its body, in bytes
	random   func(n int64) int64 // uniform in [0, n)
	stale    bool                // the last attempt timed out: its connection is not to be trusted
	revoked  bool                // the last attempt's token was refused: another one is to be fetched
	knows2   bool                // the receiver has taken a request of remote write 2.0
	said     said
}

// New makes a Client. version is the agent's, for the User-Agent header. The error is that of Config.Validate, a *KeyError, unless reg refuses the metrics. A nil
// reg is allowed.
func New(c Config, version string, log *slog.Logger, reg prometheus.Registerer) (*Client, error) {
	if err := c.Validate(); err != nil {
		return nil, err
	}
	h, err := c.httpClientConfig()
	if err != nil {
		return nil, err
	}
	m, err := newMetrics(reg, c.Receiver())
	if err != nil {
		return nil, fmt.Errorf("register metrics: %w", err)
	}
	t := &traffic{sent: m.network.WithLabelValues("sent"), received: m.network.WithLabelValues("received")}
	connect := func() (*http.Client, error) { return newHTTPClient(&c, h, version, t) }
	client, err := connect()
	if err != nil {
		return nil, err
	}
	overhead := plainOverhead
	if c.URL.Scheme == "https" {
		overhead = encryptedOverhead
	}
	return &Client{
		config: c, connect: connect, http: client, flight: make(chan struct{}, 1), log: log.With("receiver", c.Receiver()), metrics: m, traffic: t,
		overhead: overhead, random: rand.Int64N, said: said{lines: make(map[string]mention)},
	}, nil
}

// newHTTPClient makes what requests are sent with, from an entry and its checked HTTP part.
func newHTTPClient(c *Config, h config.HTTPClientConfig, version string, t *traffic) (*http.Client, error) {
	dial := dialer(time.Duration(c.RemoteTimeout), t)
	client, err := config.NewClientFromConfig(h, c.Receiver(), config.WithUserAgent("latpush/"+version), config.WithDialContextFunc(dial))
	if err != nil {
		return nil, fmt.Errorf("make HTTP client: %w", err)
	}
	if c.HTTPClientConfig.FollowRedirects {
		client.CheckRedirect = checkRedirect
	}
	return client, nil
}

// Close closes the connections. The Client must not be in use.
func (c *Client) Close() { c.hangUp() }

// hangUp closes connections that are not in use, so that the next attempt makes a new one.
func (c *Client) hangUp() {
	select {
	case c.flight <- struct{}{}:
		c.http.CloseIdleConnections()
		<-c.flight
	default:
	}
}

// forgetToken makes the next attempt fetch a token of OAuth 2.0, for the HTTP client keeps the one it has until the time that it was given for, which may be
// for ever, though the receiver knows it no longer.
func (c *Client) forgetToken() error {
	select {
	case c.flight <- struct{}{}:
		defer func() { <-c.flight }()
	default: // a token is being fetched
		return nil
	}
	fresh, err := c.connect()
	if err != nil {
		return err
	}
	c.http.CloseIdleConnections()
	c.http = fresh
	return nil
}

// Send makes one attempt. It takes at most remote_timeout, and less if ctx ends. After that the request's body is not read any more.
func (c *Client) Send(ctx context.Context, r promwire.Request) Answer {
	p := &payload{data: r.Body}
	before := c.Transferred()
	a, code := c.attempt(ctx, &r, p)
	read := p.take()
	if a.Status != 0 {
		c.overhead = max(0, int(c.Transferred()-before)-onWire(read))
	}
	c.metrics.count(&a, code, &r, read, time.Now())
	c.knows2 = c.knows2 || a.Verdict == Accepted && r.Protocol == promwire.V2
	// Old receivers answer 400 to a message that they do not know.
	a.provisional = a.Verdict == Rejected && a.Status == http.StatusBadRequest && r.Protocol == promwire.V2 && !c.knows2
	if ctx.Err() == nil || a.Status != 0 {
		c.say(ctx, &a, &r)
	}
	if a.Verdict == Rejected && !a.provisional {
		c.reject(ctx, &r, &a)
	}
	return a
}

// Refuse counts and logs the samples of a request that the caller drops because of this answer to it. A Rejected answer is counted already, and not again. It takes
// a caller to know that a request which is TooLarge cannot be halved, or that a receiver does not take as 1.0 either what was Unsupported, or what it answered
// with 400 without ever having taken 2.0.
func (c *Client) Refuse(r promwire.Request, a Answer) {
	if a.Verdict != Rejected || a.provisional {
		c.reject(context.Background(), &r, &a)
	}
}

// attempt posts the request and gives, beside the answer, the code for the metrics.
func (c *Client) attempt(parent context.Context, r *promwire.Request, p *payload) (Answer, string) {
	if c.stale {
		c.stale = false
		c.hangUp()
	}
	if c.revoked {
		c.revoked = false
		if err := c.forgetToken(); err != nil {
			return c.failure(err), "error"
		}
	}
	var sent credentials
	ctx, cancel := context.WithTimeout(sent.watch(parent), time.Duration(c.config.RemoteTimeout))
	defer cancel()
	req, err := c.newRequest(ctx, r, p)
	if err != nil {
		return c.failure(err), "error"
	}
	resp, err := c.do(req)
	if err == nil {
		c.revoked = resp.StatusCode == http.StatusUnauthorized && c.config.HTTPClientConfig.OAuth2 != nil
		return c.answer(resp, r.Protocol, sent.list()...), strconv.Itoa(resp.StatusCode)
	}
	a, code := c.failure(err, sent.list()...), "error"
	switch {
	case a.Status != 0:
		code = strconv.Itoa(a.Status)
	case parent.Err() != nil:
		code = "canceled"
	case ctx.Err() != nil || timedOut(err):
		// The connection may be dead without anybody having said so, as after a change of networks. HTTP/2 would go on using it. It can be closed once the
		// stream has been taken down, in the background, so that is left to the next attempt.
		code, c.stale = "timeout", true
	}
	return a, code
}

func (c *Client) newRequest(ctx context.Context, r *promwire.Request, p *payload) (*http.Request, error) {
	body, err := p.open()
	if err != nil {
		return nil, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, c.config.URL.String(), body)
	if err != nil {
		return nil, err
	}
	req.ContentLength, req.GetBody = int64(len(r.Body)), p.open
	for name, value := range c.config.Headers {
		req.Header.Set(name, string(value))
	}
	req.Header.Set("Content-Encoding", "snappy")
	req.Header.Set("Content-Type", r.ContentType)
	req.Header.Set("X-Prometheus-Remote-Write-Version", r.Version)
	return req, nil
}

// do is http.Client.Do, but ends with the request's context in any case: fetching an OAuth 2.0 token heeds no context. A fetch that hangs is waited for by the
// attempts after it, so that there is never more than one, and dialer bounds it in time.
func (c *Client) do(req *http.Request) (*http.Response, error) {
	ctx := req.Context()
	select {
	case c.flight <- struct{}{}:
	case <-ctx.Done():
		return nil, fmt.Errorf("wait for the attempt before: %w", ctx.Err())
	}
	type outcome struct {
		resp *http.Response
		err  error
	}
	done := make(chan outcome)
	go func() {
		resp, err := c.http.Do(req)
		<-c.flight
		select {
		case done <- outcome{resp, err}:
		case <-ctx.Done():
			if err == nil {
				resp.Body.Close()
			}
		}
	}()
	select {
	case o := <-done:
		return o.resp, o.err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// attemptKey marks the context of an attempt, to tell its connections from those that are made to fetch a token.
type attemptKey struct{}

// dialer gives a function that dials within the timeout and counts what the connections carry. Requests to the receiver are bounded by their contexts. Those for
// tokens have none, so their connections live no longer than the timeout.
func dialer(timeout time.Duration, t *traffic) config.DialContextFunc {
	d := net.Dialer{Timeout: timeout}
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		bare, err := d.DialContext(ctx, network, address)
		if err != nil {
			return nil, err
		}
		conn := &meteredConn{bare, t}
		if ctx.Value(attemptKey{}) != nil {
			return conn, nil
		}
		if err := conn.SetDeadline(time.Now().Add(timeout)); err != nil {
			_ = conn.Close() // it was not used
			return nil, fmt.Errorf("bound token request: %w", err)
		}
		return conn, nil
	}
}

// checkRedirect follows a redirect only if it repeats the POST, and only to the same server: headers with keys and the samples themselves are for no one else.
func checkRedirect(req *http.Request, via []*http.Request) error {
	const most = 3
	if req.Method != http.MethodPost || len(via) > most || !sameServer(via[len(via)-1].URL, req.URL) {
		return http.ErrUseLastResponse
	}
	return nil
}

// sameServer tells whether to is the server of from, or its encrypted form.
func sameServer(from, to *url.URL) bool {
	if !strings.EqualFold(from.Hostname(), to.Hostname()) {
		return false
	}
	if from.Scheme == to.Scheme {
		return port(from) == port(to)
	}
	return from.Scheme == "http" && to.Scheme == "https"
}

func port(u *url.URL) string {
	if p := u.Port(); p != "" {
		return p
	}
	if u.Scheme == "https" {
		return "443"
	}
	return "80"
}

// credentials collects what the HTTP client sends to prove who it is, a token of OAuth 2.0 for one, so that it can be kept out of logs.
type credentials struct {
	mu     sync.Mutex
	values []string
}

// watch gives the context of an attempt whose headers are collected.
func (s *credentials) watch(ctx context.Context) context.Context {
	trace := httptrace.ClientTrace{WroteHeaderField: func(key string, values []string) {
		if strings.EqualFold(key, "Authorization") {
			s.mu.Lock()
			defer s.mu.Unlock()
			s.values = append(s.values, values...)
		}
	}}
	return httptrace.WithClientTrace(context.WithValue(ctx, attemptKey{}, true), &trace)
}

// list gives the values, whole and without the word for the scheme before them.
func (s *credentials) list() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var all []string
	for _, v := range s.values {
		_, bare, _ := strings.Cut(v, " ")
		all = append(all, v, bare)
	}
	return all
}
