package kernel

import (
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// inNetwork runs f on a thread of its own in a network namespace of its own, which has loopback. Sockets that f opens stay in it, whoever uses them.
func inNetwork(t *testing.T, f func()) {
	t.Helper()
	onThread(func() {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			t.Error("make a network namespace:", err)
			return
		}
		loopback, err := netlink.LinkByName("lo")
		if err != nil {
			t.Error("find loopback:", err)
			return
		}
		if err := netlink.LinkSetUp(loopback); err != nil {
			t.Error("switch loopback on:", err)
			return
		}
		f()
	})
}
