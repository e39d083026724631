package objects

import "embed"

const suffix = "_arm64.o"

//go:embed *_arm64.o
var files embed.FS
