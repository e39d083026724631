// Package upload posts remote write requests to one receiver and says what became of them.
//
// In comes one promwire.Request at a time. Out goes a POST with the credentials, certificates, proxy and headers of a Config, and back comes an Answer:
// accepted, to be tried again, rejected for good, or not authorised. Deliver goes on trying until the answer is final, with exponential backoff and jitter, and
// waits as long as the receiver asks. The receiver's words are passed on and logged, never interpreted; the status alone decides.
//
// What can go wrong: a Config that contradicts itself or names a file that cannot be read is a KeyError from Validate and New, before anything is sent. After
// that nothing is an error of this package but an Answer; only the end of the context makes Deliver give up. No password, token or header value that the Config
// calls secret is in any error, message, log line or metric.
package upload
