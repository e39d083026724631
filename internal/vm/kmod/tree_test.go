package kmod

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"
)

// module returns an object file that has nothing but the section .modinfo.
func module(t testing.TB, fields ...string) []byte {
	t.Helper()
	const names = "\x00.modinfo\x00.shstrtab\x00"
	info := strings.Join(fields, "\x00") + "\x00"
	header := elf.Header64{
		Ident: [elf.EI_NIDENT]byte{0x7f, 'E', 'L', 'F', byte(elf.ELFCLASS64), byte(elf.ELFDATA2LSB), byte(elf.EV_CURRENT)},
		Type:  uint16(elf.ET_REL), Machine: uint16(elf.EM_X86_64), Version: uint32(elf.EV_CURRENT), Ehsize: 64, Shentsize: 64, Shnum: 3, Shstrndx: 2,
	}
	header.Shoff = uint64(64 + len(info) + len(names))
	sections := []elf.Section64{
		{},
		{Name: 1, Type: uint32(elf.SHT_PROGBITS), Off: 64, Size: uint64(len(info)), Addralign: 1},
		{Name: 10, Type: uint32(elf.SHT_STRTAB), Off: uint64(64 + len(info)), Size: uint64(len(names)), Addralign: 1},
	}
	var b bytes.Buffer
	for _, part := range []any{header, []byte(info), []byte(names), sections} {
		if err := binary.Write(&b, binary.LittleEndian, part); err != nil {
			t.Fatal(err)
		}
	}
	return b.Bytes()
}

func write(t *testing.T, file string, content []byte) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, content, 0o644); err != nil {
		t.Fatal(err)
	}
}

func packXZ(t *testing.T, content []byte) []byte {
	t.Helper()
	var b bytes.Buffer
	w, err := xz.NewWriter(&b)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(content); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func packZstd(t *testing.T, content []byte) []byte {
	t.Helper()
	w, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	return w.EncodeAll(content, nil)
}

// tree is a kernel whose modules are plain, xz and zstd: nfsv4 needs nfs and dns_resolver, those need sunrpc.
func tree(t *testing.T) *Tree {
	t.Helper()
	dir, other := t.TempDir(), t.TempDir()
	write(t, filepath.Join(dir, "kernel/fs/nfs/nfsv4.ko"), module(t, "license=GPL", "depends=nfs,dns_resolver,lockd", "alias=nfs4"))
	write(t, filepath.Join(dir, "kernel/fs/nfs/nfs.ko.xz"), packXZ(t, module(t, "alias=fs-nfs", "alias=fs-nfs4", "depends=sunrpc")))
	write(t, filepath.Join(dir, "kernel/net/dns_resolver/dns-resolver.ko.zst"), packZstd(t, module(t, "depends=sunrpc", "softdep=pre: md5 absent post: late")))
	write(t, filepath.Join(dir, "kernel/net/sunrpc.ko"), module(t, "depends="))
	write(t, filepath.Join(dir, "kernel/crypto/md5.ko"), module(t))
	write(t, filepath.Join(dir, "kernel/late.ko"), module(t))
	write(t, filepath.Join(dir, "kernel/broken.ko.xz"), []byte("no xz"))
	write(t, filepath.Join(dir, "kernel/needy.ko"), module(t, "depends=gone"))
	write(t, filepath.Join(dir, "kernel/mute.ko"), []byte("\x7fELF"))
	write(t, filepath.Join(dir, "kernel/README.kofi"), nil)
	write(t, filepath.Join(other, "modules.builtin"), []byte("kernel/fs/lockd/lockd.ko\nkernel/fs/ext4.ko\n"))
	opened, err := OpenTree(dir, other)
	if err != nil {
		t.Fatal(err)
	}
	return opened
}

func TestSelect(t *testing.T) {
	t.Parallel()
	index, contents, err := tree(t).Select("/m", "ext4", "nfsv4", "sunrpc")
	if err != nil {
		t.Fatal(err)
	}
	want := Index{
		{Name: "sunrpc", File: "/m/sunrpc.ko"},
		{Name: "nfs", File: "/m/nfs.ko", Depends: []string{"sunrpc"}, Aliases: []string{"fs-nfs", "fs-nfs4"}},
		{Name: "md5", File: "/m/md5.ko"},
		{Name: "dns_resolver", File: "/m/dns_resolver.ko", Depends: []string{"sunrpc", "md5"}},
		{Name: "nfsv4", File: "/m/nfsv4.ko", Depends: []string{"nfs", "dns_resolver"}, Aliases: []string{"nfs4"}},
	}
	if !reflect.DeepEqual(index, want) {
		t.Errorf("got %+v\nwant %+v", index, want)
	}
	for _, m := range index {
		if !bytes.HasPrefix(contents[m.Name], []byte("\x7fELF")) {
			t.Errorf("content of %s is not unpacked", m.Name)
		}
	}
}

func TestSelectErrors(t *testing.T) {
	t.Parallel()
	for name, want := range map[string]string{
		"absent": "select module absent: no such module",
		"needy":  "select module gone: no such module",
		"broken": "unpack module",
		"mute":   "read module",
	} {
		if _, _, err := tree(t).Select("/m", name); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: error is %v, want %s", name, err, want)
		}
	}
	if _, err := OpenTree(t.TempDir()); !errors.Is(err, ErrNotFound) {
		t.Errorf("an empty folder gives %v, want %v", err, ErrNotFound)
	}
}

func TestOrder(t *testing.T) {
	t.Parallel()
	index, _, err := tree(t).Select("/m", "nfsv4", "late")
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct{ name, want string }{
		{"nfsv4", "sunrpc nfs md5 dns_resolver nfsv4"},
		{"nfs4", "sunrpc nfs md5 dns_resolver nfsv4"},
		{"fs-nfs4", "sunrpc nfs"},
		{"dns-resolver", "sunrpc md5 dns_resolver"},
		{"late", "late"},
	} {
		order, err := index.Order(tt.name)
		if err != nil {
			t.Fatal(err)
		}
		var names []string
		for _, m := range order {
			names = append(names, m.Name)
		}
		if got := strings.Join(names, " "); got != tt.want {
			t.Errorf("%s: %s, want %s", tt.name, got, tt.want)
		}
	}
	if _, err := index.Order("fs-xfs"); !errors.Is(err, ErrNotFound) {
		t.Errorf("an unknown alias gives %v, want %v", err, ErrNotFound)
	}
}

func FuzzModinfo(f *testing.F) {
	f.Add(module(f, "depends=a,b", "alias=c", "softdep=pre: d e post: f"))
	f.Add([]byte("\x7fELF"))
	f.Fuzz(func(t *testing.T, content []byte) {
		hard, soft, _, err := modinfo(content)
		if err != nil {
			return
		}
		for _, name := range append(hard, soft...) {
			if name == "" || strings.ContainsAny(name, "-,") {
				t.Errorf("bad module name %q", name)
			}
		}
	})
}
