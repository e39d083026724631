// Package receivers starts the receivers that hosts really push to, for tests and measurements: Prometheus as it is released today, the old one
// that Debian ships, and VictoriaMetrics.
//
// What enters is which program and with what settings; what leaves is a server on loopback that is ready, and its query API. Programs that no
// package offers are built by the Go client, once for each version, into a cache folder that all tests of the machine share. What can go wrong:
// there is no network to build from, or a package is not installed. With CI set that fails the test, elsewhere it skips the test and says why.
package receivers
