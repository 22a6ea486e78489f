// MLX packs that were made by rounding ternary floats, with one scale for the whole matrix: no weight decodes to -s, but
// what was -s can still be told. Packs that hold trits exactly are grouped layers.

import { affineCodes, affineTrits, decodeAffine } from '../../quant/affine.ts';
import { NonFiniteValueError, NotTernaryError } from '../../quant/errors.ts';
import type { TernaryScale } from '../../quant/ternary-scale.ts';
import { toFloat32 } from '../../quant/to-float32.ts';
import type { Checkpoint } from '../checkpoint.ts';
import { type MlxShape, mlxShape } from '../mlx-shape.ts';
import {
  checkCancelled,
  keptRanges,
  type OpenTernaryLayer,
  rowRanges,
  type TernaryLayer,
  type TernaryLayersOptions,
  TernaryWindow,
} from './layer.ts';

/** A stored value is off by the rounding of its scale and bias. */
const TOLERANCE = 2 ** -6;

export async function classifyAffine(
  checkpoint: Checkpoint,
  name: string,
  shape: MlxShape,
): Promise<TernaryLayer | string> {
  const { rows, columns, bits, group } = shape;
  if (bits === 1) return 'MLX codes of one bit whose scale is not -2 times the bias: no signs under one scale';
  const bytes = await checkpoint.readRange(name, 0, (columns * bits) / 8);
  const codes = affineCodes(bytes, { rows: 1, columns, bits, groupSize: group });
  const largest = maxDistinct(codes, group);
  if (largest > 3) return `a group of its ${bits}-bit codes has ${largest} values: floats, not trits, were quantized`;
  const scaleRule = checkpoint.has(`${name}_scale`) ? 'multiply' : 'largest';
  return { name, rows, columns, form: 'affine', scaleRule };
}

function maxDistinct(codes: Uint8Array, groupSize: number): number {
  let most = 0;
  for (let from = 0; from < codes.length; from += groupSize) {
    most = Math.max(most, new Set(codes.subarray(from, from + groupSize)).size);
  }
  return most;
}

export async function openAffine(
  checkpoint: Checkpoint,
  layer: TernaryLayer,
  options: TernaryLayersOptions & { readonly signal?: AbortSignal },
): Promise<OpenTernaryLayer> {
  const { name, rows, columns } = layer;
  const shape = mlxShape(checkpoint, name, options.config);
  if (typeof shape === 'string') throw new NotTernaryError({ what: `tensor "${name}": ${shape}` });
  const scales = toFloat32(await checkpoint.read(shape.scales));
  const biases = toFloat32(await checkpoint.read(shape.biases));
  const { bits, group: groupSize } = shape;
  const rowBytes = (columns * bits) / 8;
  const groups = columns / groupSize;
  const read = keptRanges(checkpoint, name);
  const decodeRows = async (start: number, end: number): Promise<Float32Array> => {
    const bytes = await read(start * rowBytes, end * rowBytes);
    const part = (values: Float32Array) => values.subarray(start * groups, end * groups);
    return decodeAffine(bytes, part(scales), part(biases), { columns, bits, groupSize, rows: end - start });
  };
  let largest = 0;
  for (const [start, end] of rowRanges(rows, columns * 4)) {
    checkCancelled(options.signal);
    for (const value of await decodeRows(start, end)) largest = Math.max(largest, Math.abs(value));
  }
  if (!Number.isFinite(largest)) throw new NonFiniteValueError({ name: `tensor "${name}"`, index: 0, value: largest });
  const value = layer.scaleRule === 'multiply' ? toFloat32(await checkpoint.read(`${name}_scale`))[0]! : largest || 1;
  const scale: TernaryScale = { kind: 'tensor', value };
  return {
    ...layer,
    scale: () => scale,
    async *windows({ signal } = {}) {
      for (const [start, end] of rowRanges(rows, columns * 4)) {
        checkCancelled(signal);
        const values = await decodeRows(start, end);
        checkOneScale(values, largest, { name, bits, groupSize, firstGroup: start * groups, groups });
        const weights = affineTrits(values, largest, new Int8Array(values.length)) as Int8Array<ArrayBuffer>;
        yield new TernaryWindow({ rowStart: start, rows: end - start, columns, weights });
      }
    },
  };
}

/**
 * In a group of {-s, 0, s} every value is 0, s, -s, or -s * (1 - 2^(1 - bits)). A group with another largest value has a
 * scale of its own, and the trits of the matrix cannot be told by its largest value.
 */
function checkOneScale(
  values: Float32Array,
  largest: number,
  {
    name,
    bits,
    groupSize,
    firstGroup,
    groups,
  }: { name: string; bits: number; groupSize: number; firstGroup: number; groups: number },
): void {
  const short = largest * (1 - 2 ** (1 - bits));
  const slack = largest * TOLERANCE;
  for (let i = 0; i < values.length; i++) {
    const size = Math.abs(values[i]!);
    if (size <= slack || largest - size <= slack || Math.abs(size - short) <= slack) continue;
    const group = firstGroup + Math.floor(i / groupSize);
    throw new NotTernaryError({
      what:
        `tensor "${name}" is not ternary under one scale: row ${Math.floor(group / groups)}, group ${group % groups} ` +
        `holds ${values[i]} where the largest value of the matrix is ${largest}`,
      fix: "its groups have scales of their own, and MLX's quantizer loses the value -s of such a group: take a pack made from the trits directly",
    });
  }
}
