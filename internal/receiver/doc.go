// Package receiver is a small Prometheus for `make run` and for the end-to-end tests: Prometheus's own time series database, remote
// write handler, PromQL engine and HTTP API behind one loopback address, and a page that draws any histogram as a live heatmap.
//
// What enters: remote write 1.0 and 2.0 requests on /api/v1/write, classic and native histograms and any other series.
// What leaves: answers of Prometheus's query API (/api/v1/..., usable as a Grafana data source), the page on / with its data on
// /api/heatmap, a summary of all histograms on /api/summary, and the receiver's own metrics on /metrics.
// What can go wrong: the address or the folder is in use, the folder cannot be written. Samples are judged as Prometheus judges them:
// those older than the out-of-order window get 400 and are not stored.
//
// It belongs to no room of the agent and imports none: agent and receiver only meet over HTTP.
package receiver
