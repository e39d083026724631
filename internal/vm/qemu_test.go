package vm

import (
	"errors"
	"strings"
	"testing"
)

func TestArguments(t *testing.T) {
	t.Parallel()
	for arch, want := range map[string][]string{
		"amd64": {"-machine q35 -accel tcg,thread=single -cpu max,cx16=off ", "console=ttyS0 ", "oops=panic", "-no-reboot", "-smp 2 -m 2048", "-kernel K -initrd I", "name=latpush.report"},
		"arm64": {"-machine virt -accel tcg,thread=single -cpu max,pauth=off ", "console=ttyAMA0 ", "oops=panic", "-no-reboot", "-smp 2 -m 2048", "-kernel K -initrd I"},
	} {
		m, err := machineOf(arch)
		if err != nil {
			t.Fatal(err)
		}
		line := strings.Join(m.arguments("K", "I"), " ")
		for _, part := range want {
			if !strings.Contains(line, part) {
				t.Errorf("%s: %q is not in %s", arch, part, line)
			}
		}
	}
	if _, err := machineOf("riscv64"); err == nil {
		t.Error("an unknown architecture gives no error")
	}
}

func TestReadyNamesThePackage(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	for arch, apt := range map[string]string{"amd64": "qemu-system-x86", "arm64": "qemu-system-arm"} {
		if err := Ready(arch); !errors.Is(err, ErrNoQEMU) || !strings.Contains(err.Error(), "apt-get install "+apt+")") {
			t.Errorf("%s: error is %v", arch, err)
		}
	}
}
