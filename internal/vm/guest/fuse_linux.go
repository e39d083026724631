package guest

import (
	"context"
	"fmt"
	"syscall"

	"github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// What is in the folder of ServeFUSE.
const (
	FUSEFiles = "files" // a folder that is another folder of the guest
	FUSESlow  = "slow"  // a file of which every read takes as long as a function
)

// slowSize is the size of the slow file in bytes.
const slowSize = 1 << 20

// slowFile is a file of zeros. The kernel does not keep what it has read.
type slowFile struct {
	fs.Inode
	delay func()
}

// Open tells the kernel to ask for each read.
func (s *slowFile) Open(context.Context, uint32) (fs.FileHandle, uint32, syscall.Errno) {
	return nil, fuse.FOPEN_DIRECT_IO, fs.OK
}

// Read answers when the function has returned.
func (s *slowFile) Read(_ context.Context, _ fs.FileHandle, into []byte, _ int64) (fuse.ReadResult, syscall.Errno) {
	s.delay()
	clear(into)
	return fuse.ReadResultData(into), fs.OK
}

// Getattr says that it is an ordinary file.
func (s *slowFile) Getattr(_ context.Context, _ fs.FileHandle, out *fuse.AttrOut) syscall.Errno {
	out.Mode, out.Size = unix.S_IFREG|0o444, slowSize
	return fs.OK
}

// fuseRoot is the root folder.
type fuseRoot struct {
	fs.Inode
	files, slow fs.InodeEmbedder
}

// OnAdd fills the folder when it is mounted.
func (r *fuseRoot) OnAdd(ctx context.Context) {
	r.AddChild(FUSEFiles, r.NewPersistentInode(ctx, r.files, fs.StableAttr{Mode: unix.S_IFDIR}), false)
	r.AddChild(FUSESlow, r.NewPersistentInode(ctx, r.slow, fs.StableAttr{Mode: unix.S_IFREG}), false)
}

// ServeFUSE mounts a file system on a folder that this process serves until stop is called: FUSEFiles, which are those in another folder, and FUSESlow, of
// which each read runs delay, several at once.
func ServeFUSE(folder, behind string, delay func()) (stop func() error, err error) {
	if err := LoadModule("fuse"); err != nil {
		return nil, err
	}
	files, err := fs.NewLoopbackRoot(behind)
	if err != nil {
		return nil, fmt.Errorf("serve fuse: %w", err)
	}
	root := &fuseRoot{files: files, slow: &slowFile{delay: delay}}
	server, err := fs.Mount(folder, root, &fs.Options{MountOptions: fuse.MountOptions{DirectMountStrict: true, FsName: "test", Name: "test"}})
	if err != nil {
		return nil, fmt.Errorf("serve fuse on %s: %w", folder, err)
	}
	return server.Unmount, nil
}
