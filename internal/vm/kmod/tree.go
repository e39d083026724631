package kmod

import (
	"bufio"
	"bytes"
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

	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"
)

// ErrNotFound marks a module that is neither there as a file nor built into the kernel.
var ErrNotFound = errors.New("no such module")

// maxModule bounds the unpacked size of one module: the largest in Debian's cloud kernels is below 10 MiB.
const maxModule = 64 << 20

// Tree is the module folder of one kernel.
type Tree struct {
	files   map[string]string // module name to file
	builtin map[string]bool
}

// OpenTree lists the modules below dir, which is lib/modules/<release> of a kernel package. More than one folder may be given when the distribution
// splits one kernel over several packages.
func OpenTree(dirs ...string) (*Tree, error) {
	t := &Tree{files: map[string]string{}, builtin: map[string]bool{}}
	for _, dir := range dirs {
		if err := filepath.WalkDir(dir, t.add); err != nil {
			return nil, fmt.Errorf("list modules: %w", err)
		}
	}
	if len(t.files) == 0 {
		return nil, fmt.Errorf("list modules in %s: %w", strings.Join(dirs, ", "), ErrNotFound)
	}
	return t, nil
}

func (t *Tree) add(file string, entry fs.DirEntry, err error) error {
	switch {
	case err != nil:
		return err
	case entry.Name() == "modules.builtin":
		return t.addBuiltin(file)
	case !entry.Type().IsRegular():
		return nil
	}
	if name, suffix, ok := strings.Cut(entry.Name(), ".ko"); ok && slices.Contains([]string{"", ".xz", ".zst"}, suffix) {
		t.files[Canonical(name)] = file
	}
	return nil
}

func (t *Tree) addBuiltin(file string) error {
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		t.builtin[Canonical(strings.TrimSuffix(path.Base(lines.Text()), ".ko"))] = true
	}
	return lines.Err()
}

// Has says whether there is a file of a module.
func (t *Tree) Has(name string) bool {
	_, ok := t.files[Canonical(name)]
	return ok
}

// Select returns an index of the named modules and of all they depend on, and the unpacked contents of each by module name. Built-in modules need no
// file and are left out. folder is where the guest will find the files.
func (t *Tree) Select(folder string, names ...string) (Index, map[string][]byte, error) {
	s := selection{tree: t, folder: folder, contents: map[string][]byte{}}
	for _, name := range names {
		if err := s.add(Canonical(name)); err != nil {
			return nil, nil, err
		}
	}
	return s.index, s.contents, nil
}

type selection struct {
	tree     *Tree
	folder   string
	index    Index
	contents map[string][]byte
}

// add appends a module after its dependencies. Dependencies of modules have no cycles: the kernel's build refuses them.
func (s *selection) add(name string) error {
	if _, done := s.contents[name]; done || s.tree.builtin[name] {
		return nil
	}
	file, ok := s.tree.files[name]
	if !ok {
		return fmt.Errorf("select module %s: %w (neither a file nor built in)", name, ErrNotFound)
	}
	content, err := Unpack(file)
	if err != nil {
		return err
	}
	hard, soft, aliases, err := modinfo(content)
	if err != nil {
		return fmt.Errorf("read module %s: %w", file, err)
	}
	s.contents[name] = content
	m := Module{Name: name, File: path.Join(s.folder, name+".ko"), Aliases: aliases}
	for _, d := range soft {
		if _, ok := s.tree.files[d]; ok { // as modprobe does, a soft dependency that is not there is passed over
			hard = append(hard, d)
		}
	}
	for _, d := range hard {
		if err := s.add(d); err != nil {
			return fmt.Errorf("select module %s: %w", name, err)
		}
		if !s.tree.builtin[d] {
			m.Depends = append(m.Depends, d)
		}
	}
	s.index = append(s.index, m)
	return nil
}

// Unpack reads a module file, decompressing it according to its suffix.
func Unpack(file string) ([]byte, error) {
	packed, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("read module: %w", err)
	}
	var r io.Reader = bytes.NewReader(packed)
	switch filepath.Ext(file) {
	case ".ko":
		return packed, nil
	case ".xz":
		r, err = xz.NewReader(r)
	case ".zst":
		var z *zstd.Decoder
		if z, err = zstd.NewReader(r, zstd.WithDecoderConcurrency(1)); err == nil {
			defer z.Close()
			r = z
		}
	default:
		err = errors.New("unknown compression")
	}
	if err != nil {
		return nil, fmt.Errorf("unpack module %s: %w", file, err)
	}
	content, err := io.ReadAll(io.LimitReader(r, maxModule+1))
	if err != nil {
		return nil, fmt.Errorf("unpack module %s: %w", file, err)
	}
	if len(content) > maxModule {
		return nil, fmt.Errorf("unpack module %s: larger than %d MiB", file, maxModule>>20)
	}
	return content, nil
}

// modinfo reads what a module says about itself: the modules it needs, those it would like to have before it, and its aliases.
func modinfo(module []byte) (hard, soft, aliases []string, err error) {
	f, err := elf.NewFile(bytes.NewReader(module))
	if err != nil {
		return nil, nil, nil, err
	}
	section := f.Section(".modinfo")
	if section == nil {
		return nil, nil, nil, errors.New("section .modinfo is missing")
	}
	text, err := section.Data()
	if err != nil {
		return nil, nil, nil, err
	}
	for field := range bytes.SplitSeq(text, []byte{0}) {
		key, value, _ := strings.Cut(string(field), "=")
		switch key {
		case "depends":
			hard = append(hard, names(strings.Split(value, ","))...)
		case "softdep":
			before, _, _ := strings.Cut(value, "post:")
			if before, ok := strings.CutPrefix(strings.TrimSpace(before), "pre:"); ok {
				soft = append(soft, names(strings.Fields(before))...)
			}
		case "alias":
			aliases = append(aliases, value)
		}
	}
	return hard, soft, aliases, nil
}

func names(list []string) []string {
	var out []string
	for _, name := range list {
		if name = Canonical(strings.TrimSpace(name)); name != "" {
			out = append(out, name)
		}
	}
	return out
}
