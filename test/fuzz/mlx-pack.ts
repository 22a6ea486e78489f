// MLX packs as anybody may send them: what config.json says of them, and words, scales and biases.

import { BitnetError } from '../../src/errors.ts';
import type { Checkpoint, TensorInfo } from '../../src/formats/checkpoint.ts';
import { groupedTensor } from '../../src/formats/grouped-tensor.ts';
import { FLOAT_BYTES, type FloatType, floatsOf } from '../../src/quant/grouped/floats.ts';
import { groupedValues } from '../../src/quant/grouped/grouped-matrix.ts';
import { decodeMlx } from '../../src/quant/grouped/mlx.ts';

const TYPES: readonly FloatType[] = ['F16', 'BF16', 'F32'];

/**
 * Byte 0: bits and the type of scales; bytes 1 .. 4: sizes; the rest: data, or the text of a config. Throws for what is no
 * refusal of ours, and for weights that are not what MLX computes.
 */
export function fuzz(bytes: Uint8Array): void {
  const [choice = 0, a = 0, b = 0, c = 0, d = 0] = bytes;
  const rest = bytes.subarray(5);
  const scaleType = TYPES[choice % 3]!;
  shapes({ words: [a, b], scales: [c, d], scaleType, config: rest });
  const bits = choice & 4 ? 1 : 2;
  const group = [32, 64, 128, 48][a % 4]!;
  const [rows, groups] = [1 + (b % 4), 1 + (c % 4)];
  const columns = group * groups;
  const sizes = [(rows * columns * bits) / 8, ...[1, 1].map(() => rows * groups * FLOAT_BYTES[scaleType])];
  const [weight, scales, biases] = sizes.map((size, i) => {
    const from = sizes.slice(0, i).reduce((sum, before) => sum + before, 0);
    const part = new Uint8Array(size);
    part.set(rest.subarray(from, from + size));
    return part;
  }) as [Uint8Array, Uint8Array, Uint8Array];
  refused(() => {
    const values = groupedValues(decodeMlx({ bits, group, weight, scales, biases, scaleType }, rows, columns));
    const [scale, bias] = [floatsOf(scales, scaleType), floatsOf(biases, scaleType)];
    for (let i = 0; i < values.length; i++) {
      const code = (weight[Math.floor((i * bits) / 8)]! >> ((i * bits) % 8)) & (bits === 1 ? 1 : 3);
      const g = Math.floor(i / group);
      if (Math.fround(scale[g]! * code + bias[g]!) !== values[i]) throw new Error('a weight is not what MLX computes');
    }
  });
}

function shapes(made: {
  readonly words: number[];
  readonly scales: number[];
  readonly scaleType: FloatType;
  readonly config: Uint8Array;
}): void {
  let config: unknown;
  try {
    config = JSON.parse(Buffer.from(made.config).toString('utf8'));
  } catch {
    return;
  }
  if (typeof config !== 'object' || config === null) return;
  const info = (name: string): TensorInfo => {
    const isWords = name.endsWith('.weight');
    const shape = isWords ? made.words : made.scales;
    return { name, dtype: isWords ? 'U32' : made.scaleType, shape, byteLength: 0, file: 'x', offset: 0 };
  };
  const checkpoint = { has: () => true, info } as unknown as Checkpoint;
  refused(() => {
    const found = groupedTensor(checkpoint, 'w.weight', config as Record<string, unknown>);
    if (typeof found === 'string') return;
    if (found.columns !== found.group! * made.scales[1]! || found.rowBytes !== 4 * made.words[1]!) {
      throw new Error('a shape that its tensors do not have');
    }
  });
}

function refused(work: () => void): void {
  try {
    work();
  } catch (error) {
    if (!(error instanceof BitnetError)) throw error;
  }
}

/** Packs that are sound, for a fuzzer to begin from. */
export const SEEDS: readonly Uint8Array[] = [
  Uint8Array.of(0, 0, 0, 0, 0, ...Buffer.from('e485494949494949', 'hex'), 0, 0x2c, 0, 0xac),
  Uint8Array.of(4, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0x3c, 0, 0xb8),
  Uint8Array.of(0, 2, 16, 2, 2, ...Buffer.from('{"quantization":{"group_size":128,"bits":2,"w":{"group_size":64}}}')),
];
