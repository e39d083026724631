package identity

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

const someID = "3d1219c7c4c5404aaa1f6d2a48adfda4"

func TestHostIdentity(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name      string
		hostname  string
		hostErr   error
		machineID string // no file if empty
		instance  string
		err       error
	}{
		{name: "both", hostname: "edge-1", machineID: someID + "\n", instance: "edge-1"},
		{name: "no machine id", hostname: "edge-1", instance: "edge-1"},
		{name: "machine id of a first boot", hostname: "edge-1", machineID: "uninitialized\n", instance: "edge-1"},
		{name: "empty host name", machineID: someID, instance: "machine-05f1cdb5da85"},
		{name: "kernel default", hostname: "(none)", machineID: someID, instance: "machine-05f1cdb5da85"},
		{name: "localhost", hostname: "localhost", machineID: someID, instance: "machine-05f1cdb5da85"},
		{name: "localhost with a domain", hostname: "Localhost.localdomain", machineID: someID, instance: "machine-05f1cdb5da85"},
		{name: "host name refused", hostErr: errors.New("no uts namespace"), machineID: someID, instance: "machine-05f1cdb5da85"},
		{name: "nothing", err: ErrNoInstance},
		{name: "nothing usable", hostname: "localhost", machineID: "not hexadecimal", err: ErrNoInstance},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			file := filepath.Join(t.TempDir(), "machine-id")
			if tt.machineID != "" {
				if err := os.WriteFile(file, []byte(tt.machineID), 0o444); err != nil {
					t.Fatal(err)
				}
			}
			host := read(func() (string, error) { return tt.hostname, tt.hostErr }, file)
			instance, err := host.Instance()
			if !errors.Is(err, tt.err) {
				t.Fatalf("got error %v, want %v", err, tt.err)
			}
			if instance != tt.instance {
				t.Errorf("instance %q, want %q", instance, tt.instance)
			}
			if strings.Contains(instance, someID[:12]) {
				t.Errorf("instance %q reveals the machine id", instance)
			}
		})
	}
}

func TestKeyTellsHostsApart(t *testing.T) {
	t.Parallel()
	hosts := []Host{
		{Name: "edge-1", MachineID: someID},
		{Name: "edge-2", MachineID: someID}, // a cloned image
		{MachineID: someID},
		{Name: "edge-1"},
	}
	seen := make(map[string]Host)
	for _, host := range hosts {
		if other, double := seen[host.Key()]; double {
			t.Errorf("%+v and %+v have the same key", host, other)
		}
		seen[host.Key()] = host
	}
}

func TestReadThisHost(t *testing.T) {
	t.Parallel()
	name, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	if got := Read().Name; got != ownName(name) {
		t.Errorf("host name %q, the kernel says %q", got, name)
	}
}
