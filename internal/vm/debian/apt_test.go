package debian

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// replaceApt puts a script in the place of apt-get and apt-cache. Its own folder comes first in PATH, so that dpkg stays the real one.
func replaceApt(t *testing.T, script string) {
	t.Helper()
	bin := t.TempDir()
	for _, name := range []string{"apt-get", "apt-cache"} {
		if err := os.WriteFile(filepath.Join(bin, name), []byte("#!/bin/sh\n"+script), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("PATH", bin+":"+os.Getenv("PATH"))
}

func TestMirror(t *testing.T) {
	for _, tt := range []struct {
		name, sites, want string
		err               error
	}{
		{name: "the first of Debian's", sites: "http://a.example/other\nhttp://b.example/debian-security\nhttp://c.example/debian/\nhttp://d.example/debian", want: "http://c.example/debian/"},
		{name: "none", sites: "http://a.example/ubuntu", err: ErrNoMirror},
	} {
		t.Run(tt.name, func(t *testing.T) {
			replaceApt(t, "cat <<E\n"+tt.sites+"\nE\n")
			got, err := Mirror(t.Context())
			if got != tt.want || !errors.Is(err, tt.err) {
				t.Errorf("got %q, %v, want %q, %v", got, err, tt.want, tt.err)
			}
		})
	}
}

func TestShow(t *testing.T) {
	a := &Archive{Suite: "sid", Arch: "arm64", conf: "conf"}
	replaceApt(t, `echo "Package: $5"; echo "Version: 1"; echo "Architecture: arm64"`)
	control, err := a.Show(t.Context(), "linux")
	if err != nil || control.String() != "linux_1_arm64" {
		t.Errorf("got %v, %v, want linux_1_arm64", control, err)
	}
	replaceApt(t, `echo "W: something else" >&2; echo "E: No packages found" >&2; echo "E: sum of it all" >&2; exit 100`)
	_, err = a.Show(t.Context(), "linux")
	if err == nil || !strings.HasSuffix(err.Error(), "look up package linux in sid/arm64: run apt-cache: exit status 100: E: No packages found") {
		t.Errorf("error is %v", err)
	}
}

func TestUnpack(t *testing.T) {
	if _, err := exec.LookPath("dpkg-deb"); err != nil {
		if os.Getenv("CI") != "" {
			t.Fatal(err)
		}
		t.Skip(err)
	}
	source, store := t.TempDir(), t.TempDir()
	for name, text := range map[string]string{"DEBIAN/control": "Package: p\nVersion: 1:2\nArchitecture: all\nMaintainer: m\nDescription: d\n", "usr/bin/p": "hello"} {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(source, name)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(source, name), []byte(text), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	deb := filepath.Join(t.TempDir(), "p.deb")
	if out, err := exec.Command("dpkg-deb", "--root-owner-group", "--build", source, deb).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	a := &Archive{Suite: "sid", Arch: "amd64", packages: store}
	p := Package{Name: "p", Version: "1:2", Arch: "all"}
	for _, fault := range []struct{ name, script string }{
		{"the download ends early", "head -c 100 " + deb + " > p.deb"},
		{"the download ends with an error", "cp " + deb + " .; exit 100"},
		{"nothing arrives", "true"},
	} {
		replaceApt(t, fault.script)
		if _, err := a.Unpack(t.Context(), p); err == nil {
			t.Errorf("%s: no error", fault.name)
		}
		if entries, err := os.ReadDir(store); err != nil || len(entries) != 0 {
			t.Errorf("%s: %v and %v are left in the cache", fault.name, entries, err)
		}
	}
	replaceApt(t, "cp "+deb+" .")
	dir, err := a.Unpack(t.Context(), p)
	if err != nil {
		t.Fatal(err)
	}
	if text, err := os.ReadFile(filepath.Join(dir, "usr/bin/p")); err != nil || string(text) != "hello" {
		t.Errorf("the unpacked file has %q, %v", text, err)
	}
	replaceApt(t, "exit 1")
	if again, err := a.Unpack(t.Context(), p); err != nil || again != dir {
		t.Errorf("a package that is there was not taken from the cache: %s, %v", again, err)
	}
}

func TestOpenArchive(t *testing.T) {
	if _, err := os.Stat(keyring); err != nil {
		if os.Getenv("CI") != "" {
			t.Fatal(err)
		}
		t.Skip(err)
	}
	dir := t.TempDir()
	replaceApt(t, `test "$1 $3 $4" = "-c -qq update" && grep -q 'APT::Architecture "arm64"' "$2" && grep -q "/mirror/debian sid main" sources.list`)
	if _, err := openArchive(t.Context(), dir, t.TempDir(), "file:/mirror/debian", "sid", "arm64"); err != nil {
		t.Error(err)
	}
	replaceApt(t, `echo "E: signature" >&2; exit 100`)
	_, err := openArchive(t.Context(), t.TempDir(), t.TempDir(), "file:/mirror/debian", "sid", "arm64")
	if err == nil || !strings.Contains(err.Error(), "update lists of sid/arm64") || !strings.Contains(err.Error(), "E: signature") {
		t.Errorf("error is %v", err)
	}
}
