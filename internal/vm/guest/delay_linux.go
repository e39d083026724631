package guest

import (
	"fmt"
	"time"

	"github.com/vishvananda/netlink"
)

// queueLimit is how many packets wait at most on a slowed interface; sch_netem's own default of 1000 drops packets of a busy NFS mount.
const queueLimit = 100_000

// AddDelay makes every packet that leaves through an interface wait, with sch_netem. On lo both directions leave through it: a round trip takes twice d.
// A delay that is there already is replaced.
func AddDelay(device string, d time.Duration) error {
	return impair(device, netlink.NetemQdiscAttrs{Latency: uint32(d.Microseconds()), Limit: queueLimit})
}

// DropPackets loses every packet that leaves through an interface, with sch_netem, until RemoveDelay: what is at the other end is dead.
func DropPackets(device string) error {
	return impair(device, netlink.NetemQdiscAttrs{Loss: 100, Limit: queueLimit})
}

func impair(device string, attributes netlink.NetemQdiscAttrs) error {
	if err := LoadModule("sch_netem"); err != nil {
		return err
	}
	link, err := netlink.LinkByName(device)
	if err != nil {
		return fmt.Errorf("find interface %s: %w", device, err)
	}
	if err := netlink.QdiscReplace(netlink.NewNetem(rootOf(link), attributes)); err != nil {
		return fmt.Errorf("slow down %s: %w", device, err)
	}
	return nil
}

// RemoveDelay takes the delay, or the loss, of an interface away. Packets that were waiting are dropped, and sent again by TCP.
func RemoveDelay(device string) error {
	link, err := netlink.LinkByName(device)
	if err != nil {
		return fmt.Errorf("find interface %s: %w", device, err)
	}
	if err := netlink.QdiscDel(&netlink.GenericQdisc{QdiscAttrs: rootOf(link), QdiscType: "netem"}); err != nil {
		return fmt.Errorf("speed up %s: %w", device, err)
	}
	return nil
}

func rootOf(link netlink.Link) netlink.QdiscAttrs {
	return netlink.QdiscAttrs{LinkIndex: link.Attrs().Index, Handle: netlink.MakeHandle(1, 0), Parent: netlink.HANDLE_ROOT}
}
