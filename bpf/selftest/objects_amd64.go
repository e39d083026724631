package selftest

import "embed"

const suffix = "_amd64.o"

//go:embed *_amd64.o
var files embed.FS
