package debian

import (
	"errors"
	"fmt"
	"path/filepath"
	"strings"
)

// errControl marks a package record that cannot be read.
var errControl = errors.New("bad control record")

// Package is one exact version of a package.
type Package struct {
	Name    string `json:"name"`
	Version string `json:"version"`
	Arch    string `json:"arch"` // amd64, arm64 or all
}

// String returns name_version_arch, as Debian names the file of a package.
func (p Package) String() string {
	return p.Name + "_" + p.Version + "_" + p.Arch
}

// folder is where the package lies unpacked below the cache's package folder. An epoch's colon is written as apt does it.
func (p Package) folder(packages string) string {
	return filepath.Join(packages, strings.ReplaceAll(p.String(), ":", "%3a"))
}

// Control is what the archive says about a package, as far as it is needed here.
type Control struct {
	Package
	Depends []Dependency // Pre-Depends and Depends; of alternatives only the first
}

// Dependency is one package that another one needs.
type Dependency struct {
	Name  string
	Exact string // the version after "=", else empty
}

// parseControl reads the first record of apt-cache show.
func parseControl(text []byte) (Control, error) {
	var c Control
	for line := range strings.Lines(string(text)) {
		line = strings.TrimRight(line, "\n")
		if line == "" {
			break
		}
		key, value, ok := strings.Cut(line, ":")
		if !ok || strings.HasPrefix(line, " ") { // a continuation line belongs to a field that is not read here
			continue
		}
		value = strings.TrimSpace(value)
		switch key {
		case "Package":
			c.Name = value
		case "Version":
			c.Version = value
		case "Architecture":
			c.Arch = value
		case "Depends", "Pre-Depends":
			c.Depends = append(c.Depends, parseDepends(value)...)
		}
	}
	for field, value := range map[string]string{"Package": c.Name, "Version": c.Version, "Architecture": c.Arch} {
		if value == "" || strings.ContainsAny(value, "/ \t") {
			return Control{}, fmt.Errorf("%w: field %s is %q", errControl, field, value)
		}
	}
	return c, nil
}

// parseDepends reads a list such as "libc6 (>= 2.34), dracut | initramfs-tools, linux-modules-7.2 (= 7.2.13-1)".
func parseDepends(list string) []Dependency {
	var deps []Dependency
	for item := range strings.SplitSeq(list, ",") {
		first, _, _ := strings.Cut(item, "|")
		name, bound, _ := strings.Cut(strings.TrimSpace(first), " ")
		name, _, _ = strings.Cut(name, ":") // libc6:any
		if name == "" {
			continue
		}
		d := Dependency{Name: name}
		if version, ok := strings.CutPrefix(strings.Trim(bound, " ()"), "= "); ok {
			d.Exact = strings.TrimSpace(version)
		}
		deps = append(deps, d)
	}
	return deps
}
