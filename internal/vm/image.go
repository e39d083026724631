package vm

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path"
	"slices"

	"github.com/cavaliergopher/cpio"

	"github.com/latpush/latpush/internal/vm/handover"
)

// image collects the initial file system of a guest.
type image struct {
	files map[string]imageFile // by path without a leading slash
	links map[string]string
	dirs  map[string]bool
}

type imageFile struct {
	content []byte // when host is empty
	host    string // file of this machine
}

func newImage() *image {
	m := &image{files: map[string]imageFile{}, links: map[string]string{}, dirs: map[string]bool{}}
	for _, dir := range []string{"dev", "proc", "sys", "run", "tmp", "srv", "mnt", "root", "out", "etc", "latpush/modules", "var/lib/nfs/nfsdcld"} {
		m.mkdir(dir)
	}
	for _, link := range topLinks() {
		m.mkdir("usr/" + link)
		m.links[link] = "usr/" + link
	}
	for name, text := range map[string]string{
		"etc/passwd":              "root:x:0:0:root:/root:/bin/false\n_rpc:x:100:65534::/run/rpcbind:/bin/false\nstatd:x:101:65534::/var/lib/nfs:/bin/false\n",
		"etc/group":               "root:x:0:\nnogroup:x:65534:\n",
		"etc/hosts":               "127.0.0.1 localhost\n",
		"etc/nsswitch.conf":       "passwd: files\ngroup: files\nhosts: files\nservices: files\nprotocols: files\nrpc: files\n",
		"etc/services":            "sunrpc 111/tcp portmapper\nsunrpc 111/udp portmapper\nnfs 2049/tcp\nnfs 2049/udp\n",
		"etc/protocols":           "ip 0 IP\ntcp 6 TCP\nudp 17 UDP\n",
		"etc/rpc":                 "portmapper 100000 portmap sunrpc\nnfs 100003\nmountd 100005\n",
		"var/lib/nfs/etab":        "",
		"var/lib/nfs/rmtab":       "",
		"var/lib/nfs/export-lock": "",
	} {
		m.write(name, []byte(text))
	}
	return m
}

func (m *image) mkdir(dir string) {
	for ; dir != "." && dir != "/"; dir = path.Dir(dir) {
		m.dirs[dir] = true
	}
}

func (m *image) write(name string, content []byte) {
	m.mkdir(path.Dir(name))
	m.files[name] = imageFile{content: content}
}

// start makes guestinit the first process.
func (m *image) start(init string) {
	m.take("init", init)
	m.links[handover.Modprobe[1:]] = "/init"
}

// take adds a file of this machine's file system, which everybody may read, and execute where it is a program.
func (m *image) take(name, host string) {
	m.mkdir(path.Dir(name))
	m.files[name] = imageFile{host: host}
}

func (m *image) manifest(manifest handover.Manifest) error {
	text, err := json.Marshal(manifest)
	if err != nil {
		return fmt.Errorf("write manifest: %w", err)
	}
	m.write(handover.ManifestFile[1:], text)
	return nil
}

// save writes the image as an uncompressed archive: qemu copies it into the guest's memory at once, and the guest's emulated processor would take
// seconds to decompress it. The order is sorted, so that the same contents give the same bytes.
func (m *image) save(file string) (err error) {
	f, err := os.Create(file)
	if err != nil {
		return fmt.Errorf("write image: %w", err)
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	buffer := bufio.NewWriterSize(f, 1<<20)
	archive := cpio.NewWriter(buffer)
	for _, dir := range slices.Sorted(maps.Keys(m.dirs)) {
		if err := archive.WriteHeader(&cpio.Header{Name: dir, Mode: cpio.TypeDir | 0o755, Links: 2}); err != nil {
			return fmt.Errorf("write image: %s: %w", dir, err)
		}
	}
	for _, link := range slices.Sorted(maps.Keys(m.links)) {
		target := m.links[link]
		header := &cpio.Header{Name: link, Mode: cpio.TypeSymlink | 0o777, Linkname: target, Size: int64(len(target)), Links: 1}
		err := archive.WriteHeader(header)
		if err == nil {
			_, err = io.WriteString(archive, target)
		}
		if err != nil {
			return fmt.Errorf("write image: %s: %w", link, err)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(m.files)) {
		if err := m.files[name].save(archive, name); err != nil {
			return fmt.Errorf("write image: %s: %w", name, err)
		}
	}
	return errors.Join(archive.Close(), buffer.Flush())
}

func (f imageFile) save(archive *cpio.Writer, name string) error {
	content, mode := f.content, cpio.FileMode(0o644)
	if f.host != "" {
		info, err := os.Stat(f.host)
		if err != nil {
			return err
		}
		if info.Mode()&0o111 != 0 {
			mode = 0o755
		}
		if content, err = os.ReadFile(f.host); err != nil {
			return err
		}
	}
	if err := archive.WriteHeader(&cpio.Header{Name: name, Mode: cpio.TypeReg | mode, Size: int64(len(content)), Links: 1}); err != nil {
		return err
	}
	_, err := archive.Write(content)
	return err
}
