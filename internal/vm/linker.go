package vm

import (
	"debug/elf"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
)

// linker finds the shared libraries of programs as the dynamic loader would, in unpacked packages.
type linker struct {
	loader string            // folder of multiarch libraries
	have   map[string]string // files of all packages by their path in the guest
	used   map[string]string // those that the programs need
	own    []string          // folders that programs name for libraries of their own, as systemd's do
}

func newLinker(loader string, folders ...string) (*linker, error) {
	l := &linker{loader: loader, have: map[string]string{}, used: map[string]string{}}
	for _, folder := range folders {
		err := filepath.WalkDir(folder, func(file string, entry fs.DirEntry, err error) error {
			if err != nil || entry.IsDir() {
				return err
			}
			name, err := filepath.Rel(folder, file)
			if err != nil {
				return err
			}
			l.have[merged(name)] = file
			return nil
		})
		if err != nil {
			return nil, fmt.Errorf("list packages: %w", err)
		}
	}
	return l, nil
}

// merged returns where a file lies in a system whose /bin, /sbin and /lib are links into /usr, as the guest's are.
func merged(name string) string {
	name = strings.TrimPrefix(path.Clean("/"+name), "/")
	first, _, _ := strings.Cut(name, "/")
	if slices.Contains(topLinks(), first) {
		return "usr/" + name
	}
	return name
}

func topLinks() []string { return []string{"bin", "sbin", "lib", "lib64"} }

// link takes the files and what they need into used, and returns what no package has.
func (l *linker) link(files ...string) (missing []string, err error) {
	queue := slices.Clone(files)
	for len(queue) > 0 {
		name := queue[0]
		queue = queue[1:]
		if _, done := l.used[name]; done {
			continue
		}
		host, err := l.resolve(name)
		if errors.Is(err, fs.ErrNotExist) {
			missing = append(missing, name)
			continue
		}
		if err != nil {
			return nil, err
		}
		l.used[name] = host
		needed, err := l.needs(host)
		if err != nil {
			return nil, err
		}
		queue = append(queue, needed...)
	}
	slices.Sort(missing)
	return slices.Compact(missing), nil
}

// resolve follows the links of a package, which point into the guest and not into this machine.
func (l *linker) resolve(name string) (string, error) {
	for range 10 {
		host, ok := l.have[name]
		if !ok {
			return "", fs.ErrNotExist
		}
		info, err := os.Lstat(host)
		if err != nil {
			return "", fmt.Errorf("read package: %w", err)
		}
		if info.Mode()&fs.ModeSymlink == 0 {
			return host, nil
		}
		target, err := os.Readlink(host)
		if err != nil {
			return "", fmt.Errorf("read package: %w", err)
		}
		if !path.IsAbs(target) {
			target = path.Join(path.Dir(name), target)
		}
		name = merged(target)
	}
	return "", fmt.Errorf("read package: too many links at %s", name)
}

// needs returns the paths in the guest of a file's loader and libraries. A file that is no ELF file needs nothing.
func (l *linker) needs(host string) ([]string, error) {
	f, err := elf.Open(host)
	var format *elf.FormatError
	if errors.As(err, &format) || errors.Is(err, io.EOF) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read program: %w", err)
	}
	defer func() { _ = f.Close() }()
	libraries, err := f.ImportedLibraries()
	if err != nil {
		return nil, fmt.Errorf("read program %s: %w", host, err)
	}
	runpath, err := f.DynString(elf.DT_RUNPATH)
	if err != nil {
		return nil, fmt.Errorf("read program %s: %w", host, err)
	}
	for _, folders := range runpath {
		l.own = append(l.own, strings.Split(folders, ":")...)
	}
	var paths []string
	for _, library := range libraries {
		paths = append(paths, l.search(library))
	}
	if section := f.Section(".interp"); section != nil {
		interpreter, err := section.Data()
		if err != nil {
			return nil, fmt.Errorf("read program %s: %w", host, err)
		}
		paths = append(paths, merged(strings.TrimRight(string(interpreter), "\x00")))
	}
	return paths, nil
}

// search returns where the loader finds a library. What one file has from a folder of its own is loaded, and so found, for its libraries too.
func (l *linker) search(library string) string {
	standard := path.Join("usr/lib", l.loader, library)
	names := []string{standard, path.Join("usr/lib", library)}
	for _, folder := range l.own {
		names = append(names, merged(path.Join(folder, library)))
	}
	for _, name := range names {
		if _, ok := l.have[name]; ok {
			return name
		}
	}
	return standard
}
