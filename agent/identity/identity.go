// Package identity finds out which host this is.
//
// What enters is the kernel's host name and /etc/machine-id; what leaves is the default `instance` label and the text that spreads a
// fleet's ticks. Either source may be missing: an image that was cloned shares its machine id, a host that got no name from its network
// is called localhost. Only when both are useless is there no instance, and the configuration has to name one.
package identity

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"os"
	"strings"
)

// Host is the identity of this host at one moment.
type Host struct {
	// Name is the host name, empty if the host has none of its own.
	Name string
	// MachineID is the content of /etc/machine-id, empty if it is missing or not initialised. It is confidential and never leaves the host.
	MachineID string
}

// ErrNoInstance is returned when neither the host name nor the machine id tells hosts apart.
var ErrNoInstance = errors.New("no host name and no machine id (set external_labels: {instance: <a name of its own>}, or run hostnamectl set-hostname)")

// Read asks the kernel for the host name and reads the machine id.
func Read() Host {
	return read(os.Hostname, "/etc/machine-id")
}

func read(hostname func() (string, error), machineIDFile string) Host {
	var host Host
	// An error leaves the name empty, which Instance and Key provide for.
	if name, err := hostname(); err == nil {
		host.Name = ownName(name)
	}
	if text, err := os.ReadFile(machineIDFile); err == nil {
		host.MachineID = machineID(string(text))
	}
	return host
}

// ownName returns an empty string for the names that the kernel and the distributions give to hosts that nobody named.
func ownName(name string) string {
	name = strings.TrimSpace(name)
	switch strings.ToLower(name) {
	case "", "(none)", "localhost", "localhost.localdomain":
		return ""
	}
	return name
}

// machineID returns an empty string unless the text is an id: systemd writes "uninitialized" during the first boot.
func machineID(text string) string {
	text = strings.TrimSpace(text)
	if id, err := hex.DecodeString(text); err != nil || len(id) != 16 {
		return ""
	}
	return text
}

// Instance is the default value of the label `instance`: the host name, or else a name made from the machine id that does not reveal it.
func (h Host) Instance() (string, error) {
	switch {
	case h.Name != "":
		return h.Name, nil
	case h.MachineID != "":
		mac := hmac.New(sha256.New, []byte(h.MachineID))
		mac.Write([]byte("latpush instance"))
		return "machine-" + hex.EncodeToString(mac.Sum(nil)[:6]), nil
	}
	return "", ErrNoInstance
}

// Key is a text that differs between hosts even if they share their machine id (cloned images) or their name (localhost).
func (h Host) Key() string { return h.MachineID + "/" + h.Name }
