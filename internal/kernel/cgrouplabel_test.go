package kernel

import (
	"encoding/binary"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"
)

func TestCgroupLabel(t *testing.T) {
	const id, uid = "3f9a0c1d2e4b5a697887766554433221100ffeeddccbbaa99887766554433221", "0b8ac2ea-5f0e-4a6d-9f46-3d0f0bb6a1c7"
	uidInSlice := strings.ReplaceAll(uid, "-", "_")
	parser := newCgroupNames()
	for path, want := range map[string]string{
		"":                           "/",
		"system.slice":               "/system.slice",
		"system.slice/nginx.service": "nginx.service",
		"system.slice/system-getty.slice/getty@tty1.service":                  "getty@tty1.service",
		"system.slice/dev-hugepages.mount":                                    "dev-hugepages.mount",
		"system.slice/postgresql.service/worker":                              "postgresql.service",
		"user.slice/user-1000.slice/session-3.scope":                          "session-3.scope",
		"user.slice/user-1000.slice/user@1000.service/app.slice/term.service": "user@1000.service",
		"init.scope": "init.scope",
		"machine.slice/machine-qemu\\x2d1\\x2dvm.scope": "machine-qemu\\x2d1\\x2dvm.scope",
		"batch/job":        "/batch/job",
		"nightly.services": "/nightly.services",
		".service":         "/.service",

		"system.slice/docker-" + id + ".scope":                           "docker:3f9a0c1d2e4b",
		"system.slice/docker-" + id + ".scope/system.slice/cron.service": "docker:3f9a0c1d2e4b",
		"docker/" + id:                 "docker:3f9a0c1d2e4b",
		"docker/" + id + "/init.scope": "docker:3f9a0c1d2e4b",
		"docker/" + id[:63]:            "/docker/" + id[:63],
		"default/" + id:                "container:3f9a0c1d2e4b",
		"machine.slice/libpod-" + id + ".scope/container":                           "podman:3f9a0c1d2e4b",
		"machine.slice/libpod-conmon-" + id + ".scope":                              "podman-conmon:3f9a0c1d2e4b",
		"libpod_parent/libpod-" + id:                                                "podman:3f9a0c1d2e4b",
		"user.slice/user-1.slice/user@1.service/user.slice/libpod-" + id + ".scope": "podman:3f9a0c1d2e4b",
		"system.slice/crio-" + id + ".scope":                                        "crio:3f9a0c1d2e4b",
		"system.slice/nerdctl-" + id + ".scope":                                     "nerdctl:3f9a0c1d2e4b",
		"lxc/web":                                                                   "lxc:web",
		"lxc.payload.web/system.slice":                                              "lxc:web",
		"lxc.payload/web":                                                           "lxc:web",
		"lxc.monitor.web":                                                           "/lxc.monitor.web",

		"kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod" + uidInSlice + ".slice/cri-containerd-" + id + ".scope": "pod:" + uid + ":3f9a0c1d2e4b",
		"kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-pod" + uidInSlice + ".slice/crio-" + id + ".scope":                "pod:" + uid + ":3f9a0c1d2e4b",
		"kubepods/besteffort/pod" + uid + "/" + id:                            "pod:" + uid + ":3f9a0c1d2e4b",
		"kubepods/pod" + strings.ReplaceAll(uid, "-", "") + "/" + id:          "pod:" + strings.ReplaceAll(uid, "-", "") + ":3f9a0c1d2e4b",
		"kubepods/burstable/pod" + uid:                                        "pod:" + uid,
		"kubepods-burstable-pod" + uidInSlice + ".slice:cri-containerd:" + id: "containerd:3f9a0c1d2e4b",
		"kubepods.slice": "/kubepods.slice",
		"podium":         "/podium",

		"odd\xff.service":                     "odd\ufffd.service",
		strings.Repeat("a", 250) + ".service": strings.Repeat("a", 250) + ".servi",
		strings.Repeat("é", 200):              "/" + strings.Repeat("é", 127),
	} {
		var names []string
		if path != "" {
			names = strings.Split(path, "/")
		}
		if got := parser.label(names); got != want {
			t.Errorf("%s is called %q, want %q", path, got, want)
		}
	}
}

// cgroupPath encodes struct cgroup_path with halves of 64 bytes.
func cgroupPath(complete, upper, upperLength, lowerLength uint32, first, second string) []byte {
	const half = 64
	raw := make([]byte, 16+2*half)
	for i, word := range []uint32{complete, upper, upperLength, lowerLength} {
		binary.NativeEndian.PutUint32(raw[4*i:], word)
	}
	copy(raw[16:16+half], first)
	copy(raw[16+half:], second)
	return raw
}

// Whatever bytes a path has, its label value is valid, bounded and not empty.
func FuzzCgroupPath(f *testing.F) {
	f.Add(uint32(1), uint32(0), uint32(27), uint32(0), "nginx.service\x00system.slice\x00", "")
	f.Add(uint32(1), uint32(1), uint32(1000), uint32(1<<31), "\xff\x00\x00a", "b\x00")
	f.Add(uint32(0), uint32(7), uint32(0), uint32(0), "", "")
	parser := newCgroupNames()
	f.Fuzz(func(t *testing.T, complete, upper, upperLength, lowerLength uint32, first, second string) {
		parsed, ok := parseCgroupPath(cgroupPath(complete, upper, upperLength, lowerLength, first, second))
		if ok != (complete != 0) {
			t.Errorf("complete is %t for %d", ok, complete)
		}
		if label := parser.label(parsed); label == "" || len(label) > maxLabelValue || !utf8.ValidString(label) {
			t.Errorf("label value %q", label)
		}
	})
}

func TestParseCgroupPath(t *testing.T) {
	short := cgroupPath(1, 0, 27, 0, "nginx.service\x00system.slice\x00left over", "")
	if names, complete := parseCgroupPath(short); !complete || !slices.Equal(names, []string{"system.slice", "nginx.service"}) {
		t.Errorf("names are %q, %t", names, complete)
	}
	long := cgroupPath(1, 1, 4, 6, "low\x00b\x00rest", "top\x00older")
	if names, complete := parseCgroupPath(long); !complete || !slices.Equal(names, []string{"top", "b", "low"}) {
		t.Errorf("names are %q, %t", names, complete)
	}
	short[0] = 0
	if _, complete := parseCgroupPath(short); complete {
		t.Error("names that are being written are complete")
	}
	if names, complete := parseCgroupPath(nil); complete || names != nil {
		t.Errorf("names of nothing are %q, %t", names, complete)
	}
}

// Names of tasks and devices may have any bytes.
func FuzzLabelText(f *testing.F) {
	f.Add("sda")
	f.Add("\xf0\x9f\x98" + strings.Repeat("\xff", 300))
	f.Fuzz(func(t *testing.T, text string) {
		got := labelText(text)
		if len(got) > maxLabelValue || !utf8.ValidString(got) {
			t.Errorf("label value %q", got)
		}
		if utf8.ValidString(text) && len(text) <= maxLabelValue && got != text {
			t.Errorf("%q was changed to %q", text, got)
		}
		layout := keyLayout{size: 16, fields: []keyField{{label: "device", size: 16, text: true}}}
		key := make([]byte, 16)
		copy(key, text)
		if values := layout.values(key); len(values) != 1 || !utf8.ValidString(values[0]) {
			t.Errorf("label values %q", values)
		}
	})
}
