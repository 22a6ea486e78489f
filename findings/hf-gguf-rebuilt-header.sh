#!/bin/sh
# @huggingface/gguf (JavaScript) rebuilds the header of a GGUF file by its own default alignment, not by the general.alignment
# that it writes into that very header, without an error: the tensor data after it are no longer where readers look.
#
# Expected: buildGgufHeader with unchanged metadata gives back the header it was made from, byte for byte, as it does for a
# file with the default alignment of 32. Also: an array of 8-bit unsigned numbers (its type's number is 0), which gguf() reads
# and many tokenizers' precompiled_charsmap is, is taken for one without a type; and the label of a file in PQ2_0, a format
# with other blocks, is said to be Q2_0. Exits non-zero when one of these is no longer so.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
npm init -y >/dev/null
npm install --silent --no-audit --no-fund --ignore-scripts @huggingface/gguf@0.4.6
cat > rebuild.mjs <<'JS'
import { readFileSync, writeFileSync } from 'node:fs';
import { buildGgufHeader, gguf, parseGGUFQuantLabel } from '@huggingface/gguf';

console.log(`@huggingface/gguf ${JSON.parse(readFileSync('node_modules/@huggingface/gguf/package.json')).version}`);

/** A file with one float tensor of 4 x 4. */
function file(alignment, more = []) {
  const parts = [];
  const u32 = (n) => parts.push(Buffer.from(new Uint32Array([n]).buffer));
  const u64 = (n) => parts.push(Buffer.from(new BigUint64Array([BigInt(n)]).buffer));
  const text = (s) => (u64(s.length), parts.push(Buffer.from(s)));
  parts.push(Buffer.from('GGUF'));
  u32(3);
  u64(1);
  u64(2 + (more.length > 0 ? 1 : 0));
  text('general.architecture');
  u32(8);
  text('llama');
  text('general.alignment');
  u32(4);
  u32(alignment);
  if (more.length > 0) {
    text('tokenizer.ggml.precompiled_charsmap');
    u32(9);
    u32(0);
    u64(more.length);
    parts.push(Buffer.from(more));
  }
  text('output_norm.weight');
  u32(2);
  u64(4);
  u64(4);
  u32(0);
  u64(0);
  const head = Buffer.concat(parts);
  return Buffer.concat([head, Buffer.alloc((alignment - (head.length % alignment)) % alignment), Buffer.alloc(64, 1)]);
}

async function rebuilt(bytes) {
  writeFileSync('model.gguf', bytes);
  const read = await gguf('model.gguf', { allowLocalFile: true, typedMetadata: true });
  const header = await buildGgufHeader(new Blob([bytes]), read.typedMetadata, {
    littleEndian: read.littleEndian,
    tensorInfoByteRange: read.tensorInfoByteRange,
  });
  writeFileSync('model.gguf', Buffer.concat([Buffer.from(await header.arrayBuffer()), bytes.subarray(Number(read.tensorDataOffset))]));
  const again = await gguf('model.gguf', { allowLocalFile: true });
  return { before: Number(read.tensorDataOffset), length: header.size, readersLookAt: Number(again.tensorDataOffset) };
}

const said = [];
for (const alignment of [32, 64, 128]) {
  const { before, length, readersLookAt } = await rebuilt(file(alignment));
  said.push(length === readersLookAt);
  console.log(`general.alignment ${alignment}: data at ${before}; rebuilt header of ${length} bytes, in which readers look at ${readersLookAt}`);
}
const refused = await rebuilt(file(32, [1, 2, 3])).then(() => 'rebuilt', (error) => error.message);
console.log(`an array of 8-bit unsigned numbers: ${refused}`);
const label = parseGGUFQuantLabel('Ternary-Model-1.7B-PQ2_0.gguf');
console.log(`the label of ...-PQ2_0.gguf: ${label}`);
const as = said[0] && !said[1] && !said[2] && /subType/.test(refused) && label === 'Q2_0';
console.log(as ? 'as found' : 'changed');
process.exit(as ? 0 : 1);
JS
node rebuild.mjs
# Seen with Node 20.20.2:
#   general.alignment 32: data at 160; rebuilt header of 160 bytes, in which readers look at 160
#   general.alignment 64: data at 192; rebuilt header of 160 bytes, in which readers look at 192
#   general.alignment 128: data at 256; rebuilt header of 160 bytes, in which readers look at 256
#   an array of 8-bit unsigned numbers: Array type requires subType to be specified
#   the label of ...-PQ2_0.gguf: Q2_0
