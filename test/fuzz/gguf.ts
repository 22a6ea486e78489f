// GGUF files as anybody may send them: header, tensor table, and the codes of the grouped types.

import { BitnetError } from '../../src/errors.ts';
import { type GgufHeader, placeTensors, readGgufHeader } from '../../src/formats/gguf-header.ts';
import { GgufArray } from '../../src/formats/gguf-values.ts';
import { decodeBlocks, encodeBlocks, isBlockLayout } from '../../src/quant/grouped/codec.ts';
import { canonicalGroup, groupedValues } from '../../src/quant/grouped/grouped-matrix.ts';
import { fromPanel64, toPanel64 } from '../../src/quant/grouped/panel64.ts';

const MAX_WEIGHTS = 2 ** 16;

/** Throws for what is no refusal of ours, for codes that do not encode back, and for weights that panels change. */
export async function fuzz(bytes: Uint8Array): Promise<void> {
  const file = {
    path: 'fuzz.gguf',
    size: bytes.byteLength,
    readInto: async (out: Uint8Array, position: number) => out.set(bytes.subarray(position, position + out.byteLength)),
  };
  // Opening a file asks for this before anything else.
  if (bytes.byteLength < 24) return;
  const header = await refused(() => readGgufHeader(file));
  if (header === undefined) return;
  readMetadata(header);
  const tensors = await refused(async () => placeTensors([{ file, header }]));
  for (const { dtype, shape, offset, byteLength } of tensors?.values() ?? []) {
    if (offset + byteLength > bytes.byteLength) throw new Error('a tensor leaves the file');
    if (!isBlockLayout(dtype) || shape.length !== 2) continue;
    const [rows, columns] = shape as [number, number];
    if (rows * columns === 0 || rows * columns > MAX_WEIGHTS) continue;
    const part = bytes.slice(offset, offset + byteLength);
    const matrix = await refused(async () => decodeBlocks(dtype, part, rows, columns));
    if (matrix === undefined) continue;
    const again = decodeBlocks(dtype, encodeBlocks(dtype, matrix), rows, columns);
    if (Buffer.compare(again.quads, matrix.quads) !== 0) throw new Error('codes do not survive their layout');
    const panels = await toPanel64(canonicalGroup(matrix));
    const [before, after] = [groupedValues(matrix), groupedValues(fromPanel64(panels))];
    if (before.some((value, i) => value !== after[i])) throw new Error('weights do not survive the canonical group');
  }
}

function readMetadata({ entries }: GgufHeader): void {
  for (const { value } of entries.values()) if (value instanceof GgufArray) value.values();
}

async function refused<T>(work: () => Promise<T>): Promise<T | undefined> {
  try {
    return await work();
  } catch (error) {
    if (error instanceof BitnetError) return undefined;
    throw error;
  }
}

/** A file of one matrix [16, 128] of each type that holds groups, for a fuzzer to begin from. */
export const SEEDS: readonly Uint8Array[] = [
  [41, 18],
  [42, 34],
  [42, 36],
  [142, 34],
  [143, 28],
].map(([type, blockBytes]) => smallFile(type!, 16 * blockBytes!));

function smallFile(type: number, bytes: number): Uint8Array {
  const u32 = (value: number) => [value & 255, (value >> 8) & 255, (value >> 16) & 255, value >>> 24];
  const u64 = (value: number) => [...u32(value), 0, 0, 0, 0];
  const text = (value: string) => [...u64(value.length), ...Buffer.from(value)];
  const header = [
    ...Buffer.from('GGUF'),
    ...u32(3),
    ...u64(2),
    ...u64(2),
    ...[...text('general.architecture'), ...u32(8), ...text('qwen3')],
    ...[...text('a'), ...u32(9), ...u32(4), ...u64(2), ...u32(1), ...u32(2)],
    ...[...text('w'), ...u32(2), ...u64(128), ...u64(16), ...u32(type), ...u64(0)],
    ...[...text('n'), ...u32(1), ...u64(8), ...u32(0), ...u64(Math.ceil(bytes / 32) * 32)],
  ];
  const pad = (size: number) => Math.ceil(size / 32) * 32;
  const file = new Uint8Array(pad(header.length) + pad(bytes) + 32);
  file.set(header);
  for (let i = 0; i < bytes; i++) file[pad(header.length) + i] = (i * 37) & 0x5a;
  return file;
}
