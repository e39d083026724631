package kernel

import (
	"net"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// othersRetransmits is how many segments of a kind other connections of this machine may send again during a test.
const othersRetransmits = 2

// listen is net.Listen without MPTCP, which knows no filters.
func listen(t *testing.T, address string) *net.TCPListener {
	t.Helper()
	var config net.ListenConfig
	config.SetMultipathTCP(false)
	listener, err := config.Listen(t.Context(), "tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	return listener.(*net.TCPListener)
}

// drop makes a socket ignore all packets that come.
func drop(t *testing.T, socket syscall.Conn) {
	t.Helper()
	raw, err := socket.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	filter := []unix.SockFilter{{Code: unix.BPF_RET | unix.BPF_K}}
	if controlErr := raw.Control(func(fd uintptr) {
		err = unix.SetsockoptSockFprog(int(fd), unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &unix.SockFprog{Len: 1, Filter: &filter[0]})
	}); controlErr != nil || err != nil {
		t.Fatal(controlErr, err)
	}
}

// statistic returns a number that the kernel counts in the network namespace of the calling thread.
func statistic(t *testing.T, file, protocol, name string) uint64 {
	t.Helper()
	var names []string
	for _, fields := range procFields(t, "/proc/thread-self/net/"+file) {
		switch {
		case fields[0] != protocol+":":
		case names == nil:
			names = fields
		default:
			return parse(t, fields[slices.Index(names, name)])
		}
	}
	t.Fatalf("%s has no %s", file, name)
	return 0
}

// retransmits returns how many segments of a family were counted by kind.
func retransmits(t *testing.T, k *Kernel, family string) map[string]uint64 {
	t.Helper()
	samples, losses, err := k.Read()
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range losses {
		if l.Events != 0 {
			t.Errorf("lost %d events: %s", l.Events, l.Reason)
		}
	}
	counts := map[string]uint64{}
	for _, s := range samples {
		if s.Metric.Name == "tcp_retransmits_total" && s.Values[0] == family {
			counts[s.Values[1]] = uint64(s.Value)
		}
	}
	return counts
}

// acceptIgnored returns a client's and a server's end of a connection of which the server's end ignores all packets from now on.
func acceptIgnored(t *testing.T, listener net.Listener) (client, server net.Conn) {
	t.Helper()
	client, err := net.Dial("tcp", listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	server, err = listener.Accept()
	if err != nil {
		t.Fatal(err)
	}
	drop(t, server.(*net.TCPConn))
	for _, end := range []net.Conn{client, server} {
		if err := end.(*net.TCPConn).SetLinger(0); err != nil { // nothing is sent once it is closed
			t.Fatal(err)
		}
	}
	return client, server
}

// dialFor tries to connect for a time.
func dialFor(d time.Duration, address string, control func(network, address string, c syscall.RawConn) error) error {
	dialer := net.Dialer{Timeout: d, Control: control}
	connection, err := dialer.Dial("tcp", address)
	if err == nil {
		_ = connection.Close()
	}
	return err
}

// skippedRetransmits returns how many segments of a family the kernel may have sent again without running a program, by kind. Each event is one
// segment here: of what nobody answers, TCP sends the first or the last again.
func skippedRetransmits(events []traced, family string) map[string]uint64 {
	address := map[string]string{"ipv4": "family=AF_INET ", "ipv6": "family=AF_INET6 "}[family]
	counts := map[string]uint64{}
	for _, e := range events {
		switch {
		case !strings.Contains(e.text, address) || !e.skipped():
		case e.event == "tcp_retransmit_synack":
			counts["syn_ack"]++
		case strings.Contains(e.text, "state=TCP_SYN_SENT"):
			counts["syn"]++
		default:
			counts["data"]++
		}
	}
	return counts
}

// SYNs that a listener ignores, its own ones that the client ignores, and data that the other end ignores are sent again, as often as the kernel's own
// statistics say.
func TestTCPRetransmitsAgreeWithStatistics(t *testing.T) {
	for _, how := range []string{TpBTF, RawTracepoint} {
		k := open(t, how, SourceConfig{Name: "tcp_retransmit"})
		for family, loopback := range map[string]string{"ipv4": "127.0.0.1:0", "ipv6": "[::1]:0"} {
			t.Run(how+" "+family, func(t *testing.T) {
				list := trace(t, "tcp/tcp_retransmit_skb", "tcp/tcp_retransmit_synack")
				inNetwork(t, func() {
					deaf, listener := listen(t, loopback), listen(t, loopback)
					defer deaf.Close()
					drop(t, deaf)
					defer listener.Close()
					before := retransmits(t, k, family)
					client, server := acceptIgnored(t, listener)
					defer client.Close()
					defer server.Close()
					for range 20 {
						if _, err := client.Write(make([]byte, 100<<10)); err != nil {
							t.Fatal(err)
						}
					}
					if err := dialFor(1200*time.Millisecond, deaf.Addr().String(), nil); err == nil {
						t.Error("a listener that ignores packets answered")
					}
					ignore := func(_, _ string, raw syscall.RawConn) error { drop(t, controlled{raw}); return nil }
					if err := dialFor(1200*time.Millisecond, listener.Addr().String(), ignore); err == nil {
						t.Error("a client that ignores packets has connected")
					}
					checkRetransmits(t, k, family, before, list)
				})
			})
		}
	}
}

// controlled is a connection that is about to be made.
type controlled struct{ raw syscall.RawConn }

func (c controlled) SyscallConn() (syscall.RawConn, error) { return c.raw, nil }

// checkRetransmits compares what was counted since before with the statistics of this namespace. Connections of it may send while both are read, and
// the kernel counts a segment a moment before it reports it.
func checkRetransmits(t *testing.T, k *Kernel, family string, before map[string]uint64, list func() []traced) {
	t.Helper()
	for attempt := 1; ; attempt++ {
		all, syns := statistic(t, "snmp", "Tcp", "RetransSegs"), statistic(t, "netstat", "TcpExt", "TCPSynRetrans")
		got := retransmits(t, k, family)
		for kind := range got {
			got[kind] -= before[kind]
		}
		skipped := skippedRetransmits(list(), family)
		// What the device had no room for is in the statistics all the same.
		failed := statistic(t, "netstat", "TcpExt", "TCPRetransFail")
		agree := func(want uint64, kinds ...string) bool {
			var counted, most uint64
			for _, kind := range kinds {
				if got[kind]+skipped[kind] == 0 {
					return false
				}
				counted, most = counted+got[kind], most+got[kind]+skipped[kind]
			}
			return most+failed >= want && counted <= want+othersRetransmits
		}
		if agree(syns, "syn", "syn_ack") && agree(all-syns, "data") {
			t.Logf("counted %v, skipped %v, the kernel %d, SYNs %d", got, skipped, all, syns)
			return
		}
		if attempt == 10 {
			t.Errorf("counted %v, skipped %v, the kernel %d, of them SYNs and answers to SYNs %d; %d failed", got, skipped, all, syns, failed)
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// fillQueue leaves no room for any packet in the queue of a device.
func fillQueue(device string) error {
	link, err := netlink.LinkByName(device)
	if err != nil {
		return err
	}
	request := nl.NewNetlinkRequest(unix.RTM_NEWQDISC, unix.NLM_F_CREATE|unix.NLM_F_EXCL|unix.NLM_F_ACK)
	request.AddData(&nl.TcMsg{
		Family: nl.FAMILY_ALL, Ifindex: int32(link.Attrs().Index), Handle: netlink.MakeHandle(1, 0), Parent: netlink.HANDLE_ROOT,
	})
	request.AddData(nl.NewRtAttr(nl.TCA_KIND, nl.ZeroTerminated("pfifo")))
	request.AddData(nl.NewRtAttr(nl.TCA_OPTIONS, nl.Uint32Attr(0))) // packets
	_, err = request.Execute(unix.NETLINK_ROUTE, 0)
	return err
}

// What the device's queue has no room for is not sent again, whatever the kernel's own statistics say: they count attempts.
func TestTCPRetransmitsThatFailAreNotCounted(t *testing.T) {
	for _, how := range []string{TpBTF, RawTracepoint} {
		t.Run(how, func(t *testing.T) {
			k := open(t, how, SourceConfig{Name: "tcp_retransmit"})
			inNetwork(t, func() {
				listener := listen(t, "[::1]:0")
				defer listener.Close()
				client, server := acceptIgnored(t, listener)
				defer client.Close()
				defer server.Close()
				before := retransmits(t, k, "ipv6")["data"]
				if _, err := client.Write([]byte("x")); err != nil {
					t.Fatal(err)
				}
				if err := fillQueue("lo"); err != nil {
					t.Fatal(err)
				}
				deadline := time.Now().Add(10 * time.Second)
				for statistic(t, "snmp", "Tcp", "RetransSegs") < othersRetransmits+2 {
					if time.Now().After(deadline) {
						t.Fatal("the kernel has not sent again for ten seconds")
					}
					time.Sleep(10 * time.Millisecond)
				}
				if got := retransmits(t, k, "ipv6")["data"] - before; got > othersRetransmits {
					t.Errorf("counted %d segments that were not sent, want none", got)
				}
			})
		})
	}
}
