// Package costtests measures in a guest what cannot be measured on every machine: the cost of function probes. Under emulation only ratios mean
// anything, so what is compared is measured in turn. It has the build tag guest and is run by the benchmark of package matrix.
package costtests
