// Package systemdtests tries deploy/latpush.service as it is under the systemd of Debian, which is the first process of the guest. Each test package
// runs in a guest of its own: see package matrix.
package systemdtests
