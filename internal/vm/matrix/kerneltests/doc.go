// Package kerneltests holds the tests of the sources that need a machine of their own: modules that are loaded on demand, a real NFS server and
// mount, block devices of known latency, function probes. They have the build tag guest and run in the guests of the kernel matrix.
package kerneltests
