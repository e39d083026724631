// Package endtoend holds the tests that run the agent's binary against real receivers: known work is done under the running kernel's
// tracepoints, and what PromQL answers has to equal it.
package endtoend
