package vm

import (
	"context"
	"fmt"
	"hash/crc32"
	"maps"
	"slices"
	"strings"

	"github.com/latpush/latpush/internal/vm/debian"
)

// userland is what a guest has beside its kernel: programs of one Debian suite, with every library they need.
type userland struct {
	suite    string
	programs map[string][]string // paths in the guest without a leading slash, by the package they come from
}

// servers are the programs of the guest's NFS server and those that make file systems, the same for every kernel. NFSv3 needs rpcbind because nfsd
// registers there.
func servers() userland {
	return userland{suite: "bookworm", programs: map[string][]string{
		//nolint:misspell // exportfs is the name of a program
		"nfs-kernel-server": {"usr/sbin/exportfs", "usr/sbin/rpc.nfsd", "usr/sbin/rpc.mountd", "usr/sbin/nfsdcld"},
		"rpcbind":           {"usr/sbin/rpcbind"},
		"libtirpc-common":   {"etc/netconfig"},
		"btrfs-progs":       {"usr/sbin/mkfs.btrfs"},
		"f2fs-tools":        {"usr/sbin/mkfs.f2fs"},
		"e2fsprogs":         {"usr/sbin/mke2fs"},
		"xfsprogs":          {"usr/sbin/mkfs.xfs"},
	}}
}

// set names the cached set of packages after the list of programs, so that a longer list is not taken from a cache that lacks some.
func (u userland) set() string {
	return fmt.Sprintf("userland-%08x", crc32.ChecksumIEEE(fmt.Append(nil, u.programs)))
}

func (u userland) packages() []string { return slices.Sorted(maps.Keys(u.programs)) }

func (u userland) files() []string { return slices.Concat(slices.Collect(maps.Values(u.programs))...) }

// userland fetches the guest's programs with every library they need, or takes them from the cache. It returns files of this machine by their path in the
// guest, without a leading slash.
func (h *Harness) userland(ctx context.Context, u userland, arch string) (map[string]string, error) {
	m, err := machineOf(arch)
	if err != nil {
		return nil, err
	}
	set, err := h.store.Resolve(ctx, u.set(), u.suite, arch, func(ctx context.Context, a *debian.Archive) ([]debian.Package, error) {
		return u.resolve(ctx, a, m.loader)
	})
	if err != nil {
		return nil, err
	}
	l, err := newLinker(m.loader, set.Folders()...)
	if err != nil {
		return nil, err
	}
	missing, err := l.link(u.files()...)
	if err != nil {
		return nil, err
	}
	if len(missing) > 0 {
		return nil, fmt.Errorf("link guest programs for %s: %s not found in the cached packages", arch, strings.Join(missing, ", "))
	}
	return l.used, nil
}

// resolve unpacks the packages of the programs and then, level by level, the libraries they depend on, until nothing is missing.
func (u userland) resolve(ctx context.Context, a *debian.Archive, loader string) ([]debian.Package, error) {
	var packages []debian.Package
	var folders []string
	seen := map[string]bool{}
	level := u.packages()
	for len(level) > 0 {
		var next []string
		for _, name := range level {
			if seen[name] {
				continue
			}
			seen[name] = true
			control, err := a.Show(ctx, name)
			if err != nil {
				return nil, err
			}
			folder, err := a.Unpack(ctx, control.Package)
			if err != nil {
				return nil, err
			}
			packages, folders = append(packages, control.Package), append(folders, folder)
			for _, d := range control.Depends {
				if strings.HasPrefix(d.Name, "lib") || d.Name == "zlib1g" {
					next = append(next, d.Name)
				}
			}
		}
		l, err := newLinker(loader, folders...)
		if err != nil {
			return nil, err
		}
		missing, err := l.link(u.files()...)
		if err != nil {
			return nil, err
		}
		if len(missing) == 0 {
			return packages, nil
		}
		if level = next; len(level) == 0 {
			return nil, fmt.Errorf("link guest programs for %s: no package has %s", a.Arch, strings.Join(missing, ", "))
		}
	}
	return packages, nil
}
