package upload

import (
	"errors"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
)

// attemptError is why an attempt did not succeed. It answers to errors.Is for what caused it, but does not unwrap to it: the errors of the HTTP client have URLs
// and headers in them that nobody may print.
type attemptError struct {
	text  string
	cause error // may be nil
}

func (e *attemptError) Error() string { return e.text }

// Is tells whether the cause is target.
func (e *attemptError) Is(target error) bool { return errors.Is(e.cause, target) }

// Timeout tells whether time ran out, as net.Error does.
func (e *attemptError) Timeout() bool { return timedOut(e.cause) }

func timedOut(err error) bool {
	var t interface{ Timeout() bool }
	return errors.As(err, &t) && t.Timeout()
}

// proxyStatus gives 407 if a proxy has refused to open a tunnel without other credentials, or else 0. All that the HTTP client tells of a proxy's answer is the
// phrase behind the status; one that a proxy has written in its own words is not recognised, and the attempt is one that got no answer.
func proxyStatus(err error) int {
	for inner := err; inner != nil; inner = errors.Unwrap(inner) {
		err = inner
	}
	if err != nil && err.Error() == http.StatusText(http.StatusProxyAuthRequired) {
		return http.StatusProxyAuthRequired
	}
	return 0
}

// attemptText writes an error of the HTTP client without URLs, and without local ports, which would make every attempt's error a new one.
func attemptText(err error) string {
	text := err.Error()
	for {
		var outer *url.Error
		if !errors.As(err, &outer) {
			break
		}
		text = strings.Replace(text, outer.Error(), outer.Err.Error(), 1)
		err = outer.Err
	}
	return withoutLocalPort(text)
}

// withoutLocalPort shortens "10.0.0.7:41234->192.0.2.1:443" to "192.0.2.1:443".
func withoutLocalPort(text string) string {
	var b strings.Builder
	for {
		local, rest, ok := strings.Cut(text, "->")
		if !ok {
			b.WriteString(text)
			return b.String()
		}
		start := strings.LastIndexByte(local, ' ') + 1
		if _, err := netip.ParseAddrPort(local[start:]); err == nil {
			local = local[:start]
		} else {
			local += "->"
		}
		b.WriteString(local)
		text = rest
	}
}
