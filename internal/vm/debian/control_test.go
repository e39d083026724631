package debian

import (
	"reflect"
	"strings"
	"testing"
)

func TestParseControl(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name, text string
		want       Control
		err        string
	}{
		{
			name: "a kernel split over packages",
			text: "Package: linux-image-7.2\nVersion: 7.2.13-1\nArchitecture: arm64\nDescription: the\n kernel: Version: 9\n" +
				"Depends: dracut | initramfs-tools (>= 0.120), linux-modules-7.2 (= 7.2.13-1), linux-binary-7.2 (= 7.2.13-1)\n\nPackage: other\n",
			want: Control{
				Package: Package{Name: "linux-image-7.2", Version: "7.2.13-1", Arch: "arm64"},
				Depends: []Dependency{{Name: "dracut"}, {Name: "linux-modules-7.2", Exact: "7.2.13-1"}, {Name: "linux-binary-7.2", Exact: "7.2.13-1"}},
			},
		},
		{
			name: "an epoch, an architecture qualifier and Pre-Depends",
			text: "Package: nfs-kernel-server\nVersion: 1:2.6.2-4\nArchitecture: amd64\nPre-Depends: libc6:any (>= 2.34)\nDepends: ucf",
			want: Control{
				Package: Package{Name: "nfs-kernel-server", Version: "1:2.6.2-4", Arch: "amd64"},
				Depends: []Dependency{{Name: "libc6"}, {Name: "ucf"}},
			},
		},
		{name: "nothing", text: "", err: "bad control record"},
		{name: "no version", text: "Package: a\nArchitecture: all\n", err: "field Version"},
		{name: "a path for a name", text: "Package: ../../etc\nVersion: 1\nArchitecture: all\n", err: "field Package"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			got, err := parseControl([]byte(tt.text))
			if tt.err != "" {
				if err == nil || !strings.Contains(err.Error(), tt.err) {
					t.Fatalf("error is %v, want %s", err, tt.err)
				}
				return
			}
			if err != nil || !reflect.DeepEqual(got, tt.want) {
				t.Errorf("got %+v, %v, want %+v", got, err, tt.want)
			}
		})
	}
}

func TestFolder(t *testing.T) {
	t.Parallel()
	got := Package{Name: "nfs", Version: "1:2.6~a+b1", Arch: "amd64"}.folder("cache")
	if want := "cache/nfs_1%3a2.6~a+b1_amd64"; got != want {
		t.Errorf("folder is %s, want %s", got, want)
	}
}

func FuzzParseControl(f *testing.F) {
	f.Add([]byte("Package: a\nVersion: 1:2-3\nArchitecture: all\nDepends: b (= 1) | c, d:any (>= 2)\n"))
	f.Add([]byte("Package: a\nVersion\nDepends: , ,|\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		c, err := parseControl(text)
		if err != nil {
			return
		}
		if folder := c.folder("x"); strings.Count(folder, "/") != 1 {
			t.Errorf("package %q would be unpacked outside the cache: %s", c.Package, folder)
		}
		for _, d := range c.Depends {
			if d.Name == "" {
				t.Error("a dependency without a name")
			}
		}
	})
}
