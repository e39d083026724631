package guest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

const (
	nfsPort    = "2049"
	mountdPort = "20048"
	nfsExport  = "/srv" // a tmpfs, so that the server's own time is next to nothing
	pipeFolder = "/run/rpc_pipefs"
	clientList = "/var/lib/nfs/nfsdcld"
	startLimit = 60 * time.Second
	step       = 10 * time.Millisecond // between two looks at something that is starting
)

// Server is the guest's NFS server: nfsd in the kernel, mountd and rpcbind beside it.
type Server struct {
	daemons []*daemon
}

type daemon struct {
	name   string
	cmd    *exec.Cmd
	output bytes.Buffer
	done   chan struct{} // closed when it has ended
}

// ServeNFS exports /srv to the loopback interface over TCP as NFSv3 and NFSv4.0 to 4.2. When it returns, the server answers: the grace period, in which
// an NFSv4 server makes the first open wait for 90 s, is over. It loads the module nfsd, and leaves the client's modules alone.
func ServeNFS(ctx context.Context) (*Server, error) {
	ctx, cancel := context.WithTimeout(ctx, startLimit)
	defer cancel()
	if err := LoadModule("nfsd"); err != nil {
		return nil, err
	}
	for target, kind := range map[string]string{"/proc/fs/nfsd": "nfsd", pipeFolder: "rpc_pipefs"} {
		if err := os.MkdirAll(target, 0o755); err != nil {
			return nil, fmt.Errorf("serve nfs: %w", err)
		}
		if err := unix.Mount(kind, target, kind, 0, ""); err != nil && !errors.Is(err, unix.EBUSY) {
			return nil, fmt.Errorf("serve nfs: mount %s: %w", target, err)
		}
	}
	s := &Server{}
	if err := s.start(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("serve nfs: %w", err), s.Close())
	}
	return s, nil
}

func (s *Server) start(ctx context.Context) error {
	// rpcbind comes first: nfsd refuses to serve NFSv3 where it cannot register.
	if err := s.daemon(ctx, listens("111"), "rpcbind", "-f"); err != nil {
		return err
	}
	// nfsdcld remembers the server's clients. With it nfsd knows that nobody has anything to reclaim; without it 7.x sits the grace period out.
	if err := s.daemon(ctx, exists(clientList+"/main.sqlite"), "nfsdcld", "-F", "-p", pipeFolder, "-s", clientList); err != nil {
		return err
	}
	exports := nfsExport + " 127.0.0.1(rw,fsid=0,no_root_squash,no_subtree_check,insecure)\n"
	if err := os.WriteFile("/etc/exports", []byte(exports), 0o644); err != nil {
		return err
	}
	if err := tool(ctx, "exportfs", "-ra"); err != nil { //nolint:misspell // the name of a program
		return err
	}
	for _, setting := range []string{"nfsv4leasetime", "nfsv4gracetime"} { // the shortest that the kernel takes; they cannot be set once nfsd runs
		if err := os.WriteFile("/proc/fs/nfsd/"+setting, []byte("10"), 0); err != nil {
			return err
		}
	}
	if err := s.daemon(ctx, listens(mountdPort), "rpc.mountd", "-F", "--port", mountdPort); err != nil {
		return err
	}
	if err := tool(ctx, "rpc.nfsd", "-V", "3", "-V", "4", "-V", "4.0", "-V", "4.1", "-V", "4.2", "-p", nfsPort, "4"); err != nil {
		return err
	}
	return endGrace(ctx)
}

// endGrace ends the server's grace period and waits until it is over: up to 6.x it ends within the write, later in the background. A kernel that has
// nothing to wait for has ended it already, and then 7.x answers EBUSY to the write.
func endGrace(ctx context.Context) error {
	const file = "/proc/fs/nfsd/v4_end_grace"
	for {
		state, err := os.ReadFile(file)
		if err != nil || strings.TrimSpace(string(state)) == "Y" {
			return err
		}
		if err := os.WriteFile(file, []byte("Y"), 0); err != nil && !errors.Is(err, unix.EBUSY) {
			return err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("end grace period: %w", ctx.Err())
		case <-time.After(step):
		}
	}
}

// daemon starts a program that stays, and waits until it is ready.
func (s *Server) daemon(ctx context.Context, ready func() bool, name string, args ...string) error {
	d := &daemon{name: name, cmd: exec.Command(name, args...), done: make(chan struct{})}
	d.cmd.Stdout, d.cmd.Stderr = &d.output, &d.output
	if err := d.cmd.Start(); err != nil {
		return fmt.Errorf("start %s: %w", name, err)
	}
	s.daemons = append(s.daemons, d)
	go func() {
		_ = d.cmd.Wait() // how it ended is of interest only while it should not end, and then its output says it
		close(d.done)
	}()
	for !ready() {
		select {
		case <-d.done:
			return fmt.Errorf("start %s: it ended: %s", name, strings.TrimSpace(d.output.String()))
		case <-ctx.Done():
			return fmt.Errorf("wait for %s: %w", name, ctx.Err())
		case <-time.After(step):
		}
	}
	return nil
}

// listens says whether something takes connections on a port of the loopback interface.
func listens(port string) func() bool {
	return func() bool {
		connection, err := net.Dial("tcp4", net.JoinHostPort("127.0.0.1", port))
		return err == nil && connection.Close() == nil
	}
}

func exists(file string) func() bool {
	return func() bool {
		_, err := os.Stat(file)
		return err == nil
	}
}

// Close stops the server. Mounts that are still there hang from then on, until ServeNFS is called again.
func (s *Server) Close() error {
	var errs []error
	if err := os.WriteFile("/proc/fs/nfsd/threads", []byte("0"), 0); err != nil {
		errs = append(errs, fmt.Errorf("stop nfsd: %w", err))
	}
	for _, d := range s.daemons {
		if err := d.cmd.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
			errs = append(errs, fmt.Errorf("stop %s: %w", d.name, err))
		}
		<-d.done
	}
	return errors.Join(errs...)
}

func tool(ctx context.Context, name string, args ...string) error {
	if out, err := exec.CommandContext(ctx, name, args...).CombinedOutput(); err != nil {
		return fmt.Errorf("run %s: %w: %s", name, err, bytes.TrimSpace(out))
	}
	return nil
}

// MountNFS mounts the guest's own export on dir, which it creates. Versions are "3", "4.0", "4.1" and "4.2"; options are added to those needed, such as
// "nosharecache" or "noac". The kernel loads the client's modules through modprobe as on any other machine.
func MountNFS(version, dir string, options ...string) error {
	data := []string{"vers=" + version, "proto=tcp", "port=" + nfsPort, "addr=127.0.0.1", "sec=sys"}
	source := "127.0.0.1:/"
	if version == "3" { // no statd runs in the guest, so locks stay local
		source = "127.0.0.1:" + nfsExport
		data = append(data, "nolock", "mountproto=tcp", "mountaddr=127.0.0.1", "mountport="+mountdPort)
	} else {
		data = append(data, "clientaddr=127.0.0.1")
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("mount nfs %s: %w", version, err)
	}
	if err := unix.Mount(source, dir, "nfs", 0, strings.Join(append(data, options...), ",")); err != nil {
		return fmt.Errorf("mount nfs %s on %s: %w", version, dir, err)
	}
	return nil
}

// Unmount takes a file system away again.
func Unmount(dir string) error {
	if err := unix.Unmount(dir, 0); err != nil {
		return fmt.Errorf("unmount %s: %w", dir, err)
	}
	return nil
}
