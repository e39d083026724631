#!/bin/sh
# generate.sh OUT: compiles the programs beside this script for amd64 and arm64 into OUT/objects, those for tests alone into OUT/selftest. The
# objects depend on the sources, on clang 19 and on the headers of libbpf-dev and linux-libc-dev alone: paths and the compiler's name are
# kept out of them.
set -eu
mkdir -p "$1/objects" "$1/selftest"
out=$(cd "$1" && pwd)
cd "$(dirname "$0")"
include=/usr/include/$(gcc -print-multiarch)
compile() { # SOURCE FOLDER ARCHITECTURE TARGET
	object=$out/$2/$(basename "$1" .bpf.c)_$3.o
	clang-19 -target bpf -mcpu=v3 -O2 -g -Wall -Wextra -Wno-unused-parameter -Werror -D"__TARGET_ARCH_$4" -I. -idirafter "$include" \
		-fno-ident -fdebug-compilation-dir=. -fdebug-prefix-map="$PWD"=. -c "$1" -o "$object"
	llvm-strip-19 -g "$object"
}
for source in *.bpf.c; do
	compile "$source" objects amd64 x86
	compile "$source" objects arm64 arm64
done
for source in selftest/*.bpf.c; do
	compile "$source" selftest amd64 x86
	compile "$source" selftest arm64 arm64
done
