package vm

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/cavaliergopher/cpio"

	"github.com/latpush/latpush/internal/vm/handover"
)

func TestImage(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	host := filepath.Join(dir, "host")
	if err := os.WriteFile(host, []byte("program"), 0o700); err != nil {
		t.Fatal(err)
	}
	unit := filepath.Join(dir, "unit")
	if err := os.WriteFile(unit, []byte("[Unit]\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	var saved [2][]byte
	for i := range saved {
		m := newImage()
		m.take("usr/sbin/deep/tool", host)
		m.take("etc/tool.service", unit)
		m.links["sbin/modprobe"] = "/init"
		if err := m.manifest(handover.Manifest{Hostname: "g"}); err != nil {
			t.Fatal(err)
		}
		file := filepath.Join(dir, "image")
		if err := m.save(file); err != nil {
			t.Fatal(err)
		}
		var err error
		if saved[i], err = os.ReadFile(file); err != nil {
			t.Fatal(err)
		}
	}
	if !bytes.Equal(saved[0], saved[1]) {
		t.Error("the same contents give other bytes")
	}
	content, modes := map[string]string{}, map[string]cpio.FileMode{}
	r := cpio.NewReader(bytes.NewReader(saved[0]))
	for {
		header, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if parent := filepath.Dir(header.Name); parent != "." && modes[parent]&^cpio.ModePerm != cpio.TypeDir && modes[parent] != cpio.TypeSymlink|0o777 {
			t.Errorf("%s comes before its folder", header.Name)
		}
		text, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		content[header.Name], modes[header.Name] = header.Linkname+string(text), header.Mode
	}
	for name, want := range map[string]struct {
		mode    cpio.FileMode
		content string
	}{
		"usr/sbin/deep/tool":      {cpio.TypeReg | 0o755, "program"},
		"etc/tool.service":        {cpio.TypeReg | 0o644, "[Unit]\n"},
		"sbin/modprobe":           {cpio.TypeSymlink | 0o777, "/init"},
		"lib64":                   {cpio.TypeSymlink | 0o777, "usr/lib64"},
		"etc/hosts":               {cpio.TypeReg | 0o644, "127.0.0.1 localhost\n"},
		"proc":                    {cpio.TypeDir | 0o755, ""},
		handover.ManifestFile[1:]: {cpio.TypeReg | 0o644, `{"hostname":"g","transport":null,"load":null,"modules":null,"arguments":null,"environ":null}`},
	} {
		if modes[name] != want.mode || content[name] != want.content {
			t.Errorf("%s: mode %o, %q, want %o, %q", name, modes[name], content[name], want.mode, want.content)
		}
	}
}

func TestImageErrors(t *testing.T) {
	t.Parallel()
	m := newImage()
	m.take("init", filepath.Join(t.TempDir(), "gone"))
	if err := m.save(filepath.Join(t.TempDir(), "image")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("error is %v, want %v", err, os.ErrNotExist)
	}
}
