package endtoend

import (
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"runtime"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// namespace is a network of its own. It is gone when nothing is left in it.
type namespace struct {
	t    *testing.T
	file *os.File
}

func newNamespace(t *testing.T) *namespace {
	t.Helper()
	n := &namespace{t: t}
	onOwnThread(t, func() (err error) {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("make network namespace: %w", err)
		}
		n.file, err = os.Open(fmt.Sprintf("/proc/self/task/%d/ns/net", unix.Gettid()))
		return err
	})
	t.Cleanup(func() { _ = n.file.Close() })
	n.do(func() error { return up("lo") })
	return n
}

// do runs f in the namespace: the sockets and processes that it makes are there.
func (n *namespace) do(f func() error) {
	n.t.Helper()
	onOwnThread(n.t, func() error {
		if err := unix.Setns(int(n.file.Fd()), unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("enter network namespace: %w", err)
		}
		return f()
	})
}

// onOwnThread runs f on a thread that is used for nothing else and ends with it.
func onOwnThread(t *testing.T, f func() error) {
	t.Helper()
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // for good: the thread ends with the goroutine
		done <- f()
	}()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

func up(name string) error {
	device, err := netlink.LinkByName(name)
	if err != nil {
		return fmt.Errorf("find interface %s: %w", name, err)
	}
	if err := netlink.LinkSetUp(device); err != nil {
		return fmt.Errorf("bring interface %s up: %w", name, err)
	}
	return nil
}

// link connects the network of an edge host with that of a central one, with the addresses that documentation may use.
type link struct {
	t                *testing.T
	edge, centre     *namespace
	edgeIP, centreIP string
}

const (
	device = "wire" // in both namespaces
	// mtu is small, so that a slow link carries something at all before a long packet has passed. The kernel's token bucket holds no more than 4.29 s
	// of a rate that is given it in this way, and a packet that is longer never passes.
	mtu = 500
)

func newLink(t *testing.T) *link {
	t.Helper()
	l := &link{t: t, edge: newNamespace(t), centre: newNamespace(t), edgeIP: "192.0.2.2", centreIP: "192.0.2.1"}
	l.edge.do(func() error {
		pair := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: device, MTU: mtu}, PeerName: device, PeerNamespace: netlink.NsFd(l.centre.file.Fd())}
		if err := netlink.LinkAdd(pair); err != nil {
			return fmt.Errorf("connect two network namespaces: %w", err)
		}
		return address(l.edgeIP)
	})
	l.centre.do(func() error { return address(l.centreIP) })
	return l
}

func address(ip string) error {
	wire, err := netlink.LinkByName(device)
	if err != nil {
		return err
	}
	a := &netlink.Addr{IPNet: &net.IPNet{IP: net.ParseIP(ip), Mask: net.CIDRMask(24, 32)}}
	if err := netlink.AddrAdd(wire, a); err != nil {
		return fmt.Errorf("give address %s: %w", ip, err)
	}
	return up(device)
}

// forward passes connections from the edge to a server outside both namespaces, each way after a delay, and returns its address at the edge.
func (l *link) forward(target string, delay time.Duration) (address string) {
	l.t.Helper()
	var listener net.Listener
	l.centre.do(func() (err error) {
		listener, err = net.Listen("tcp", net.JoinHostPort(l.centreIP, "9090"))
		return err
	})
	serveOn(l.t, listener, func(from net.Conn) {
		to, err := net.Dial("tcp", target)
		if err != nil {
			return
		}
		defer to.Close()
		go func() {
			copyLate(to, from, delay)
			_ = to.(*net.TCPConn).CloseWrite()
		}()
		copyLate(from, to, delay)
	})
	return listener.Addr().String()
}

// copyLate copies what arrives after a delay.
func copyLate(to io.Writer, from io.Reader, delay time.Duration) {
	type piece struct {
		data []byte
		due  time.Time
	}
	pieces := make(chan piece, 1024)
	go func() {
		defer close(pieces)
		for {
			data := make([]byte, 4096)
			n, err := from.Read(data)
			if n > 0 {
				pieces <- piece{data[:n], time.Now().Add(delay)}
			}
			if err != nil {
				return
			}
		}
	}()
	broken := false
	for p := range pieces {
		time.Sleep(time.Until(p.due))
		if !broken {
			_, err := to.Write(p.data)
			broken = err != nil
		}
	}
}

// cut unplugs the cable at the far end, or plugs it in again.
func (l *link) cut(away bool) {
	l.t.Helper()
	l.centre.do(func() error {
		wire, err := netlink.LinkByName(device)
		if err != nil {
			return err
		}
		if away {
			return netlink.LinkSetDown(wire)
		}
		return netlink.LinkSetUp(wire)
	})
}

// swallow makes the link half open, or whole again: what the edge sends arrives, and nothing of the answers comes back.
func (l *link) swallow(answers bool) {
	l.t.Helper()
	l.centre.do(func() error {
		route := &netlink.Route{Dst: &net.IPNet{IP: net.ParseIP(l.edgeIP), Mask: net.CIDRMask(32, 32)}, Type: unix.RTN_BLACKHOLE}
		if answers {
			return netlink.RouteAdd(route)
		}
		return netlink.RouteDel(route)
	})
}

// slow bounds what the edge can send, in bits per second; 0 for no bound.
func (l *link) slow(rate uint64) {
	l.t.Helper()
	l.edge.do(func() error {
		wire, err := netlink.LinkByName(device)
		if err != nil {
			return err
		}
		root := netlink.QdiscAttrs{LinkIndex: wire.Attrs().Index, Parent: netlink.HANDLE_ROOT, Handle: netlink.MakeHandle(1, 0)}
		bucket := &netlink.Tbf{QdiscAttrs: root, Rate: rate / 8, Limit: 64 << 10}
		if rate == 0 {
			return netlink.QdiscDel(bucket)
		}
		const burst = 2 * mtu // more than one frame: what does not fit is dropped
		bucket.Buffer = netlink.Xmittime(bucket.Rate, burst)
		return netlink.QdiscReplace(bucket)
	})
}

// start starts a command at the edge.
func (l *link) start(command *exec.Cmd) {
	l.t.Helper()
	l.edge.do(command.Start)
}

// dial connects from the edge, for the time that a test gives it.
func (l *link) dial(address string, timeout time.Duration) (connection net.Conn, err error) {
	l.t.Helper()
	l.edge.do(func() error {
		connection, err = net.DialTimeout("tcp", address, timeout)
		return nil
	})
	return connection, err
}

// The faults that the tests below rely on do to a connection what they are said to do.
func TestLinkFaults(t *testing.T) {
	if testing.Short() {
		t.Skip("several seconds")
	}
	t.Parallel()
	l := newLink(t)
	echo, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	serveOn(t, echo, func(c net.Conn) { _, _ = io.Copy(c, c) })
	at := l.forward(echo.Addr().String(), 50*time.Millisecond)

	// trip sends n bytes and waits until all of them are back.
	trip := func(n int, timeout time.Duration) (time.Duration, error) {
		c, err := l.dial(at, timeout)
		if err != nil {
			return 0, err
		}
		defer c.Close()
		begun := time.Now()
		if err := c.SetDeadline(begun.Add(timeout)); err != nil {
			t.Fatal(err)
		}
		if _, err := c.Write(make([]byte, n)); err != nil {
			return 0, err
		}
		_, err = io.ReadFull(c, make([]byte, n))
		return time.Since(begun), err
	}
	if took, err := trip(100, 10*time.Second); err != nil || took < 100*time.Millisecond {
		t.Errorf("a connection with 50 ms each way: %v, %v", took, err)
	}
	l.slow(8000)
	if took, err := trip(4000, 60*time.Second); err != nil || took < 2*time.Second {
		t.Errorf("4000 bytes at 1000 bytes/s: %v, %v", took, err)
	}
	l.slow(0)
	for name, fault := range map[string]func(bool){"cut": l.cut, "half open": l.swallow} {
		fault(true)
		if _, err := trip(100, time.Second); err == nil {
			t.Errorf("%s: the connection works", name)
		}
		fault(false)
		if _, err := trip(100, 20*time.Second); err != nil {
			t.Errorf("after %s: %v", name, err)
		}
	}
}
