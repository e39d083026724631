package vm

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"strings"
)

// initPackage is built for the guest's architecture at every run; the Go build cache makes that cheap.
const initPackage = "github.com/latpush/latpush/internal/vm/guestinit"

// BuildTest builds the test binary of a package for an architecture, static, without the symbols that nobody needs in a guest.
func BuildTest(ctx context.Context, file, arch, importPath string, tags ...string) error {
	return goTool(ctx, arch, "test", "-c", "-trimpath", "-ldflags=-s -w", "-tags="+strings.Join(tags, ","), "-o", file, importPath)
}

// Build builds a command for an architecture in the same way.
func Build(ctx context.Context, file, arch, importPath string) error {
	return goTool(ctx, arch, "build", "-trimpath", "-ldflags=-s -w", "-o", file, importPath)
}

func goTool(ctx context.Context, arch string, args ...string) error {
	cmd := exec.CommandContext(ctx, "go", args...)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH="+arch, "GOFLAGS=")
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("run go %s for %s: %w\n%s", args[0], arch, err, strings.TrimSpace(out.String()))
	}
	return nil
}
