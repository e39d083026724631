package kernel

import (
	"cmp"
	"regexp"
	"strings"
	"unicode/utf8"
)

// maxLabelValue bounds the bytes of a label value.
const maxLabelValue = 256

// labelText makes a label value of any bytes: valid UTF-8 of bounded length.
func labelText(text string) string {
	text = strings.ToValidUTF8(text, "\ufffd")
	if len(text) <= maxLabelValue {
		return text
	}
	end := maxLabelValue
	for !utf8.RuneStart(text[end]) {
		end--
	}
	return text[:end]
}

// cgroupNames recognises the names that container runtimes, kubelet and systemd give to control groups.
type cgroupNames struct {
	scope     *regexp.Regexp // docker-ID.scope, cri-containerd-ID.scope, libpod-ID.scope
	colons    *regexp.Regexp // kubepods-burstable-podUID.slice:cri-containerd:ID, of runc with the cgroupfs driver in a slice
	container *regexp.Regexp // ID, or libpod-ID, below a folder of the runtime
	pod       *regexp.Regexp // podUID, kubepods-burstable-podUID.slice with _ for -
	lxc       *regexp.Regexp // lxc.payload.NAME
	unit      *regexp.Regexp // NAME.service
}

func newCgroupNames() *cgroupNames {
	return &cgroupNames{
		scope:     regexp.MustCompile(`^([a-z][a-z0-9-]*)-([0-9a-f]{64})\.scope$`),
		colons:    regexp.MustCompile(`^[^:]*:([a-z][a-z0-9-]*):([0-9a-f]{64})$`),
		container: regexp.MustCompile(`^(?:([a-z][a-z0-9-]*)-)?([0-9a-f]{64})$`),
		pod:       regexp.MustCompile(`^(?:[a-z-]*-)?pod([0-9a-f]{32}|[0-9a-f]{8}(?:[-_][0-9a-f]{4}){3}[-_][0-9a-f]{12})(?:\.slice(?::.*)?)?$`),
		lxc:       regexp.MustCompile(`^lxc\.payload\.(.+)$`),
		unit:      regexp.MustCompile(`^.+\.(?:service|scope|socket|mount|swap)$`),
	}
}

// label returns what a control group is called, of which names are the names from below the root down: "pod:UID:ID" for a container of a pod of
// Kubernetes, "docker:ID" or the like for any other container, with the first twelve digits of the ID, else the systemd unit. Groups within a
// container or a unit are called like it. Any other group is called by its path.
func (c *cgroupNames) label(names []string) string {
	pod, unit := "", ""
	for i, name := range names {
		if runtime, id, ok := c.containerOf(names, i); ok {
			if pod != "" {
				return labelText("pod:" + pod + ":" + id)
			}
			return labelText(runtime + ":" + id)
		}
		if found := c.pod.FindStringSubmatch(name); found != nil && pod == "" {
			pod = strings.ReplaceAll(found[1], "_", "-")
		}
		if unit == "" && c.unit.MatchString(name) {
			unit = name
		}
	}
	switch {
	case pod != "":
		return "pod:" + pod
	case unit != "":
		return labelText(unit)
	}
	return labelText("/" + strings.Join(names, "/"))
}

// containerOf returns the runtime and the identity of the container whose group is names[i].
func (c *cgroupNames) containerOf(names []string, i int) (runtime, id string, ok bool) {
	const digits = 12
	parent := ""
	if i > 0 {
		parent = names[i-1]
	}
	for _, form := range []*regexp.Regexp{c.scope, c.colons, c.container} {
		found := form.FindStringSubmatch(names[i])
		if found == nil {
			continue
		}
		runtime = found[1]
		if runtime == "" && parent == "docker" {
			runtime = parent
		}
		return runtimeName(cmp.Or(runtime, "container")), found[2][:digits], true
	}
	if found := c.lxc.FindStringSubmatch(names[i]); found != nil {
		return "lxc", found[1], true
	}
	if parent == "lxc" || parent == "lxc.payload" {
		return "lxc", names[i], true
	}
	return "", "", false
}

// runtimeName returns what the runtime is called that names groups with a prefix.
func runtimeName(prefix string) string {
	switch prefix {
	case "cri-containerd":
		return "containerd"
	case "libpod":
		return "podman"
	case "libpod-conmon":
		return "podman-conmon"
	}
	return prefix
}
