// Layout Q8_0 of ggml: 32 values in 34 bytes, an f16 scale d and 32 int8 codes q; w = d * q.
// Source: ggml-quants.c of llama.cpp.

import { type PackedPlace, PackedSizeError } from './errors.ts';
import { f32ToF16 } from './f16.ts';
import { blockScales } from './ternary-blocks.ts';

export const Q8_BLOCK = 32;
export const Q8_BYTES = 34;

/** Fills and returns `values`, `count` of them. */
export function decodeQ8(
  bytes: Uint8Array,
  count: number,
  at?: PackedPlace,
  values: Float32Array = new Float32Array(count),
): Float32Array {
  const blocks = Math.ceil(count / Q8_BLOCK);
  if (count % Q8_BLOCK !== 0 || bytes.byteLength !== blocks * Q8_BYTES) {
    throw new PackedSizeError({
      ...(at === undefined ? {} : { at }),
      layout: 'Q8_0',
      shape: [count],
      expectedBytes: blocks * Q8_BYTES,
      actualBytes: bytes.byteLength,
    });
  }
  const scales = blockScales(bytes, Q8_BYTES, 0);
  const codes = new Int8Array(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  for (let block = 0, to = 0; block < blocks; block++) {
    const scale = scales[block]!;
    for (let from = block * Q8_BYTES + 2, end = from + Q8_BLOCK; from < end; from++)
      values[to++] = codes[from]! * scale;
  }
  return values;
}

/** Half away from zero, as C's roundf, which ggml uses here. */
function roundAway(x: number): number {
  return x < 0 ? -Math.floor(-x + 0.5) : Math.floor(x + 0.5);
}

/** Quantizes values (a multiple of 32): d = max |w| / 127 of the block, q = roundf(w / d). */
export function encodeQ8(values: Float32Array): Uint8Array<ArrayBuffer> {
  const blocks = values.length / Q8_BLOCK;
  if (!Number.isInteger(blocks)) {
    const expectedBytes = Math.ceil(blocks) * Q8_BLOCK * 4;
    throw new PackedSizeError({ layout: 'F32', shape: [values.length], expectedBytes, actualBytes: values.byteLength });
  }
  const bytes = new Uint8Array(blocks * Q8_BYTES);
  const codes = new Int8Array(bytes.buffer);
  for (let block = 0; block < blocks; block++) {
    const input = values.subarray(block * Q8_BLOCK, (block + 1) * Q8_BLOCK);
    let max = 0;
    for (let i = 0; i < Q8_BLOCK; i++) max = Math.max(max, Math.abs(input[i]!));
    const d = Math.fround(max / 127);
    const inverse = d === 0 ? 0 : Math.fround(1 / d);
    bytes.set(f32ToF16(Float32Array.of(d)), block * Q8_BYTES);
    for (let i = 0; i < Q8_BLOCK; i++) {
      codes[block * Q8_BYTES + 2 + i] = roundAway(Math.fround(input[i]! * inverse));
    }
  }
  return bytes;
}
