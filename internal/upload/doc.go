// Package upload posts remote write requests to one receiver and says what became of them.
//
// In comes one promwire.Request at a time, of remote write 1.0 or 2.0. Out goes a POST with the credentials, certificates, proxy and headers of a Config, and back
// comes an Answer whose Verdict says what it means for the request: accepted, to be tried again, rejected for good, not authorised, too large, or of a protocol
// that the receiver does not know. The status decides, and with 2.0 the headers in which a receiver counts what it has written. Its words are passed on and
// logged, once per change, and never interpreted. Redirects are followed only to the same server, and only if they repeat the POST.
//
// Deliver goes on trying while that can help: with exponential backoff and full jitter, or as long as the receiver asks; with refused credentials now and then,
// and at once when a file with a secret has changed. A request that only ever gets 5xx is handed back after a while. Samples are counted when their fate is known:
// each ends as accepted, unwritten or rejected; what the caller gives up it passes to Refuse.
//
// Config is one entry of remote_write, with the keys that it has in Prometheus. Keys that latpush does not have are errors; ForeignKey explains those of
// Prometheus. The keys about batches, metadata, budgets, staleness and quarantine are only kept and checked here; who encodes and paces acts on them.
//
// What can go wrong: a Config that contradicts itself or names a file that cannot be read is a KeyError for each key, joined, from Validate and New, before
// anything is sent. After that nothing is an error of this package but an Answer; only the end of the context makes Deliver give up. An attempt takes at most
// remote_timeout, whatever the receiver does, and a TLS handshake at most ten seconds, which the HTTP library sets. No password, token or header value that
// the Config calls secret is in any error, message, log line or metric.
package upload
