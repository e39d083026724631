package upload

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"

	"golang.org/x/oauth2"

	"github.com/latpush/latpush/internal/promwire"
)

// Verdict is what an attempt means for the request.
type Verdict int

// The verdicts. The zero Verdict is Retry, so that an Answer nobody has filled in loses nothing.
const (
	// Retry: no answer, a 5xx, or a 429 that is to be repeated. The request may be accepted later.
	Retry Verdict = iota
	// Accepted: a 2xx. The receiver has taken the request.
	Accepted
	// Rejected: any other 4xx. The answer is final for this request; the next one may be accepted.
	Rejected
	// Unauthorized: 401, 403, a proxy's 407, a refusal of the OAuth 2.0 server, or a redirect that is not followed, as the log-in page of a network sends. No
	// request will be accepted until credentials or the network change, and none is lost by waiting.
	Unauthorized
	// TooLarge: 413. The request's halves may be accepted. A caller that cannot halve it, and drops it, says so with Refuse.
	TooLarge
	// Unsupported: the receiver does not know remote write 2.0. It has answered 415, or a 2xx without any of the headers in which a receiver of 2.0 says what
	// it has written, as old receivers do that find nothing in the message. Nothing is written; the same samples may be accepted as 1.0.
	Unsupported
)

// String gives the verdict as a word.
func (v Verdict) String() string {
	switch v {
	case Retry:
		return "retry"
	case Accepted:
		return "accepted"
	case Rejected:
		return "rejected"
	case Unauthorized:
		return "unauthorized"
	case TooLarge:
		return "too large"
	case Unsupported:
		return "unsupported"
	}
	return fmt.Sprintf("Verdict(%d)", int(v))
}

// Answer is what came of one attempt.
type Answer struct {
	Verdict    Verdict
	Status     int           // the HTTP status, 0 if no answer came
	RetryAfter time.Duration // how long the receiver asks to wait, 0 if it does not ask
	Message    string        // the receiver's words, valid UTF-8 of at most 4 KiB, without secrets; with a redirect that is not followed, where it leads
	Err        error         // why the request was not accepted, nil with Accepted; its text has no secrets
	Written    *Written      // what a receiver of remote write 2.0 says it has written, whatever the status; nil if it says nothing, and with 1.0

	provisional bool // with Rejected: not counted yet, for the same samples may be accepted as remote write 1.0
}

const (
	maxMessage    = 4 << 10          // of a receiver's words, in bytes
	maxDrain      = 64 << 10         // what is read of the rest to keep the connection; a longer answer costs the connection
	maxRetryAfter = 10 * time.Minute // a receiver that asks for more is asked again after this
)

// classify turns a status into a verdict.
func (c *Client) classify(status int, p promwire.Protocol) Verdict {
	switch {
	case status >= 200 && status <= 299:
		return Accepted
	case status >= 500:
		return Retry
	case status == http.StatusTooManyRequests && c.config.QueueConfig.RetryOnRateLimit:
		return Retry
	case status == http.StatusUnauthorized, status == http.StatusForbidden, status == http.StatusProxyAuthRequired:
		return Unauthorized
	case status >= 300 && status <= 399:
		return Unauthorized
	case status == http.StatusRequestEntityTooLarge:
		return TooLarge
	case status == http.StatusUnsupportedMediaType && p == promwire.V2:
		return Unsupported
	}
	return Rejected
}

// answer reads a response to its end, within bounds, and closes it.
func (c *Client) answer(resp *http.Response, p promwire.Protocol, sent ...string) Answer {
	defer resp.Body.Close()
	a := Answer{Verdict: c.classify(resp.StatusCode, p), Status: resp.StatusCode}
	if p == promwire.V2 {
		a.Written = c.written(resp.Header)
	}
	if a.Verdict == Accepted {
		_, _ = io.CopyN(io.Discard, resp.Body, maxDrain) // what it says is ignored, even if it breaks off
		if p == promwire.V2 && a.Written == nil {
			text := fmt.Sprintf("receive status %d without a word on what was written (the receiver does not know %s)", resp.StatusCode, p)
			a.Verdict, a.Err = Unsupported, &attemptError{text: text}
		}
		return a
	}
	// Twice as much as is shown, so that a secret at the end is not cut in two before it is found. Words that break off are as good as they are.
	words, _ := io.ReadAll(io.LimitReader(resp.Body, 2*maxMessage))
	_, _ = io.CopyN(io.Discard, resp.Body, maxDrain)
	message := string(words)
	if location, err := resp.Location(); err == nil && resp.StatusCode <= 399 {
		message = "redirect to " + redacted(location).String()
	}
	a.Message = c.presentable(message, sent...)
	if a.Verdict == Retry {
		a.RetryAfter = retryAfter(resp.Header, time.Now())
	}
	a.Err = &attemptError{text: strings.TrimSpace(fmt.Sprintf("receive status %d %s", resp.StatusCode, http.StatusText(resp.StatusCode)))}
	if a.Message != "" {
		a.Err = &attemptError{text: a.Err.Error() + ": " + a.Message}
	}
	return a
}

// presentable makes a text valid, bounded and free of secrets.
func (c *Client) presentable(text string, sent ...string) string {
	text = c.config.scrub(strings.TrimSpace(text), sent...)
	if len(text) > maxMessage {
		text = text[:maxMessage]
	}
	return strings.ToValidUTF8(text, "\uFFFD")
}

// retryAfter reads how long to wait from a Retry-After header: seconds, or a date. A date is taken relative to the Date header, since the clock of this host may
// be wrong, and to now without one.
func retryAfter(h http.Header, now time.Time) time.Duration {
	value := strings.TrimSpace(h.Get("Retry-After"))
	if value == "" {
		return 0
	}
	if strings.Trim(value, "0123456789") == "" {
		seconds, err := strconv.ParseUint(value, 10, 64)
		if err != nil || seconds > uint64(maxRetryAfter/time.Second) {
			return maxRetryAfter
		}
		return time.Duration(seconds) * time.Second
	}
	at, err := http.ParseTime(value)
	if err != nil {
		return 0
	}
	if date, err := http.ParseTime(h.Get("Date")); err == nil {
		now = date
	}
	return min(max(at.Sub(now), 0), maxRetryAfter)
}

// failure makes an Answer of an attempt that got none.
func (c *Client) failure(err error, sent ...string) Answer {
	a := Answer{Verdict: Retry, Err: &attemptError{text: c.presentable(attemptText(err), sent...), cause: err}}
	// The authorisation server refuses the credentials; its 5xx and its silence are like the receiver's.
	var refused *oauth2.RetrieveError
	if a.Status = proxyStatus(err); a.Status != 0 {
		a.Verdict = Unauthorized
	}
	if errors.As(err, &refused) && refused.Response != nil && refused.Response.StatusCode/100 == 4 && refused.Response.StatusCode != http.StatusTooManyRequests {
		a.Verdict = Unauthorized
	}
	return a
}
