package vm

import (
	"path"

	"github.com/latpush/latpush/internal/vm/handover"
)

const (
	systemdProgram = "usr/lib/systemd/systemd"
	unitFolder     = "usr/lib/systemd/system"
	guestUnit      = "guest.service"
)

// systemd is what a guest needs whose first process is the systemd of a Debian suite: its journal, the units that mount what kernels have in
// every boot, and the commands that units use. Neither udev, D-Bus nor logind is there.
func systemd(suite, loader string) userland {
	programs := map[string][]string{
		"systemd": {
			systemdProgram, "usr/lib/systemd/systemd-journald", "usr/bin/systemctl", "usr/bin/journalctl",
		},
		"mount":     {"usr/bin/mount", "usr/bin/umount"},
		"dash":      {"usr/bin/sh"},
		"coreutils": {"usr/bin/chmod", "usr/bin/chown", "usr/bin/mkdir"},
		"procps":    {"usr/bin/kill"},
	}
	switch suite {
	case "bullseye":
		programs["libc6"] = []string{path.Join("usr/lib", loader, "libnss_files.so.2")} // later versions have it within
	case "bookworm":
	default:
		programs["systemd"] = append(programs["systemd"], "usr/lib/systemd/systemd-executor") // which came with 255
	}
	for _, unit := range append(systemdTargets(), bootUnits()...) {
		programs["systemd"] = append(programs["systemd"], path.Join(unitFolder, unit))
	}
	return userland{suite: suite, programs: programs}
}

func systemdTargets() []string {
	return []string{
		"basic.target", "local-fs.target", "multi-user.target", "network-online.target", "network.target", "paths.target", "shutdown.target",
		"slices.target", "sockets.target", "sysinit.target", "timers.target", "systemd-journald.socket", "systemd-journald-dev-log.socket",
	}
}

// bootUnits are started in every boot, as Debian has it.
func bootUnits() []string {
	return []string{"sys-kernel-debug.mount", "sys-kernel-tracing.mount", "systemd-journald.service"}
}

// guestService runs guestinit when the system is up. The console takes what it cannot tell the host.
const guestService = `[Unit]
Description=Tests of the guest

[Service]
ExecStart=` + handover.Guest + `
StandardOutput=tty
StandardError=tty
`

// startSystemd makes systemd the first process, and guestinit a service of it.
func (m *image) startSystemd(init string) {
	m.links["init"] = "/" + systemdProgram
	m.take(handover.Guest[1:], init)
	m.links[handover.Modprobe[1:]] = handover.Guest
	m.write("etc/machine-id", []byte("6c617470757368206775657374000001\n"))    // without one, systemd enables every unit
	m.write("etc/systemd/system.conf", []byte("[Manager]\nCrashReboot=yes\n")) // which ends the guest, and does not hang
	m.mkdir("var/tmp")
	m.links["var/run"] = "/run"
	m.write(path.Join("etc/systemd/system", guestUnit), []byte(guestService))
	m.want("multi-user.target", guestUnit, path.Join("etc/systemd/system", guestUnit))
	for _, unit := range bootUnits() {
		m.want("sysinit.target", unit, path.Join(unitFolder, unit))
	}
	m.links["etc/systemd/system/default.target"] = "/" + path.Join(unitFolder, "multi-user.target")
}

// want makes a target start a unit.
func (m *image) want(target, unit, file string) {
	folder := path.Join("etc/systemd/system", target+".wants")
	m.mkdir(folder)
	m.links[path.Join(folder, unit)] = "/" + file
}
