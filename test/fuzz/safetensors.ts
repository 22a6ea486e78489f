// Headers of safetensors files as anybody may send them.

import { BitnetError } from '../../src/errors.ts';
import { headerLength, parseSafetensorsHeader } from '../../src/formats/safetensors-header.ts';

/** Throws for what is no refusal of ours, and for tensors that do not cover the file once. */
export function fuzz(bytes: Uint8Array): void {
  const file = { path: 'fuzz.safetensors', size: bytes.byteLength };
  // Opening a file asks for this before anything else.
  if (bytes.byteLength < 8) return;
  try {
    const length = headerLength(bytes.subarray(0, 8), file);
    const { tensors } = parseSafetensorsHeader(bytes.subarray(8, 8 + length), file);
    let covered = 8 + length;
    for (const { byteLength } of tensors.values()) covered += byteLength;
    if (covered !== bytes.byteLength) throw new Error('the tensors do not cover the file');
  } catch (error) {
    if (!(error instanceof BitnetError)) throw error;
  }
}

function file(header: string, data: number): Uint8Array {
  const json = Buffer.from(header);
  const bytes = new Uint8Array(8 + json.length + data);
  new DataView(bytes.buffer).setBigUint64(0, BigInt(json.length), true);
  bytes.set(json, 8);
  return bytes;
}

/** Files that are sound, for a fuzzer to begin from. */
export const SEEDS: readonly Uint8Array[] = [
  file('{"w":{"dtype":"F16","shape":[2,3],"data_offsets":[0,12]}}', 12),
  file(
    '{"__metadata__":{"format":"pt"},"a.weight":{"dtype":"U32","shape":[1,8],"data_offsets":[0,32]},' +
      '"a.scales":{"dtype":"F16","shape":[1,1],"data_offsets":[32,34]}}',
    34,
  ),
  file('{ "w" : {"dtype":"BF16", "shape":[], "data_offsets":[0,2]}}  ', 2),
];
