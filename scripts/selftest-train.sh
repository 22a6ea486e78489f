#!/bin/sh
# Builds and runs kernels/train/selftest.cc: every instruction set that runs here against the scalar kernels, bit for bit.
#   scripts/selftest-train.sh [--bench]
# For Arm: CXX=aarch64-linux-gnu-g++ RUN="qemu-aarch64-static -cpu max" ARCH=aarch64 scripts/selftest-train.sh
set -eu
here=$(cd "$(dirname "$0")/../kernels/train" && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
CXX=${CXX:-c++}
flags="-std=c++17 -O3 -ffp-contract=off -fno-math-errno -fno-trapping-math -Wno-psabi"
isas=""
sources="isa_scalar.cc selftest.cc"
build() { $CXX $flags "$@"; }
if [ "${ARCH:-$(uname -m)}" = aarch64 ]; then
  build -c "$here/isa_neon.cc" -o "$work/neon.o"
  isas="-DBITNET_WITH_NEON"
else
  build -mavx2 -mfma -c "$here/isa_avx2.cc" -o "$work/avx2.o"
  build -mavx512f -mavx512bw -mavx512vl -mavx512dq -mavx2 -mfma -c "$here/isa_avx512.cc" -o "$work/avx512.o"
  isas="-DBITNET_WITH_AVX2 -DBITNET_WITH_AVX512"
fi
build $isas -c "$here/isa.cc" -o "$work/isa.o"
for source in $sources; do build -c "$here/$source" -o "$work/$source.o"; done
$CXX "$work"/*.o -static-libstdc++ ${STATIC:-} -o "$work/selftest"
${RUN:-} "$work/selftest" "$@"
