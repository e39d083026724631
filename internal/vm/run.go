package vm

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/latpush/latpush/internal/vm/handover"
	"github.com/latpush/latpush/internal/vm/kmod"
)

// GuestOptions say what a guest runs.
type GuestOptions struct {
	TestBinary string        // file made by BuildTest for the kernel's architecture
	Args       []string      // further arguments of the binary, such as -test.run=NFS
	Environ    []string      // KEY=value, beside HOME, TMPDIR and PATH
	Load       []string      // modules to load before the binary starts
	Provide    []string      // modules that the guest can load later, by itself or when its kernel asks for them
	Optional   []string      // modules to provide where the kernel has them
	Timeout    time.Duration // from the start of qemu to power-off; default 4 minutes

	// Systemd boots the systemd of the kernel's own Debian suite, which mounts what it always does and starts the binary as a service. The guest has
	// a shell and some commands for units, and no NFS server.
	Systemd bool
	Install map[string]string // further files of this machine by their path in the guest
}

// Validate fills in the defaults and says what is missing.
func (o *GuestOptions) Validate() error {
	if o.TestBinary == "" {
		return errors.New("run guest: TestBinary is empty")
	}
	if o.Timeout == 0 {
		o.Timeout = 4 * time.Minute
	}
	if o.Timeout < 10*time.Second {
		return fmt.Errorf("run guest: Timeout is %s (a boot alone takes several seconds, give at least 10 s)", o.Timeout)
	}
	return nil
}

// patience is how long a guest may take to power off after its last word.
const patience = 30 * time.Second

// Run boots a kernel, runs the test binary in it and waits until the guest has powered off. It first waits for its turn: no more run than there are Places.
// The result is returned with the error when there is one, holding what had arrived until then.
func (h *Harness) Run(ctx context.Context, log Logger, k *Kernel, o GuestOptions) (*Result, error) {
	if err := o.Validate(); err != nil {
		return nil, err
	}
	m, err := machineOf(k.Arch)
	if err != nil {
		return nil, err
	}
	work, err := os.MkdirTemp("", "latpush-vm-")
	if err != nil {
		return nil, fmt.Errorf("create work folder: %w", err)
	}
	defer func() { _ = os.RemoveAll(work) }()
	file := filepath.Join(work, "image")
	if err := h.pack(ctx, file, k, o); err != nil {
		return nil, err
	}
	done, err := h.turn(ctx, log)
	if err != nil {
		return nil, err
	}
	defer done()
	ctx, cancel := context.WithTimeout(ctx, o.Timeout)
	defer cancel()
	return boot(ctx, log, m, k.Image, file)
}

// pack writes the guest's initial file system.
func (h *Harness) pack(ctx context.Context, file string, k *Kernel, o GuestOptions) error {
	if err := readable(k.Image); err != nil {
		return err
	}
	transport := []string{"virtio_pci", "virtio_console"}
	optional := slices.DeleteFunc(slices.Clone(o.Optional), func(name string) bool { return !k.modules.Has(name) })
	index, contents, err := k.modules.Select(handover.Modules, slices.Concat(transport, o.Load, o.Provide, optional)...)
	if err != nil {
		return err
	}
	programs := servers()
	if o.Systemd {
		m, err := machineOf(k.Arch)
		if err != nil {
			return err
		}
		programs = systemd(k.Suite, m.loader)
	}
	files, err := h.userland(ctx, programs, k.Arch)
	if err != nil {
		return err
	}
	init := file + ".init"
	if err := Build(ctx, init, k.Arch, initPackage); err != nil {
		return err
	}
	image := newImage()
	if o.Systemd {
		image.startSystemd(init)
	} else {
		image.start(init)
	}
	image.take(handover.Program[1:], o.TestBinary)
	for name, host := range files {
		image.take(name, host)
	}
	for name, host := range o.Install {
		image.take(strings.TrimPrefix(name, "/"), host)
	}
	for _, module := range index {
		image.write(module.File[1:], contents[module.Name])
	}
	err = image.manifest(handover.Manifest{
		Hostname: "guest", Transport: present(index, transport), Load: present(index, o.Load), Modules: index,
		Arguments: slices.Concat([]string{"-test.v=test2json", fmt.Sprintf("-test.timeout=%s", o.Timeout-o.Timeout/10)}, o.Args),
		Environ:   slices.Concat([]string{"HOME=/root", "TMPDIR=/tmp", "PATH=/usr/sbin:/usr/bin", handover.KernelVariable + "=" + k.String()}, o.Environ),
	})
	if err != nil {
		return err
	}
	return image.save(file)
}

// present returns the names that the index has: those it lacks are built into the kernel.
func present(index kmod.Index, names []string) []string {
	return slices.DeleteFunc(slices.Clone(names), func(name string) bool {
		_, err := index.Find(name)
		return err != nil
	})
}

// guest follows one running guest.
type guest struct {
	log    Logger
	start  time.Time
	tests  *testStream
	result Result
	exit   *handover.Exit
	tar    bytes.Buffer
	err    error // of the report
}

func boot(ctx context.Context, log Logger, m machine, kernel, image string) (*Result, error) {
	tests, err := newTestStream(ctx, log)
	if err != nil {
		return nil, err
	}
	g := &guest{log: log, start: time.Now(), tests: tests}
	screen := newConsole(log)
	q, err := m.start(ctx, kernel, image)
	if err != nil {
		_, finishErr := tests.finish()
		return nil, errors.Join(err, finishErr)
	}
	ended := make(chan struct{})
	readers := q.drain(screen.follow, func(r io.Reader) {
		g.follow(r)
		close(ended)
	})
	select {
	case <-ended: // the last frame came, or qemu ended
	case <-q.done:
	}
	poweredOff := q.stop(patience)
	readers.Wait()
	g.result.Total = time.Since(g.start)
	var convertErr error
	g.result.Tests, convertErr = tests.finish()
	err = errors.Join(g.verdict(ctx, q, screen, poweredOff), convertErr, g.unpack())
	return &g.result, err
}

// follow reads the guest's frames to the last one.
func (g *guest) follow(r io.Reader) {
	for g.exit == nil && g.err == nil {
		f, err := handover.Read(r)
		if err != nil {
			g.err = err
			return
		}
		g.err = g.take(f)
	}
}

func (g *guest) take(f handover.Frame) error {
	switch f.Kind {
	case handover.KindHello:
		var hello handover.Hello
		if err := json.Unmarshal(f.Payload, &hello); err != nil {
			return fmt.Errorf("read frame: %w", err)
		}
		g.result.Release, g.result.Boot = hello.Release, time.Since(g.start)
	case handover.KindOutput:
		if _, err := g.tests.input.Write(f.Payload); err != nil {
			return fmt.Errorf("convert test output: %w", err)
		}
	case handover.KindFiles:
		if g.tar.Len()+len(f.Payload) > maxFiles {
			return fmt.Errorf("read files of the guest: more than %d MiB (write results, not data)", maxFiles>>20)
		}
		g.tar.Write(f.Payload)
	case handover.KindExit:
		var exit handover.Exit
		if err := json.Unmarshal(f.Payload, &exit); err != nil {
			return fmt.Errorf("read frame: %w", err)
		}
		g.exit = &exit
		g.result.ExitCode, g.result.Run = exit.Code, time.Since(g.start)-g.result.Boot
	}
	return nil
}

// verdict says what went wrong with the guest as a machine. The worst explanation comes first: a crash explains a hang, and not the other way round.
func (g *guest) verdict(ctx context.Context, q *qemu, screen *console, poweredOff bool) error {
	for _, f := range []fault{stalled, warned} {
		if line := screen.first[f]; line != "" {
			g.result.Warnings = append(g.result.Warnings, line)
		}
	}
	fail := func(cause error, detail string) error {
		return fmt.Errorf("run guest: %w: %s; end of its console:\n%s", cause, detail, screen.last())
	}
	switch {
	case screen.first[crashed] != "":
		return fail(ErrCrash, screen.first[crashed])
	case errors.Is(ctx.Err(), context.DeadlineExceeded):
		return fail(ErrHang, "killed after "+g.result.Total.Round(time.Second).String()+"; "+strings.Join(append(g.running(), g.result.Warnings...), "; "))
	case ctx.Err() != nil:
		return fmt.Errorf("run guest: %w", ctx.Err())
	case g.exit == nil:
		return fail(ErrInit, fmt.Sprintf("qemu ended before the guest's last frame (%v, %v): %s", g.err, q.err, strings.TrimSpace(q.complaint.String())))
	case g.exit.Error != "":
		return fail(ErrInit, g.exit.Error)
	case g.exit.Signal != "":
		return fail(ErrInit, "the test binary was ended by "+g.exit.Signal)
	case g.err != nil:
		return fmt.Errorf("run guest: %w", g.err)
	case !poweredOff:
		return fail(ErrHang, fmt.Sprintf("the tests ended, and the guest did not power off within %s (%v)", patience, q.err))
	case len(g.result.Tests) == 0:
		return fail(ErrNoTests, fmt.Sprintf("exit code %d", g.exit.Code))
	}
	return nil
}

// running names the tests that had not ended.
func (g *guest) running() []string {
	var names []string
	for _, test := range g.result.Tests {
		if test.Outcome == Unfinished {
			names = append(names, "running "+test.Name)
		}
	}
	return names
}

// maxFiles bounds the archive of the guest's files, in bytes.
const maxFiles = 64 << 20

// unpack reads the archive of the guest's files.
func (g *guest) unpack() error {
	if g.tar.Len() == 0 {
		return nil
	}
	g.result.Files = map[string][]byte{}
	archive := tar.NewReader(&g.tar)
	for {
		header, err := archive.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err == nil && header.Typeflag == tar.TypeReg {
			g.result.Files[header.Name], err = io.ReadAll(archive)
		}
		if err != nil {
			return fmt.Errorf("read files of the guest: %w", err)
		}
	}
}
