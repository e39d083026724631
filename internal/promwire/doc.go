// Package promwire turns snapshots into the bodies of Prometheus remote write requests, of version 1.0 and of 2.0.
//
// In come complete snapshots, one or several ticks of them, in any number of families. Out come requests in the order in which they are to be sent: a snappy
// block of a protobuf message each, bounded in samples and bytes, with the samples of one series together and ascending in time. A classic histogram becomes the
// lines that the Go client's exposition has, _bucket with cumulative le up to +Inf, _sum in seconds and _count, and all of its lines at one timestamp are in one
// request, so that a receiver never stores half of a histogram. A family can be sent as native histograms instead: with its own bounds, or as one of Prometheus's
// exponential schemas if its bounds are one's. Label sets that are missing end with stale markers, and idle ones can be left out for a while; what that refers
// to is the newest snapshot that was accepted, so the same snapshots can be encoded once more, for a receiver that turns out not to speak 2.0.
//
// Messages are framed here and not filled into prompb's types first: labels are prepared once for a label set (in 1.0 as bytes, in 2.0 as numbers of strings,
// from which each request makes its own table of symbols), and the timestamps of a label set's samples once for all of its lines. The tests demand that prompb's
// Marshal of the decoded message gives the same bytes.
//
// What can go wrong: a family or a label set that contradicts itself (ErrMalformed). It is left out, everything else is encoded, and the error says which.
package promwire
