package upload

import (
	"net/http"
	"time"
)

// RetryAfter is retryAfter.
func RetryAfter(h http.Header, now time.Time) time.Duration { return retryAfter(h, now) }

// Replace makes the Client use another transport, and another source of random numbers if one is given.
func (c *Client) Replace(transport http.RoundTripper, random func(n int64) int64) {
	c.http.Transport = transport
	if random != nil {
		c.random = random
	}
}

// Pause is pause.
func (c *Client) Pause(attempts int, a *Answer) time.Duration { return c.pause(attempts, a) }
