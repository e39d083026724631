package guest

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"sync"

	"golang.org/x/sys/unix"
)

// Workload is a number of file operations of each kind. Each is one system call that the kernel turns into exactly one operation of the file system:
// nothing here goes through package os, which adds calls of its own to an open.
type Workload struct {
	Reads    int // pread of Size bytes
	Splices  int // sendfile of Size bytes to /dev/null; the file system sees a read
	Writes   int // pwrite of Size bytes
	Opens    int // open of a file that exists, each time another one
	Creates  int // open with O_CREAT of a file that does not exist
	Getattrs int // statx of an open file, always asking the server
	Fsyncs   int // fsync of an open file

	Size    int  // bytes per read and write; default and maximum 4096
	Direct  bool // read and write with O_DIRECT, so that each goes to the server or the disk
	Threads int  // operating system threads of this process that do all of the above at the same time, each with files of its own; default 1
}

// Counts is what a workload did, by operation of the file system.
type Counts struct {
	Reads, Writes, Opens, Getattrs, Fsyncs uint64
}

// ByOperation returns the counts by the values of the label operation.
func (c Counts) ByOperation() map[string]uint64 {
	return map[string]uint64{"read": c.Reads, "write": c.Writes, "open": c.Opens, "getattr": c.Getattrs, "fsync": c.Fsyncs}
}

// Runner is a workload that is ready to run: its files are there and open.
type Runner struct {
	workload Workload
	threads  []*thread
}

type thread struct {
	workload Workload
	folder   string
	data     int // file that is read and written
	splice   int // the same file, never with O_DIRECT
	null     int
	buffer   []byte // aligned to a page, as O_DIRECT wants it
	created  int    // files created so far
}

// Prepare makes the workload's files in a new folder below dir. What it does itself (creating, writing, opening) is over when it returns and is in no
// count: attach and take readings between Prepare and Run.
func (w Workload) Prepare(dir string) (*Runner, error) {
	if w.Size == 0 {
		w.Size = os.Getpagesize()
	}
	if w.Size > os.Getpagesize() {
		return nil, fmt.Errorf("prepare workload: size %d (at most a page of %d, so that one call is one operation)", w.Size, os.Getpagesize())
	}
	r := &Runner{workload: w}
	for range max(w.Threads, 1) {
		t, err := w.prepare(dir)
		if err != nil {
			return nil, errors.Join(fmt.Errorf("prepare workload: %w", err), r.Close())
		}
		r.threads = append(r.threads, t)
	}
	return r, nil
}

func (w Workload) prepare(dir string) (*thread, error) {
	folder, err := os.MkdirTemp(dir, "workload-")
	if err != nil {
		return nil, err
	}
	t := &thread{workload: w, folder: folder, data: -1, splice: -1, null: -1}
	if t.buffer, err = unix.Mmap(-1, 0, os.Getpagesize(), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS); err != nil {
		return nil, err
	}
	data := filepath.Join(folder, "data")
	if err := os.WriteFile(data, make([]byte, os.Getpagesize()), 0o644); err != nil {
		return nil, errors.Join(err, t.close())
	}
	for i := range w.Opens {
		if err := os.WriteFile(t.existing(i), nil, 0o644); err != nil {
			return nil, errors.Join(err, t.close())
		}
	}
	flags := unix.O_RDWR | unix.O_CLOEXEC
	if w.Direct {
		flags |= unix.O_DIRECT
	}
	for _, f := range []struct {
		descriptor *int
		name       string
		flags      int
	}{{&t.data, data, flags}, {&t.splice, data, unix.O_RDONLY | unix.O_CLOEXEC}, {&t.null, os.DevNull, unix.O_WRONLY | unix.O_CLOEXEC}} {
		if *f.descriptor, err = unix.Open(f.name, f.flags, 0); err != nil {
			return nil, errors.Join(fmt.Errorf("open %s: %w", f.name, err), t.close())
		}
	}
	return t, unix.Fsync(t.data)
}

func (t *thread) existing(i int) string {
	return filepath.Join(t.folder, fmt.Sprintf("existing-%d", i))
}

// Run does the workload and returns what it did. It may be called again; each call does the same once more.
func (r *Runner) Run() (Counts, error) {
	errs := make([]error, len(r.threads))
	var group sync.WaitGroup
	for i, t := range r.threads {
		group.Go(func() {
			runtime.LockOSThread() // one thread of the kernel for the whole of it
			defer runtime.UnlockOSThread()
			errs[i] = t.run()
		})
	}
	group.Wait()
	if err := errors.Join(errs...); err != nil {
		return Counts{}, fmt.Errorf("run workload: %w", err)
	}
	w, n := r.workload, uint64(len(r.threads))
	return Counts{
		Reads:    n * uint64(w.Reads+w.Splices),
		Writes:   n * uint64(w.Writes),
		Opens:    n * uint64(w.Opens+w.Creates),
		Getattrs: n * uint64(w.Getattrs),
		Fsyncs:   n * uint64(w.Fsyncs),
	}, nil
}

func (t *thread) run() error {
	w := t.workload
	for _, step := range []struct {
		operation string
		times     int
		do        func(i int) error
	}{
		{"open", w.Opens, func(i int) error { return t.open(t.existing(i), unix.O_RDWR) }},
		{"create", w.Creates, t.create},
		{"getattr", w.Getattrs, t.getattr},
		{"read", w.Reads, t.read},
		{"splice", w.Splices, t.sendfile},
		{"write", w.Writes, t.write},
		{"fsync", w.Fsyncs, t.fsync},
	} {
		for i := range step.times {
			if err := step.do(i); err != nil {
				return fmt.Errorf("%s %d of %d: %w", step.operation, i+1, step.times, err)
			}
		}
	}
	return nil
}

func (t *thread) open(name string, flags int) error {
	descriptor, err := unix.Open(name, flags|unix.O_CLOEXEC, 0o644)
	if err != nil {
		return err
	}
	return unix.Close(descriptor)
}

func (t *thread) create(int) error {
	t.created++
	return t.open(filepath.Join(t.folder, fmt.Sprintf("created-%d", t.created)), unix.O_RDWR|unix.O_CREAT|unix.O_EXCL)
}

func (t *thread) getattr(int) error {
	var attributes unix.Statx_t
	return unix.Statx(t.data, "", unix.AT_EMPTY_PATH|unix.AT_STATX_FORCE_SYNC, unix.STATX_BASIC_STATS, &attributes)
}

func (t *thread) read(int) error {
	n, err := unix.Pread(t.data, t.buffer[:t.workload.Size], 0)
	return t.whole(n, err)
}

func (t *thread) sendfile(int) error {
	var offset int64
	n, err := unix.Sendfile(t.null, t.splice, &offset, t.workload.Size)
	return t.whole(n, err)
}

func (t *thread) write(int) error {
	n, err := unix.Pwrite(t.data, t.buffer[:t.workload.Size], 0)
	return t.whole(n, err)
}

func (t *thread) fsync(int) error { return unix.Fsync(t.data) }

// whole turns a short transfer into an error: the rest would need another operation, and the count would be wrong.
func (t *thread) whole(n int, err error) error {
	if err == nil && n != t.workload.Size {
		return fmt.Errorf("%d bytes of %d", n, t.workload.Size)
	}
	return err
}

func (t *thread) close() error {
	var errs []error
	for _, descriptor := range []int{t.data, t.splice, t.null} {
		if descriptor >= 0 {
			errs = append(errs, unix.Close(descriptor))
		}
	}
	return errors.Join(append(errs, unix.Munmap(t.buffer), os.RemoveAll(t.folder))...)
}

// Close closes and deletes the workload's files.
func (r *Runner) Close() error {
	var errs []error
	for _, t := range r.threads {
		errs = append(errs, t.close())
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("clean up workload: %w", err)
	}
	return nil
}
