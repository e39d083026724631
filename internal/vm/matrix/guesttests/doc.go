// Package guesttests holds the tests that run inside the guests of the kernel matrix, as root, on a machine that is theirs alone. They have the build
// tag guest, so that no ordinary run of the tests touches the machine it runs on.
package guesttests
