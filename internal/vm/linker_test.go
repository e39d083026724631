package vm

import (
	"os"
	"path/filepath"
	"reflect"
	"testing"
)

func TestLinker(t *testing.T) {
	t.Parallel()
	old, merged := t.TempDir(), t.TempDir() // packages from before and after /lib became a link to /usr/lib
	for name, target := range map[string]string{
		"lib/x86_64-linux-gnu/libz.so.1.2":        "",
		"lib/x86_64-linux-gnu/libz.so.1":          "libz.so.1.2",
		"lib64/ld-linux-x86-64.so.2":              "/lib/x86_64-linux-gnu/libz.so.1",
		"sbin/tool":                               "",
		"etc/netconfig":                           "",
		"lib/x86_64-linux-gnu/tool/libown.so":     "",
		"usr/lib/x86_64-linux-gnu/libloop.so":     "libloop.so",
		"usr/lib/x86_64-linux-gnu/libdangling.so": "gone.so",
	} {
		file := filepath.Join(old, name)
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		var err error
		if target == "" {
			err = os.WriteFile(file, []byte(name), 0o644)
		} else {
			err = os.Symlink(target, file)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	l, err := newLinker("x86_64-linux-gnu", old, merged)
	if err != nil {
		t.Fatal(err)
	}
	missing, err := l.link("usr/sbin/tool", "etc/netconfig", "usr/lib64/ld-linux-x86-64.so.2", l.search("libz.so.1"), l.search("libnone.so"), l.search("libdangling.so"))
	if err != nil {
		t.Fatal(err)
	}
	if want := []string{"usr/lib/x86_64-linux-gnu/libdangling.so", "usr/lib/x86_64-linux-gnu/libnone.so"}; !reflect.DeepEqual(missing, want) {
		t.Errorf("missing %q, want %q", missing, want)
	}
	library := filepath.Join(old, "lib/x86_64-linux-gnu/libz.so.1.2")
	want := map[string]string{
		"usr/sbin/tool":                      filepath.Join(old, "sbin/tool"),
		"etc/netconfig":                      filepath.Join(old, "etc/netconfig"),
		"usr/lib64/ld-linux-x86-64.so.2":     library,
		"usr/lib/x86_64-linux-gnu/libz.so.1": library,
	}
	if !reflect.DeepEqual(l.used, want) {
		t.Errorf("used %q, want %q", l.used, want)
	}
	if got := l.search("libown.so"); got != "usr/lib/x86_64-linux-gnu/libown.so" {
		t.Errorf("a library in a folder that no program names is found: %s", got)
	}
	l.own = []string{"/lib/x86_64-linux-gnu/tool"}
	if got := l.search("libown.so"); got != "usr/lib/x86_64-linux-gnu/tool/libown.so" {
		t.Errorf("a library in a program's own folder is taken for %s", got)
	}
	if _, err := l.link(l.search("libloop.so")); err == nil {
		t.Error("a link that leads to itself gives no error")
	}
}
